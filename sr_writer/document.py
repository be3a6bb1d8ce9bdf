"""An SR document (PS3.3 C.17) of the source's study around a content tree, in any SOP class."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

from highdicom.sr import ContainerContentItem, EnhancedSR
from pydicom import DataElement, Dataset
from pydicom.uid import UID

from inference.assessment import Assessment, AssessmentRecord, ModelIdentity, Presence
from inference.volume import Volume
from sr_writer.encoding import UTF_8
from sr_writer.header import (
    constructor_header,
    plain_headers,
    referenced_request,
    series_number,
    stamp,
)
from sr_writer.identifiers import object_uid
from sr_writer.image_regions import Subject
from sr_writer.provenance import Provenance
from sr_writer.source_images import SourceImage, on_images, source_images
from sr_writer.wording import narrative

NOT_ASSESSED = "No assessment was made"
NOT_ALL_SEEN = "Slices are missing, so part of the anatomy was not seen"
NOT_ALL_DETERMINED = "A finding is undetermined"
NO_NARRATIVE = "The narrative was withheld"


@dataclass(frozen=True, eq=False)
class Reported:
    """What a document is about, its evidence, and what keeps it from being COMPLETE, if anything.

    The first of `evidence` is that of the first image, and has the patient and the study.
    """

    subject: Subject
    evidence: Sequence[Dataset]
    shortfall: str | None


def reported(assessment: Assessment, sources: Sequence[Dataset], volume: Volume | None) -> Reported:
    """Return what documents on `sources`, headers in any order, are about.

    Raises ValueError where there is no source, or one does not say which object it is.
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
    return Reported(
        Subject(there.record, images, there.masks, _mosaics(images, sources)),
        [*(image.header for image in images), *others],
        _shortfall(there.record, volume),
    )


def sr_document(
    root: ContainerContentItem,
    about: Reported,
    provenance: Provenance,
    *,
    series_description: str,
    series_offset: int,
    segmentation: Dataset | None = None,
) -> Dataset:
    """Return a document around a content tree, still without a SOP class and UIDs of its own."""
    first, *others = about.evidence
    model = about.subject.record.model
    provisional = object_uid("SR", model, provenance)
    try:
        made = EnhancedSR(
            evidence=[
                constructor_header(first),
                *others,
                *([] if segmentation is None else [segmentation]),
            ],
            content=root,
            series_instance_uid=provisional,
            series_number=series_number(first, series_offset),
            sop_instance_uid=provisional,
            instance_number=1,
            manufacturer=model.manufacturer,
            manufacturer_model_name=model.name,
            software_versions=model.version,
            device_serial_number=model.digest[:64],
            series_description=series_description,
            requested_procedures=referenced_request(first) or None,
            specific_character_set=UTF_8,
        )
    except KeyError as error:
        raise ValueError(
            f"SOP class {first.SOPClassUID} is none that a report can be on"
        ) from error
    made.CompletionFlag = "COMPLETE" if about.shortfall is None else "PARTIAL"
    if about.shortfall is not None:
        made.CompletionFlagDescription = about.shortfall
    stamp(made, first, model, provenance)
    return made


def in_form(
    document: Dataset, sop_class: UID, form: str, model: ModelIdentity, provenance: Provenance
) -> Dataset:
    """Return the document in a SOP class, as an object of its own with UIDs from what `form` says.

    Elements are shared with `document`, except those that differ.
    """
    instance_uid = object_uid(form, model, provenance)
    made = Dataset()
    made.update(document)
    for keyword, uid in (
        ("SOPClassUID", sop_class),
        ("SOPInstanceUID", instance_uid),
        ("SeriesInstanceUID", object_uid(f"{form} series", model, provenance)),
    ):
        made[keyword] = DataElement(keyword, "UI", uid)
    made.file_meta = copy(document.file_meta)
    for keyword, uid in (
        ("MediaStorageSOPClassUID", sop_class),
        ("MediaStorageSOPInstanceUID", instance_uid),
    ):
        made.file_meta[keyword] = DataElement(keyword, "UI", uid)
    return made


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
