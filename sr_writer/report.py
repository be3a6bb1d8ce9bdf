"""The report of an assessment in every form that a destination may take.

All forms have one content, TID 1500: the SOP classes Comprehensive 3D, Comprehensive and Enhanced
SR (PS3.3 A.35.13, A.35.3, A.35.2), each with the SEG referenced, and, for receivers that take none,
with outlines in its place.
"""

from collections.abc import Mapping, Sequence

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from inference.assessment import Assessment
from inference.volume import Volume
from sr_writer.document import Reported, in_form, reported, sr_document
from sr_writer.measurement_report import measurement_report
from sr_writer.provenance import Provenance

REPORT_CLASSES = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)
"""SOP classes of a report, the best first."""

SERIES_DESCRIPTION = "Overread AI second opinion (unverified)"
SERIES_OFFSET = 1


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
    about = reported(assessment, sources, volume)
    document = _document(about, segmentation, provenance)
    return _of_rank(0, document, about, provenance, predecessor)


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
    about = reported(assessment, sources, volume)
    for shown in [None] if segmentation is None else [segmentation, None]:
        document = _document(about, shown, provenance)
        for _ in REPORT_CLASSES:
            rank = len(made)
            predecessor = _superseded(predecessors, rank)
            made.append(_of_rank(rank, document, about, provenance, predecessor))
    return made


def _document(about: Reported, segmentation: Dataset | None, provenance: Provenance) -> Dataset:
    """Return what all forms that refer to the SEG, or do not, have in common."""
    return sr_document(
        measurement_report(about.subject, segmentation, provenance),
        about,
        provenance,
        series_description=SERIES_DESCRIPTION,
        series_offset=SERIES_OFFSET,
        segmentation=segmentation,
    )


def _of_rank(
    rank: int,
    document: Dataset,
    about: Reported,
    provenance: Provenance,
    predecessor: Dataset | None,
) -> Dataset:
    made = in_form(
        document,
        REPORT_CLASSES[rank % len(REPORT_CLASSES)],
        f"SR {rank}" if rank else "SR",
        about.subject.record.model,
        provenance,
    )
    if predecessor is not None:
        made.PredecessorDocumentsSequence = [_reference(predecessor)]
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
