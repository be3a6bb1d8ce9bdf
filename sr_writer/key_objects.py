"""Key Object Selection (PS3.3 A.35.4, TID 2010) of the images that show a finding."""

from collections.abc import Sequence

from highdicom import sr
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom import Dataset
from pydicom.sr.codedict import codes

from inference.assessment import ModelIdentity
from sr_writer.coding import SOURCE
from sr_writer.encoding import UTF_8
from sr_writer.header import constructor_header, referenced_request, series_number, stamp
from sr_writer.identifiers import object_uid
from sr_writer.key_images import KeyImage
from sr_writer.observer import device_observer
from sr_writer.provenance import Provenance
from sr_writer.source_images import SourceImage, each_once
from sr_writer.wording import notice

SERIES_DESCRIPTION = "Overread AI key objects (unverified)"
SERIES_OFFSET = 7


def write_key_objects(
    pictures: Sequence[KeyImage],
    images: Sequence[SourceImage],
    model: ModelIdentity,
    provenance: Provenance,
) -> KeyObjectSelectionDocument | None:
    """Write a document that selects the source images of the pictures that show something.

    `images` are those that the pictures count. None is written where nothing was found: a selection
    needs an object (PS3.16 TID 2010), and one that shows nothing is of no interest.
    """
    selected = each_once(images[picture.index] for picture in pictures if picture.shows)
    if not selected:
        return None
    first = images[0].header
    content = KeyObjectSelection(
        document_title=codes.DCM.OfInterest,
        referenced_objects=[image.header for image in selected[:1]],
        observer_device_context=device_observer(model, provenance),
        description=notice(model),
    )
    items = content[0].ContentSequence
    del items[-1]  # highdicom knows no frame numbers: its items are written anew
    for image in selected:
        items.append(_selected(image))
    instances = {image.header.SOPInstanceUID: image.header for image in selected}
    made = KeyObjectSelectionDocument(
        evidence=_evidence(list(instances.values()), first),
        content=content,
        series_instance_uid=object_uid("KO series", model, provenance),
        series_number=series_number(first, SERIES_OFFSET),
        sop_instance_uid=object_uid("KO", model, provenance),
        instance_number=1,
        manufacturer=model.manufacturer,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.digest[:64],
        series_description=SERIES_DESCRIPTION,
        requested_procedures=referenced_request(first) or None,
        specific_character_set=UTF_8,
    )
    for item in made.ContentSequence:
        if item.ValueType == "IMAGE":  # TID 2010 lets images have no purpose of reference
            del item.ConceptNameCodeSequence
    stamp(made, first, model, provenance)
    return made


def _evidence(headers: Sequence[Dataset], first: Dataset) -> list[Dataset]:
    """Return the evidence, the patient and study on the first, as highdicom takes them from it."""
    carrier = constructor_header(first)
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        carrier[keyword] = headers[0][keyword]
    return [carrier, *headers[1:]]


def _selected(image: SourceImage) -> sr.ImageContentItem:
    return sr.ImageContentItem(
        name=SOURCE,
        referenced_sop_class_uid=image.header.SOPClassUID,
        referenced_sop_instance_uid=image.header.SOPInstanceUID,
        referenced_frame_numbers=image.frame,
        relationship_type=Relation.CONTAINS,
    )
