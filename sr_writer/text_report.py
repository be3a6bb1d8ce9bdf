"""The report as words, for every viewer: Basic Text SR (PS3.3 A.35.1), one document a language.

It follows TID 2000 Basic Diagnostic Imaging Report: sections of text, and the key images. What is
said in another language only is said in that one, and marked by TID 1204: nothing is left out.
"""

from collections.abc import Iterable, Iterator, Sequence

from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import BasicTextSRStorage

from inference.assessment import Assessment, AssessmentRecord, Presence, Text
from inference.volume import Volume
from sr_writer.coding import CHINESE, ENGLISH, SOURCE
from sr_writer.content_items import NOT_TEXT
from sr_writer.document import in_form, reported, sr_document
from sr_writer.image_regions import Subject
from sr_writer.measurement_report import observation_context, procedures_reported
from sr_writer.provenance import Provenance
from sr_writer.source_images import SourceImage, each_once
from sr_writer.wording import about_model, finding_line, intended_use, narrative, statements

TITLE = codes.cid7000.DiagnosticImagingReport
SERIES_OFFSETS = {"en": 10, "zh": 11}
SERIES_DESCRIPTIONS = {
    "en": "Overread AI text report, English (unverified)",
    "zh": "Overread AI text report, Chinese (unverified)",
}
LANGUAGES = {"en": ENGLISH, "zh": CHINESE}
LIMITATION = Text(en="Limitation: ", zh="局限：")

Items = list[sr.ContentItem]


def write_text_reports(
    assessment: Assessment,
    sources: Sequence[Dataset],
    volume: Volume | None,
    provenance: Provenance,
    languages: Sequence[str],
) -> list[Dataset]:
    """Write the assessment in words, once in each of `languages` (keys of LANGUAGES).

    `sources` are headers of every instance of the series, in any order; `volume` is None where
    none could be made of them. Raises ValueError as `write_reports` does.
    """
    about = reported(assessment, sources, volume)
    made = []
    for language in languages:
        document = sr_document(
            _content(about.subject, language, provenance),
            about,
            provenance,
            series_description=SERIES_DESCRIPTIONS[language],
            series_offset=SERIES_OFFSETS[language],
        )
        form = f"text report {language}"
        model = about.subject.record.model
        made.append(in_form(document, BasicTextSRStorage, form, model, provenance))
    return made


def _content(subject: Subject, language: str, provenance: Provenance) -> sr.ContainerContentItem:
    record = subject.record
    root = sr.ContainerContentItem(name=TITLE, template_id="2000")
    content = sr.ContentSequence(is_root=False)
    content.extend(sr.LanguageOfContentItemAndDescendants(LANGUAGES[language]))
    content.extend(observation_context(record, provenance))
    content.extend(procedures_reported(subject.images[0].header))
    written = narrative(record)
    opening = [*statements(record), *([] if written is None else [written])]
    content.append(
        _section(codes.cid7001.Summary, _texts(codes.cid7002.Summary, opening, language))
    )
    if record.findings:
        content.append(_section(codes.cid7001.Findings, list(_findings(subject, language))))
    model = _texts(codes.cid7002.ProcedureDescription, _about(record), language)
    content.append(_section(codes.cid7001.CurrentProcedureDescriptions, model))
    if record.key_slices:
        images = each_once(subject.images[index] for index in record.key_slices)
        shown = [_image(image, Relation.CONTAINS) for image in images]
        content.append(_section(codes.cid7001.KeyImages, shown))
    root.ContentSequence = content
    return root


def _about(record: AssessmentRecord) -> Iterator[Text]:
    """Yield what the model is, and what limits what it says."""
    for limitation in record.limitations:
        yield Text(
            en=limitation.en and LIMITATION.en + limitation.en,
            zh=limitation.zh and LIMITATION.zh + limitation.zh,
        )
    yield about_model(record.model)
    yield intended_use(record.model)


def _findings(subject: Subject, language: str) -> Iterator[sr.ContentItem]:
    """Yield a line for each finding, with the image that shows best what is present."""
    for finding in subject.record.findings:
        for line in _texts(codes.cid7002.Finding, [finding_line(finding)], language):
            if finding.presence is Presence.PRESENT and finding.evidence is not None:
                image = subject.images[finding.evidence.best_slice]
                children = list(line.get("ContentSequence", []))
                line.ContentSequence = sr.ContentSequence(
                    [*children, _image(image, Relation.INFERRED_FROM)]
                )
            yield line


def _section(heading: Code, items: Sequence[sr.ContentItem]) -> sr.ContainerContentItem:
    section = sr.ContainerContentItem(name=heading, relationship_type=Relation.CONTAINS)
    section.ContentSequence = sr.ContentSequence(items)
    return section


def _texts(name: Code, said: Iterable[Text], language: str) -> Items:
    """Return an item for each text, in the other language where this one has no words for it."""
    return [item for each in said for item in _text(name, each, language)]


def _text(name: Code, said: Text, language: str) -> Items:
    for own in (language, *(other for other in LANGUAGES if other != language)):
        words = NOT_TEXT.sub(" ", getattr(said, own))
        if words:
            item = sr.TextContentItem(name=name, value=words, relationship_type=Relation.CONTAINS)
            if own != language:
                item.ContentSequence = sr.LanguageOfContentItemAndDescendants(LANGUAGES[own])
            return [item]
    return []


def _image(image: SourceImage, relation: Relation) -> sr.ImageContentItem:
    return sr.ImageContentItem(
        name=SOURCE,
        referenced_sop_class_uid=image.header.SOPClassUID,
        referenced_sop_instance_uid=image.header.SOPInstanceUID,
        referenced_frame_numbers=image.frame,
        relationship_type=relation,
    )
