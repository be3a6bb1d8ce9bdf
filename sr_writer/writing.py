"""All objects of one assessment, of the kinds that a destination could get."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from pydicom import Dataset

from inference.assessment import Assessment
from inference.volume import Volume
from sr_writer.header import plain_headers
from sr_writer.key_images import KeyImage, draw_key_images
from sr_writer.key_objects import write_key_objects
from sr_writer.kinds import LANGUAGES, Kind, SegmentationForm
from sr_writer.parametric_map import write_parametric_maps
from sr_writer.presentation_state import write_presentation_states
from sr_writer.provenance import Provenance
from sr_writer.report import write_reports
from sr_writer.results import Result
from sr_writer.secondary_capture import write_secondary_captures
from sr_writer.segmentation import write_segmentation
from sr_writer.source_images import on_images, source_images
from sr_writer.text_report import write_text_reports

OF_PICTURES = frozenset(
    {Kind.SECONDARY_CAPTURE, Kind.PRESENTATION_STATE, Kind.PDF, Kind.KEY_OBJECTS}
)


def write_results(
    assessment: Assessment,
    headers: Sequence[Dataset],
    volume: Volume | None,
    provenance: Provenance,
    *,
    predecessors: Mapping[int, Dataset],
    kinds: Collection[Kind],
    languages: Collection[str],
    form: SegmentationForm = SegmentationForm.BINARY,
) -> list[Result]:
    """Write the objects of an assessment.

    Parameters
    ----------
    headers
        Of every instance of the series, in any order.
    volume
        What was assessed, None where nothing was.
    predecessors
        The reports that these supersede, by rank.
    kinds
        What to write, `with_fallbacks`; nothing is written that no destination could get.
    languages
        Those of `LANGUAGES` to write the objects in that are in one language.
    form
        That of the segmentation, where it can say what was found.
    """
    made = _results(
        assessment,
        headers,
        volume,
        provenance,
        predecessors,
        kinds=kinds,
        languages=languages,
        form=form,
    )
    return [result for result in made if not result.language or result.language in languages]


def _results(
    assessment: Assessment,
    headers: Sequence[Dataset],
    volume: Volume | None,
    provenance: Provenance,
    predecessors: Mapping[int, Dataset],
    *,
    kinds: Collection[Kind],
    languages: Collection[str],
    form: SegmentationForm,
) -> Iterator[Result]:
    segmentation = None
    pictures: list[KeyImage] = []
    if Kind.SEGMENTATION in kinds and volume is not None and assessment.record.segments:
        segmentation = write_segmentation(assessment, volume, provenance, form=form)
        yield Result(Kind.SEGMENTATION, segmentation)
    if Kind.PARAMETRIC_MAP in kinds and volume is not None:
        for probability in write_parametric_maps(assessment, volume, provenance):
            yield Result(Kind.PARAMETRIC_MAP, probability)
    if volume is not None and not OF_PICTURES.isdisjoint(kinds):
        pictures = draw_key_images(assessment, volume)
        yield from _of_pictures(pictures, assessment, volume, provenance, kinds)
    if Kind.REPORT in kinds:
        reports = write_reports(
            assessment, headers, volume, segmentation, provenance, predecessors=predecessors
        )
        for rank, report in enumerate(reports):
            yield Result(Kind.REPORT, report, rank=rank)
    if Kind.TEXT_REPORT in kinds:
        yield from _texts(assessment, headers, volume, provenance, languages)
    if Kind.PDF in kinds:
        yield from _pdf_reports(
            assessment, headers, volume, provenance, pictures=pictures, languages=languages
        )


def _texts(
    assessment: Assessment,
    headers: Sequence[Dataset],
    volume: Volume | None,
    provenance: Provenance,
    languages: Collection[str],
) -> Iterator[Result]:
    spoken = [language for language in LANGUAGES if language in languages]
    made = write_text_reports(assessment, headers, volume, provenance, spoken)
    for language, text in zip(spoken, made, strict=True):
        yield Result(Kind.TEXT_REPORT, text, language=language)


def _pdf_reports(
    assessment: Assessment,
    headers: Sequence[Dataset],
    volume: Volume | None,
    provenance: Provenance,
    *,
    pictures: Sequence[KeyImage],
    languages: Collection[str],
) -> Iterator[Result]:
    # What sets PDFs takes a fifth of the worker's start, and few destinations ask for them.
    from sr_writer.pdf_report import write_pdf_report  # noqa: PLC0415

    if volume is None:
        record = assessment.record
        about = plain_headers(sorted(headers, key=lambda header: str(header.get("SOPInstanceUID"))))
    else:
        record = on_images(assessment, volume).record
        about = [image.header for image in source_images(volume)]
    for language in (each for each in LANGUAGES if each in languages):
        made = write_pdf_report(record, about, pictures, provenance, language=language)
        yield Result(Kind.PDF, made, language=language)


def _of_pictures(
    pictures: Sequence[KeyImage],
    assessment: Assessment,
    volume: Volume,
    provenance: Provenance,
    kinds: Collection[Kind],
) -> Iterator[Result]:
    """Yield what is made of the key images; nothing of those that show no finding."""
    model, images = assessment.record.model, source_images(volume)
    if Kind.SECONDARY_CAPTURE in kinds:
        for capture in write_secondary_captures(pictures, images, volume, model, provenance):
            yield Result(Kind.SECONDARY_CAPTURE, capture)
    if Kind.PRESENTATION_STATE in kinds:
        for state in write_presentation_states(pictures, images, assessment, volume, provenance):
            yield Result(Kind.PRESENTATION_STATE, state)
    if Kind.KEY_OBJECTS in kinds:
        selection = write_key_objects(pictures, images, model, provenance)
        if selection is not None:
            yield Result(Kind.KEY_OBJECTS, selection)
