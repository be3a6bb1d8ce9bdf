"""All that is written of one assessment: what each object is to a destination, and what stands in.

A destination need not take every SOP class. Objects of one kind and another rank say the same in
another way; of these it gets the lowest rank that it takes. Where it takes none, the kind that
`FALLBACKS` names is sent in its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydicom import Dataset

from inference.assessment import Assessment
from inference.volume import Volume
from sr_writer.provenance import Provenance
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation


class Kind(StrEnum):
    """What a destination can be sent; in the order to send it, what is referenced first."""

    SEGMENTATION = "segmentation"
    PARAMETRIC_MAP = "parametric_map"
    SECONDARY_CAPTURE = "secondary_capture"
    PRESENTATION_STATE = "presentation_state"
    REPORT = "report"
    TEXT_REPORT = "text_report"
    PDF = "pdf"
    KEY_OBJECTS = "key_objects"


FALLBACKS: Mapping[Kind, Kind] = {
    Kind.SEGMENTATION: Kind.SECONDARY_CAPTURE,
    Kind.REPORT: Kind.TEXT_REPORT,
}
"""What is sent in place of a kind that a destination does not take at all."""


@dataclass(frozen=True)
class Result:
    """One object to send; of those of one kind and language only the best that is taken is sent."""

    kind: Kind
    dataset: Dataset
    rank: int = 0
    language: str = ""
    """RFC 5646 tag where all words of the object are in one language."""


def write_results(
    assessment: Assessment,
    headers: Sequence[Dataset],
    volume: Volume | None,
    provenance: Provenance,
    *,
    predecessors: Mapping[int, Dataset],
) -> list[Result]:
    """Write every object of an assessment.

    Parameters
    ----------
    headers
        Of every instance of the series, in any order.
    volume
        What was assessed, None where nothing was.
    predecessors
        The reports that these supersede, by rank.
    """
    return list(_results(assessment, headers, volume, provenance, predecessors))


def _results(
    assessment: Assessment,
    headers: Sequence[Dataset],
    volume: Volume | None,
    provenance: Provenance,
    predecessors: Mapping[int, Dataset],
) -> Iterator[Result]:
    segmentation = None
    if volume is not None and assessment.record.segments:
        segmentation = write_segmentation(assessment, volume, provenance)
        yield Result(Kind.SEGMENTATION, segmentation)
    report = write_report(
        assessment, headers, volume, segmentation, provenance, predecessor=predecessors.get(0)
    )
    yield Result(Kind.REPORT, report)


def refers_to(dataset: Dataset, uids: Sequence[str]) -> list[str]:
    """Return which of `uids` an object refers to; it is of no use where they are not."""
    named = {
        str(element.value)
        for element in dataset.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    }
    return [uid for uid in uids if uid in named]
