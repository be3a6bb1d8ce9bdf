"""The SR document (Comprehensive 3D SR, PS3.3 A.35.13) of an assessment, and its plain text."""

from collections.abc import Iterable, Sequence

from highdicom.sr import Comprehensive3DSR
from pydicom import Dataset

from inference.assessment import Assessment, AssessmentRecord, Presence, Text
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
) -> Comprehensive3DSR:
    """Write the assessment as a TID 1500 document of the source's study.

    Parameters
    ----------
    sources
        Headers of every instance of the series, in any order: the evidence.
    volume
        The volume that was assessed, None where none could be made. The assessment's slices are
        those of its grid.
    segmentation
        The SEG of the same assessment, None where it has no segment.
    predecessor
        The report (or its SOP Class, SOP Instance, Study and Series UID) that this one supersedes.

    Raises
    ------
    ValueError
        Where there is no source, a source does not say which object it is, or a finding that is
        present and outlined has no segmentation to point at, or a segment on none of the images.
    """
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
    subject = Subject(record, images, there.masks, _matrices(sources))
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
            previous_versions=None if predecessor is None else [predecessor],
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
    return made


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


def _matrices(sources: Sequence[Dataset]) -> dict[str, tuple[int, int]]:
    """Return rows and columns of each source that has pixels, by SOP Instance UID."""
    return {
        str(header.SOPInstanceUID): (int(header.Rows), int(header.Columns))
        for header in plain_headers(sources)
        if header.get("Rows") and header.get("Columns")
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
