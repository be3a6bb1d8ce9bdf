"""Who observed what a document says: the model, a device (PS3.16 TID 1002, TID 1004)."""

from highdicom import sr
from pydicom.sr.codedict import codes

from inference.assessment import ModelIdentity
from sr_writer.identifiers import device_uid
from sr_writer.provenance import Provenance


def device_observer(model: ModelIdentity, provenance: Provenance) -> sr.ObserverContext:
    """Return the model as the observer, with the Device UID that equipment items have too."""
    return sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(model),
            name=f"{model.name} {model.version}",
            manufacturer_name=model.manufacturer,
            model_name=model.name,
            serial_number=model.digest[:64],
            physical_location=provenance.station_name,
        ),
    )
