"""The report of an assessment in every form that a destination may take, and its plain text.

All forms have one content, TID 1500: the SOP classes Comprehensive 3D, Comprehensive and Enhanced
SR (PS3.3 A.35.13, A.35.3, A.35.2), each with the SEG referenced, and, for receivers that take none,
with outlines in its place.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy

from highdicom.sr import Comprehensive3DSR
from pydicom import DataElement, Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from inference.assessment import Assessment, AssessmentRecord, ModelIdentity, Presence, Text
from inference.volume import Volume
from sr_writer.header import (
    UTF_8,
    constructor_header,
    plain_headers,
    referenced_request,
    series_number,
    stamp,
)
from sr_writer.identifiers import object_uid
from sr_writer.image_regions import Subject
from sr_writer.measurement_report import measurement_report
from sr_writer.provenance import Provenance
from sr_writer.source_images import SourceImage, on_images, source_images
from sr_writer.wording import finding_line, intended_use, narrative, statements

REPORT_CLASSES = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)
"""SOP classes of a report, the best first."""

SERIES_DESCRIPTION = "Overread AI second opinion (unverified)"
SERIES_OFFSET = 1
LIMITATIONS = Text(en="Limitations:", zh="局限：")

NOT_ASSESSED = "No assessment was made"
NOT_ALL_SEEN = "Slices are missing, so part of the anatomy was not seen"
NOT_ALL_DETERMINED = "A finding is undetermined"
NO_NARRATIVE = "The narrative was withheld"


def write_report(
    assessment: Assessment,
    sources: Sequence[Dataset],
    volume: Volume | None,
    segmentation: Dataset | None,
    provenance: Provenance,
    *,
    predecessor: Dataset | None = None,
) -> Dataset:
    """Write the first of `write_reports`, its best form."""
    document, model = _document(assessment, sources, volume, segmentation, provenance)
    return _in_form(document, 0, model, provenance, predecessor)


def write_reports(
    assessment: Assessment,
    sources: Sequence[Dataset],
    volume: Volume | None,
    segmentation: Dataset | None,
    provenance: Provenance,
    *,
    predecessors: Mapping[int, Dataset],
) -> list[Dataset]:
    """Write the assessment as TID 1500 documents of the source's study, one for each rank.

    Parameters
    ----------
    sources
        Headers of every instance of the series, in any order: the evidence.
    volume
        The volume that was assessed, None where none could be made. The assessment's slices are
        those of its grid.
    segmentation
        The SEG of the same assessment, None where it has no segment or none is written. Where there
        is one, the first half of the documents refer to it; the others have outlines instead.
    predecessors
        The reports (or their SOP Class, SOP Instance, Study and Series UID) that these supersede,
        by rank.

    Raises
    ------
    ValueError
        Where there is no source, a source does not say which object it is, or a finding that is
        present and outlined has a segment on none of the images.
    """
    made: list[Dataset] = []
    for shown in [None] if segmentation is None else [segmentation, None]:
        document, model = _document(assessment, sources, volume, shown, provenance)
        for _ in REPORT_CLASSES:
            rank = len(made)
            predecessor = _superseded(predecessors, rank)
            made.append(_in_form(document, rank, model, provenance, predecessor))
    return made


def _document(
    assessment: Assessment,
    sources: Sequence[Dataset],
    volume: Volume | None,
    segmentation: Dataset | None,
    provenance: Provenance,
) -> tuple[Dataset, ModelIdentity]:
    """Return what all forms that refer to the SEG, or do not, have in common."""
    if not sources:
        raise ValueError("a report needs the instances that it reports on")
    others: list[Dataset] = []
    if volume is None:
        there = assessment
        images = [SourceImage(header) for header in plain_headers(sorted(sources, key=_uid))]
    else:
        there = on_images(assessment, volume)
        images = source_images(volume)
        known = set(map(_uid, volume.sources))
        rest = [source for source in sources if _uid(source) not in known]
        others = plain_headers(sorted(rest, key=_uid)) if rest else []
    slices = [image.header for image in images]
    first, record = slices[0], there.record
    subject = Subject(record, images, there.masks, _mosaics(images, sources))
    root = measurement_report(subject, segmentation, provenance)
    try:
        made = Comprehensive3DSR(
            evidence=[
                constructor_header(first),
                *slices[1:],
                *others,
                *([] if segmentation is None else [segmentation]),
            ],
            content=root,
            series_instance_uid=object_uid("SR series", record.model, provenance),
            series_number=series_number(first, SERIES_OFFSET),
            sop_instance_uid=object_uid("SR", record.model, provenance),
            instance_number=1,
            manufacturer=record.model.manufacturer,
            manufacturer_model_name=record.model.name,
            software_versions=record.model.version,
            device_serial_number=record.model.digest[:64],
            series_description=SERIES_DESCRIPTION,
            requested_procedures=referenced_request(first) or None,
            specific_character_set=UTF_8,
        )
    except KeyError as error:
        raise ValueError(
            f"SOP class {first.SOPClassUID} is none that a report can be on"
        ) from error
    shortfall = _shortfall(record, volume)
    made.CompletionFlag = "COMPLETE" if shortfall is None else "PARTIAL"
    if shortfall is not None:
        made.CompletionFlagDescription = shortfall
    stamp(made, first, record.model, provenance)
    return made, record.model


def _in_form(
    document: Dataset,
    rank: int,
    model: ModelIdentity,
    provenance: Provenance,
    predecessor: Dataset | None,
) -> Dataset:
    """Return the document in the SOP class of a rank, as an object of its own.

    Elements are shared with `document`, except those that differ.
    """
    form = f"SR {rank}" if rank else "SR"
    sop_class = REPORT_CLASSES[rank % len(REPORT_CLASSES)]
    instance_uid = object_uid(form, model, provenance)
    made = Dataset()
    made.update(document)
    for keyword, uid in (
        ("SOPClassUID", sop_class),
        ("SOPInstanceUID", instance_uid),
        ("SeriesInstanceUID", object_uid(f"{form} series", model, provenance)),
    ):
        made[keyword] = DataElement(keyword, "UI", uid)
    if predecessor is not None:
        made.PredecessorDocumentsSequence = [_reference(predecessor)]
    made.file_meta = copy(document.file_meta)
    made.file_meta["MediaStorageSOPClassUID"] = DataElement(0x00020002, "UI", sop_class)
    made.file_meta["MediaStorageSOPInstanceUID"] = DataElement(0x00020003, "UI", instance_uid)
    return made


def _superseded(predecessors: Mapping[int, Dataset], rank: int) -> Dataset | None:
    """Return the earlier report of a rank, or where that had no SEG to do without, of its class."""
    return predecessors.get(rank) or predecessors.get(rank % len(REPORT_CLASSES))


def _reference(document: Dataset) -> Dataset:
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = document.SOPClassUID
    instance.ReferencedSOPInstanceUID = document.SOPInstanceUID
    series.SeriesInstanceUID = document.SeriesInstanceUID
    series.ReferencedSOPSequence = [instance]
    study.StudyInstanceUID = document.StudyInstanceUID
    study.ReferencedSeriesSequence = [series]
    return study


def report_text(record: AssessmentRecord) -> Text:
    """Return the report as plain text, one language each; nothing of it identifies a patient."""
    model, written = record.model, narrative(record)
    about = Text(
        en=f"Model: {model.name} {model.version}, {model.manufacturer}.",
        zh=f"模型：{model.name} {model.version}，{model.manufacturer}。",
    )
    limitations = (
        Text(en=each.en and f"- {each.en}", zh=each.zh and f"- {each.zh}")
        for each in record.limitations
    )
    paragraphs = [
        [*statements(record), *map(finding_line, record.findings)],
        [] if written is None else [written],
        [LIMITATIONS, *limitations] if record.limitations else [],
        [about, intended_use(model)],
    ]
    return Text(
        en=_joined([said.en for said in paragraph] for paragraph in paragraphs),
        zh=_joined([said.zh for said in paragraph] for paragraph in paragraphs),
    )


def _joined(paragraphs: Iterable[Iterable[str]]) -> str:
    """Return the paragraphs with a line between them, without what is not said in a language."""
    lines = ("\n".join(line for line in paragraph if line) for paragraph in paragraphs)
    return "\n\n".join(paragraph for paragraph in lines if paragraph)


def _uid(source: Dataset) -> str:
    """Return what sources are told apart by, so that their order makes no difference."""
    return str(source.get("SOPInstanceUID", ""))


def _mosaics(
    images: Sequence[SourceImage], sources: Sequence[Dataset]
) -> dict[str, tuple[int, int]]:
    """Return rows and columns of each source that some of `images` are tiles of."""
    tiled = {image.reference[0] for image in images if image.is_tile}
    return {
        uid: (int(source.Rows), int(source.Columns))
        for source in sources
        if (uid := _uid(source)) in tiled
    }


def _shortfall(record: AssessmentRecord, volume: Volume | None) -> str | None:
    """Return what keeps the report from being COMPLETE (PS3.3 C.17.2), if anything."""
    if not record.completed:
        return NOT_ASSESSED
    if volume is not None and volume.verdict.missing_slices:
        return NOT_ALL_SEEN
    if any(finding.presence is Presence.UNDETERMINED for finding in record.findings):
        return NOT_ALL_DETERMINED
    if narrative(record) is None:
        return NO_NARRATIVE
    return None
