"""What the gate asks of every object: the source's patient and study, one device, whole file meta.

A problem never quotes what identifies a patient.
"""

from collections.abc import Iterator, Sequence

from pydicom import Dataset
from pydicom.sr.codedict import codes

from inference.assessment import ModelIdentity
from inference.volume import Volume
from sr_writer.header import (
    ALWAYS_PRESENT,
    CONTENT_QUALIFICATION,
    COPIED_IF_PRESENT,
    referenced_request,
)
from sr_writer.identifiers import device_uid
from sr_writer.source_conformance import Sources

NEVER_EMPTY = (  # whatever the IOD says: what we are, and where the object belongs
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "SeriesDescription",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "DeviceUID",
    "SpecificCharacterSet",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "ContributingEquipmentSequence",
)
IDENTITY = ("StudyInstanceUID", *ALWAYS_PRESENT, *COPIED_IF_PRESENT)
EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID")


def check_object(made: Dataset, modality: str) -> Iterator[str]:
    """Yield where an object does not say what it is, and what made it."""
    for keyword in NEVER_EMPTY:
        if made.get(keyword) in (None, "", []):
            yield f"lacks {keyword}, which must have a value; write it"
    if made.get("ContentQualification") != CONTENT_QUALIFICATION:
        yield f"ContentQualification is not {CONTENT_QUALIFICATION}; nobody has approved a model"
    if made.get("Modality") != modality:
        yield f"Modality is {made.get('Modality')}; {modality} belongs there"
    yield from _check_file_meta(made)
    yield from _check_equipment(made)


def check_speaker(made: Dataset, model: ModelIdentity) -> Iterator[str]:
    """Yield where an object does not say that `model` made it."""
    if made.get("DeviceUID") != device_uid(model):
        yield "DeviceUID is not that of the model; derive it from the model's digest"
    if made.get("ManufacturerModelName") != model.name:
        yield "ManufacturerModelName is not the model's name; take it from the assessment"
    if made.get("Manufacturer") != model.manufacturer:
        yield "Manufacturer is not the model's; take it from the assessment"


def check_completeness(made: Dataset, volume: Volume) -> Iterator[str]:
    """Yield where a document is said to be complete, though images of the series are missing."""
    missing = volume.verdict.missing_slices
    if missing and made.get("CompletionFlag") == "COMPLETE":
        yield f"CompletionFlag is COMPLETE, but {missing} slices are missing; write PARTIAL"


def _check_file_meta(made: Dataset) -> Iterator[str]:
    meta = getattr(made, "file_meta", Dataset())
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if meta.get(f"MediaStorage{keyword}") != made.get(keyword):
            yield f"MediaStorage{keyword} is not {keyword}; write the file meta again"
    for keyword in ("TransferSyntaxUID", "ImplementationClassUID"):
        if not meta.get(keyword):
            yield f"lacks {keyword}; write the file meta again"


def check_identity(made: Dataset, sources: Sources) -> Iterator[str]:
    """Yield what differs from the source; where its instances disagree, from every one of them."""
    header = sources.headers[0]
    for keyword in IDENTITY:
        if not _same(made, header, keyword) and not any(
            _same(made, other, keyword) for other in sources.others
        ):
            yield f"{keyword} is not the source's; copy it from the source, never from elsewhere"
    orders = made.get("ReferencedRequestSequence")
    if orders is not None and not (
        _asks_for(orders, header) or any(_asks_for(orders, each) for each in sources.others)
    ):
        yield "ReferencedRequestSequence is not the source's order; copy it from the source"
    if made.get("SeriesInstanceUID") == header.SeriesInstanceUID:
        yield "SeriesInstanceUID is the source's; results need a series of their own"


def _same(made: Dataset, header: Dataset, keyword: str) -> bool:
    if keyword.endswith("Sequence"):
        return _plain(made.get(keyword, [])) == _plain(header.get(keyword, []))
    return str(made.get(keyword) or "") == str(header.get(keyword) or "")


def _asks_for(orders: Sequence[Dataset], header: Dataset) -> bool:
    return _plain(orders) == _plain(referenced_request(header))


def _plain(items: Sequence[Dataset]) -> list[dict[int, object]]:
    """Return what items say; that nothing is said may be written in more than one way."""
    return [
        {
            element.tag: _plain(element.value) if element.VR == "SQ" else str(element.value or "")
            for element in item
        }
        for item in items
    ]


def _check_equipment(made: Dataset) -> Iterator[str]:
    ours = [item for item in made.get("ContributingEquipmentSequence", []) if _is_processing(item)]
    if len(ours) != 1:
        yield f"ContributingEquipmentSequence has {len(ours)} items for us; write exactly one"
        return
    for keyword in EQUIPMENT:
        if not ours[0].get(keyword):
            yield f"ContributingEquipmentSequence lacks {keyword}; write it"
        elif ours[0].get(keyword) != made.get(keyword):
            yield f"{keyword} differs between equipment and ContributingEquipmentSequence; unify it"


def _is_processing(item: Dataset) -> bool:
    purposes = item.get("PurposeOfReferenceCodeSequence", [])
    return any(
        (code.get("CodeValue"), code.get("CodingSchemeDesignator"))
        == (codes.DCM.ProcessingEquipment.value, "DCM")
        for code in purposes
    )
