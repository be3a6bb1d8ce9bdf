"""The gate: what we would be ashamed to send does not leave.

It reads the objects as a receiver would, by DICOM attributes alone, and compares them with the
source and with each other. A problem is a sentence: which object, which attribute, what is wrong,
what to do. It never quotes what identifies a patient, so it may be logged.
"""

from collections.abc import Callable, Iterator, Sequence

from pydicom import Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from inference.assessment import Assessment, ModelIdentity
from inference.volume import Volume
from sr_writer.assessment_conformance import check_findings, check_outlines
from sr_writer.content_conformance import check_content
from sr_writer.content_items import walk
from sr_writer.image_conformance import check_pixels
from sr_writer.iod_conformance import check_required
from sr_writer.object_conformance import (
    check_completeness,
    check_identity,
    check_object,
    check_speaker,
)
from sr_writer.parametric_map_conformance import check_parametric_map, check_probabilities
from sr_writer.picture_conformance import check_capture, check_pdf
from sr_writer.report import REPORT_CLASSES
from sr_writer.report_conformance import check_report
from sr_writer.results import LABEL_MAP_SEGMENTATION_STORAGE
from sr_writer.segmentation_conformance import check_segmentation
from sr_writer.selection_conformance import check_key_objects, check_presentation_state
from sr_writer.source_conformance import Sources, check_images, check_sources
from sr_writer.source_images import SourceImage, on_images, source_images
from sr_writer.text_conformance import check_text_report
from sr_writer.value_conformance import check_values
from sr_writer.wording import DEMONSTRATION

MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What reading an object raises that lacks, say, its PixelSpacing: itself a reason not to send."""

MODALITIES = {
    **dict.fromkeys(REPORT_CLASSES, "SR"),
    SegmentationStorage: "SEG",
    LABEL_MAP_SEGMENTATION_STORAGE: "SEG",
    BasicTextSRStorage: "SR",
    ParametricMapStorage: "OT",
    SecondaryCaptureImageStorage: "OT",
    EncapsulatedPDFStorage: "DOC",
    KeyObjectSelectionDocumentStorage: "KO",
    GrayscaleSoftcopyPresentationStateStorage: "PR",
}
Check = Callable[
    [Dataset, Sequence[Dataset], Sequence[SourceImage], Sequence[Dataset]], Iterator[str]
]
BY_CLASS: dict[UID, Check] = {
    **dict.fromkeys(REPORT_CLASSES, check_report),
    BasicTextSRStorage: check_text_report,
    SegmentationStorage: check_segmentation,
    LABEL_MAP_SEGMENTATION_STORAGE: check_segmentation,
    ParametricMapStorage: check_parametric_map,
    SecondaryCaptureImageStorage: check_capture,
    EncapsulatedPDFStorage: check_pdf,
    KeyObjectSelectionDocumentStorage: check_key_objects,
    GrayscaleSoftcopyPresentationStateStorage: check_presentation_state,
}
WITH_FINDINGS = frozenset(REPORT_CLASSES)
"""Documents that say each finding of the assessment as TID 1500 does."""
BY_LANGUAGES = {**dict.fromkeys(WITH_FINDINGS, 2), BasicTextSRStorage: 1}
"""In how many languages a document says what has to be said."""


def check_objects(
    objects: Sequence[Dataset],
    sources: Sequence[Dataset],
    volume: Volume | None = None,
    *,
    model: ModelIdentity | None = None,
    assessment: Assessment | None = None,
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
    assessment
        What is meant to be said, with the masks on the grid of `volume`.
    """
    if not objects or not sources:
        return ["there are no objects or no source instances to check them against"]
    source = Sources(sources)
    try:
        images = [SourceImage(header) for header in source.headers]
        if volume is not None:
            images = source_images(volume)
            assessment = assessment and on_images(assessment, volume)
    except ValueError as error:
        return [f"source: {error}"]
    problems = list(check_sources(source.headers))
    try:
        problems += dict.fromkeys(check_images(images, source.headers, sources))
    except MALFORMED as error:
        problems.append(f"source: cannot be checked ({error!r}); have it resent")
    problems += _check_uids(objects, source.headers)

    def check(made: Dataset) -> Iterator[str]:
        siblings = [other for other in objects if other is not made]
        yield from _check_alone(made, source.headers[0])
        yield from check_identity(made, source)
        yield from BY_CLASS[made.SOPClassUID](made, source.headers, images, siblings)
        if volume is not None:
            yield from check_completeness(made, volume)
        if assessment is not None:
            yield from _check_said(made, assessment, images if volume is not None else None)
        if model is not None:
            yield from check_speaker(made, model)
            yield from _check_demonstration(made, model)

    return [*problems, *_problems(objects, check)]


