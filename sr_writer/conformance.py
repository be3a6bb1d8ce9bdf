"""The gate: what we would be ashamed to send does not leave.

It reads the objects as a receiver would, by DICOM attributes alone, and compares them with the
source and with each other. A problem is a sentence: which object, which attribute, what is wrong,
what to do. It never quotes what identifies a patient, so it may be logged.
"""

from collections.abc import Callable, Iterator, Sequence

from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings
from pydicom.sr.codedict import codes
from pydicom.uid import UID, Comprehensive3DSRStorage, SegmentationStorage
from pydicom.valuerep import DA, TM

from inference.assessment import ModelIdentity
from inference.volume import Volume
from sr_writer.content_items import walk
from sr_writer.header import ALWAYS_PRESENT, COPIED_IF_PRESENT, UTF_8, plain_headers
from sr_writer.identifiers import device_uid
from sr_writer.report_conformance import check_report
from sr_writer.segmentation_conformance import (
    POSITION_TOLERANCE_MM,
    check_segmentation,
    is_close,
)
from sr_writer.source_images import SourceImage, source_images
from sr_writer.wording import DEMONSTRATION

NEVER_EMPTY = (  # Type 1 in the IODs that we write (PS3.3 A.35.13, A.51)
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "SpecificCharacterSet",
    "ContentDate",
    "ContentTime",
    "ContributingEquipmentSequence",
)
DATES = ("InstanceCreationDate", "SeriesDate", "ContentDate")
TIMES = ("InstanceCreationTime", "SeriesTime", "ContentTime")
SHARED_BY_SOURCES = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber")
IDENTITY = ("StudyInstanceUID", *ALWAYS_PRESENT, *COPIED_IF_PRESENT)
EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID")
TEXT_VRS = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "PN"})

MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What reading an object raises that lacks, say, its PixelSpacing: itself a reason not to send."""

MODALITIES = {Comprehensive3DSRStorage: "SR", SegmentationStorage: "SEG"}
Check = Callable[
    [Dataset, Sequence[Dataset], Sequence[SourceImage], Sequence[Dataset]], Iterator[str]
]
BY_CLASS: dict[UID, Check] = {
    Comprehensive3DSRStorage: check_report,
    SegmentationStorage: check_segmentation,
}


def check_objects(
    objects: Sequence[Dataset],
    sources: Sequence[Dataset],
    volume: Volume | None = None,
    *,
    model: ModelIdentity | None = None,
) -> list[str]:
    """Return what is wrong with `objects`, the results of one study; empty if all may leave.

    Parameters
    ----------
    objects
        Everything that is to be sent, the SR and the SEG that it refers to together.
    sources
        Headers of every instance of the series that was assessed, in any order.
    volume
        What was made of them; the results may lie on and refer to its images only. None where there
        is none: then each instance is an image.
    model
        Who is meant to speak; where it is given, the objects have to say so.
    """
    if not objects or not sources:
        return ["there are no objects or no source instances to check them against"]
    try:
        headers = plain_headers(sources)
        images = [SourceImage(header) for header in headers]
        if volume is not None:
            images = source_images(volume)
    except ValueError as error:
        return [f"source: {error}"]
    problems = list(_check_sources(headers))
    try:
        problems += dict.fromkeys(_check_images(images, headers, sources))
    except MALFORMED as error:
        problems.append(f"source: cannot be checked ({error!r}); have it resent")
    uids = [made.get("SOPInstanceUID") for made in objects]
    known = {header.SOPInstanceUID for header in headers}
    if len(set(uids)) < len(uids) or known & set(uids):
        problems.append("objects: SOPInstanceUID is not unique; give each object its own")
    for made in objects:
        kind = MODALITIES.get(made.get("SOPClassUID"))
        if kind is None:
            problems.append(
                f"object of SOP class {made.get('SOPClassUID')}: no rules to check it by"
            )
            continue
        siblings = [other for other in objects if other is not made]
        try:
            found = [*_check_object(made, headers[0], sources)]
            found += BY_CLASS[made.SOPClassUID](made, headers, images, siblings)
            found += _check_speaker(made, model)
            found += _check_completeness(made, volume)
        except MALFORMED as error:
            found = [f"cannot be checked ({error!r}); write it again"]
        problems += [f"{kind}: {problem}" for problem in dict.fromkeys(found)]
    return problems


def _check_sources(headers: Sequence[Dataset]) -> Iterator[str]:
    for keyword in SHARED_BY_SOURCES:
        if len({str(header.get(keyword) or "") for header in headers}) > 1:
            yield f"source: {keyword} differs between instances; send one series of one study"


def _check_images(
    images: Sequence[SourceImage], headers: Sequence[Dataset], sources: Sequence[Dataset]
) -> Iterator[str]:
    """Yield where an image is not what its instance holds, read anew (PS3.3 C.7.6.16.2.3)."""
    stored = {
        str(header.SOPInstanceUID): source for header, source in zip(headers, sources, strict=True)
    }
    for image in images:
        uid, frame = image.reference
        if uid not in stored:
            yield "source: the volume has an image of another series; make the volume again"
            continue
        if frame is not None and not 1 <= frame <= int(stored[uid].get("NumberOfFrames") or 1):
            yield f"source: {uid} has no frame {frame}; make the volume again"
            continue
        expected = None if image.is_tile else _stored_position(stored[uid], frame)
        position = image.header.get("ImagePositionPatient")
        if expected and not is_close(position, expected, POSITION_TOLERANCE_MM):
            yield f"source: {uid} does not lie where the volume has it; make the volume again"


def _stored_position(source: Dataset, frame: int | None) -> Sequence[float] | None:
    """Return the position that an instance gives for itself or its frame, None without any."""
    holders = [source]
    if frame is not None:
        groups = [
            *source.get("PerFrameFunctionalGroupsSequence", [])[frame - 1 : frame],
            *source.get("SharedFunctionalGroupsSequence", []),
        ]
        holders = [each for group in groups for each in group.get("PlanePositionSequence", [])]
    positions: list[Sequence[float] | None] = [
        holder.get("ImagePositionPatient") for holder in holders
    ]
    return positions[0] if positions else None


def _check_object(made: Dataset, header: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    yield from _check_required(made)
    yield from _check_identity(made, header, sources)
    yield from _check_values(made)
    yield from _check_equipment(made)


def _check_required(made: Dataset) -> Iterator[str]:
    for keyword in NEVER_EMPTY:
        if made.get(keyword) in (None, "", []):
            yield f"lacks {keyword}, which must have a value; write it"
    for keyword in ALWAYS_PRESENT:
        if keyword not in made:
            yield f"lacks {keyword}, which may be empty but not missing; write it"
    if made.get("Modality") != MODALITIES[made.SOPClassUID]:
        yield f"Modality is {made.get('Modality')}; {MODALITIES[made.SOPClassUID]} belongs there"
    if made.get("SpecificCharacterSet") != UTF_8:
        yield f"SpecificCharacterSet is {made.get('SpecificCharacterSet')}; write {UTF_8}"
    meta = getattr(made, "file_meta", Dataset())
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if meta.get(f"MediaStorage{keyword}") != made.get(keyword):
            yield f"MediaStorage{keyword} is not {keyword}; write the file meta again"
    if not meta.get("TransferSyntaxUID"):
        yield "lacks TransferSyntaxUID; write the file meta again"


def _check_identity(made: Dataset, header: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    """Yield what differs from the source; where its instances disagree, from every one of them."""
    for keyword in IDENTITY:
        if not _same(made, header, keyword) and not any(
            _same(made, plain_headers([source])[0], keyword) for source in sources[1:]
        ):
            yield f"{keyword} is not the source's; copy it from the source, never from elsewhere"
    if made.get("SeriesInstanceUID") == header.SeriesInstanceUID:
        yield "SeriesInstanceUID is the source's; results need a series of their own"


def _same(made: Dataset, header: Dataset, keyword: str) -> bool:
    if keyword.endswith("Sequence"):
        return bool(made.get(keyword) == header.get(keyword))
    return str(made.get(keyword) or "") == str(header.get(keyword) or "")


def _check_values(made: Dataset) -> Iterator[str]:
    for keywords, parse in ((DATES, DA), (TIMES, TM)):
        for keyword in keywords:
            try:
                parse(made.get(keyword))
            except ValueError:
                yield f"{keyword} is no {parse.__name__} value; write it as PS3.5 Section 6.2 says"
    encodings = convert_encodings(made.get("SpecificCharacterSet"))
    for element in made.iterall():
        if element.VR == "UI":
            for uid in _values(element):
                if not UID(str(uid)).is_valid:
                    yield f"{element.keyword} {uid} is no valid UID; derive it again"
        elif element.VR in TEXT_VRS and not all(
            any(_encodes(str(text), encoding) for encoding in encodings)
            for text in _values(element)
        ):
            yield f"{element.keyword} cannot be encoded in SpecificCharacterSet; write {UTF_8}"


def _values(element: DataElement) -> list[object]:
    value = element.value
    if value in (None, ""):
        return []
    return list(value) if element.VM > 1 else [value]


def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


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


def _check_speaker(made: Dataset, model: ModelIdentity | None) -> Iterator[str]:
    """Yield where an object does not say that `model` made it, or hides what that is."""
    if model is None:
        return
    if made.get("DeviceUID") != device_uid(model):
        yield "DeviceUID is not that of the model; derive it from the model's digest"
    if made.get("ManufacturerModelName") != model.name:
        yield "ManufacturerModelName is not the model's name; take it from the assessment"
    if model.demonstration and made.SOPClassUID == Comprehensive3DSRStorage:
        said = {item.get("TextValue") for item in walk(made)}
        if not {DEMONSTRATION.en, DEMONSTRATION.zh} <= said:
            yield "TextValue nowhere says that the model is a demonstration; write it"


def _check_completeness(made: Dataset, volume: Volume | None) -> Iterator[str]:
    missing = 0 if volume is None else volume.verdict.missing_slices
    if missing and made.get("CompletionFlag") == "COMPLETE":
        yield f"CompletionFlag is COMPLETE, but {missing} slices are missing; write PARTIAL"


def _is_processing(item: Dataset) -> bool:
    purposes = item.get("PurposeOfReferenceCodeSequence", [])
    return any(
        (code.get("CodeValue"), code.get("CodingSchemeDesignator"))
        == (codes.DCM.ProcessingEquipment.value, "DCM")
        for code in purposes
    )
