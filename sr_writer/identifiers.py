"""UIDs that follow from what they name, so that a retry makes the same object, not a second one."""

from typing import NamedTuple
from uuid import UUID, uuid5

from pydicom.uid import UID

from inference.assessment import Finding, ModelIdentity, Segment
from sr_writer.provenance import Provenance

NAMESPACE = UUID("0d9b5b0e-6c0b-5c57-9f0e-7d0f6a3c1e52")
SEPARATOR = "\x1f"
"""Unit separator: cannot occur in a UID, a digest or a label, so parts never run together."""


class Tracking(NamedTuple):
    """Tracking identifier and tracking UID (TID 4108), of a segment the same in SR and SEG."""

    identifier: str
    uid: UID


def derive_uid(*parts: str) -> UID:
    """Return the UID (2.25 root, PS3.5 Section B.2) that always belongs to `parts`."""
    return UID(f"2.25.{uuid5(NAMESPACE, SEPARATOR.join(parts)).int}")


IMPLEMENTATION_UID = derive_uid("implementation", "Overread")
"""Implementation Class UID of what this software writes and answers (PS3.7 Section D.3.3.2)."""


def device_uid(model: ModelIdentity) -> UID:
    """Return the Device UID of a model: its weights and preprocessing, wherever it runs."""
    return derive_uid("device", model.digest)


def object_uid(kind: str, model: ModelIdentity, provenance: Provenance) -> UID:
    """Return the SOP Instance UID, Series Instance UID, ... of what `kind` names."""
    return derive_uid(kind, provenance.content, model.digest)


def tracking(segment: Segment, model: ModelIdentity, provenance: Provenance) -> Tracking:
    """Return the tracking of one segment's region of interest."""
    number = str(segment.number)
    uid = derive_uid("tracking", provenance.content, model.digest, number)
    return Tracking(f"{segment.label} {number}", uid)


def finding_tracking(finding: Finding, model: ModelIdentity, provenance: Provenance) -> Tracking:
    """Return the tracking of a finding that has slices for evidence and no segment."""
    uid = derive_uid("finding tracking", provenance.content, model.digest, finding.name)
    return Tracking(finding.name, uid)