def check_without_source(objects: Sequence[Dataset]) -> list[str]:
    """Return what is wrong with results by themselves, where there is no source to compare with.

    Whose they are, what they refer to and where they lie is not looked at.
    """
    problems = list(_check_uids(objects, []))
    return [*problems, *_problems(objects, lambda made: _check_alone(made, Dataset()))]


def _problems(
    objects: Sequence[Dataset], check: Callable[[Dataset], Iterator[str]]
) -> Iterator[str]:
    """Yield what `check` says of each object, each once; what is malformed cannot be checked."""
    for made in objects:
        kind = MODALITIES.get(made.get("SOPClassUID"))
        if kind is None:
            yield f"object of SOP class {made.get('SOPClassUID')}: no rules to check it by"
            continue
        found: dict[str, None] = {}
        try:
            for problem in check(made):
                found[problem] = None
        except MALFORMED as error:
            found[f"cannot be checked ({error!r}); write it again"] = None
        yield from (f"{kind}: {problem}" for problem in found)


def _check_uids(objects: Sequence[Dataset], headers: Sequence[Dataset]) -> Iterator[str]:
    """Yield where two objects, or an object and a source, have one UID."""
    uids = [made.get("SOPInstanceUID") for made in objects]
    if len(set(uids)) < len(uids) or {header.SOPInstanceUID for header in headers} & set(uids):
        yield "objects: SOPInstanceUID is not unique; give each object its own"
    series = {(made.get("SeriesInstanceUID"), made.get("Modality")) for made in objects}
    if len({uid for uid, _ in series}) < len(series):
        yield "objects: SeriesInstanceUID is one for two modalities; give each a series of its own"


def _check_alone(made: Dataset, header: Dataset) -> Iterator[str]:
    """Yield what is wrong with an object by itself; `header` is the source's, empty without one."""
    yield from check_values(made, header)
    yield from check_required(made)
    yield from check_object(made, MODALITIES[made.SOPClassUID])
    if "ContentSequence" in made:
        yield from check_content(made)
    if "SamplesPerPixel" in made:
        yield from check_pixels(made)


def _check_said(
    made: Dataset, assessment: Assessment, images: Sequence[SourceImage] | None
) -> Iterator[str]:
    if made.SOPClassUID in WITH_FINDINGS:
        yield from check_findings(made, assessment.record)
    if images is not None and made.Modality == "SEG":
        yield from check_outlines(made, assessment, images)
    if images is not None and made.SOPClassUID == ParametricMapStorage:
        yield from check_probabilities(made, assessment, images)


def _check_demonstration(made: Dataset, model: ModelIdentity) -> Iterator[str]:
    if model.demonstration and made.SOPClassUID in BY_LANGUAGES:
        said = {item.get("TextValue") for item in walk(made)}
        spoken = {DEMONSTRATION.en, DEMONSTRATION.zh} & said
        if len(spoken) < BY_LANGUAGES[made.SOPClassUID]:
            yield "TextValue nowhere says that the model is a demonstration; write it"
