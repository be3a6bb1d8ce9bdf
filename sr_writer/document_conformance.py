"""What the gate asks of any SR document: true flags, evidence of all it names, one device."""

from collections.abc import Iterator, Mapping, Sequence

from pydicom import Dataset
from pydicom.sr.codedict import codes

from sr_writer.content_items import NOT_TEXT, is_named, name_of, walk
from sr_writer.plane_conformance import Images, check_image, check_reference, images_by_reference
from sr_writer.source_images import SourceImage


def check_document(
    made: Dataset,
    headers: Sequence[Dataset],
    images: Sequence[SourceImage],
    siblings: Sequence[Dataset],
) -> Iterator[str]:
    """Yield what is wrong with a document about `images` of `headers`, apart from its content."""
    yield from _check_flags(made)
    yield from _check_words(made)
    known = {str(each.SOPInstanceUID): each for each in (*headers, *siblings)}
    yield from _check_evidence(made, headers, known)
    yield from _check_images(made, headers, images_by_reference(images))
    yield from _check_observer(made)


def _check_flags(made: Dataset) -> Iterator[str]:
    if made.get("VerificationFlag") != "UNVERIFIED":
        yield "VerificationFlag is not UNVERIFIED; only a person verifies a report"
    if made.get("PreliminaryFlag") != "PRELIMINARY":
        yield "PreliminaryFlag is not PRELIMINARY; an unverified report is not final"
    flag = made.get("CompletionFlag")
    if flag == "PARTIAL" and not made.get("CompletionFlagDescription"):
        yield "CompletionFlagDescription is missing; say what makes the report PARTIAL"
    if flag not in {"COMPLETE", "PARTIAL"}:
        yield f"CompletionFlag is {flag}; write COMPLETE or PARTIAL"


def _check_words(made: Dataset) -> Iterator[str]:
    for item in walk(made):
        if NOT_TEXT.search(str(item.get("TextValue", ""))):
            yield f"TextValue of item {name_of(item)} has control characters; write spaces"


def _check_evidence(
    made: Dataset, headers: Sequence[Dataset], known: Mapping[str, Dataset]
) -> Iterator[str]:
    where = "CurrentRequestedProcedureEvidenceSequence"
    listed = set()
    for study in made.get(where, []):
        for series in study.get("ReferencedSeriesSequence", []):
            for reference in series.get("ReferencedSOPSequence", []):
                yield from check_reference(reference, known, where)
                uid = str(reference.get("ReferencedSOPInstanceUID"))
                listed.add(uid)
                target = known.get(uid, Dataset())
                if (study.get("StudyInstanceUID"), series.get("SeriesInstanceUID")) != (
                    target.get("StudyInstanceUID"),
                    target.get("SeriesInstanceUID"),
                ):
                    yield f"{where} lists instances in the wrong study or series; correct it"
    referenced = {str(header.SOPInstanceUID) for header in headers}
    for item in walk(made):
        for reference in item.get("ReferencedSOPSequence", []):
            yield from check_reference(reference, known, f"item {name_of(item)}")
            referenced.add(str(reference.get("ReferencedSOPInstanceUID")))
    if referenced - listed:
        yield f"{where} lacks {len(referenced - listed)} instances; list all sources and references"


def _check_images(made: Dataset, headers: Sequence[Dataset], named: Images) -> Iterator[str]:
    """Yield where the content names a frame or an instance that is not of the volume."""
    sources = {str(header.SOPInstanceUID) for header in headers}
    for item in walk(made):
        for reference in item.get("ReferencedSOPSequence", []):
            if str(reference.get("ReferencedSOPInstanceUID")) in sources:
                yield from check_image(reference, named, f"item {name_of(item)}")


def _check_observer(made: Dataset) -> Iterator[str]:
    for code, keyword in (
        (codes.DCM.DeviceObserverUID, "DeviceUID"),
        (codes.DCM.DeviceObserverManufacturer, "Manufacturer"),
        (codes.DCM.DeviceObserverModelName, "ManufacturerModelName"),
    ):
        found = [
            item.get("UID") or item.get("TextValue")
            for item in made.get("ContentSequence", [])
            if is_named(item, code)
        ]
        if found != [made.get(keyword)]:
            yield f"{code.meaning} is not the equipment's {keyword}; name one device everywhere"
