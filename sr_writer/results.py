"""What is written of one assessment: an object of a kind, and the SOP classes of each kind.

A destination need not take every SOP class. Objects of one kind and another rank say the same in
another way; of these it gets the lowest rank that it takes. Where it takes none, the kind that
`FALLBACKS` names is sent in its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from sr_writer.kinds import Kind

LABEL_MAP_SEGMENTATION_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Newer than the dictionary of pydicom 3.0."""

SOP_CLASSES: Mapping[Kind, tuple[UID, ...]] = {
    Kind.SEGMENTATION: (SegmentationStorage, LABEL_MAP_SEGMENTATION_STORAGE),
    Kind.PARAMETRIC_MAP: (ParametricMapStorage,),
    Kind.SECONDARY_CAPTURE: (SecondaryCaptureImageStorage,),
    Kind.PRESENTATION_STATE: (GrayscaleSoftcopyPresentationStateStorage,),
    Kind.REPORT: (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage),
    Kind.TEXT_REPORT: (BasicTextSRStorage,),
    Kind.PDF: (EncapsulatedPDFStorage,),
    Kind.KEY_OBJECTS: (KeyObjectSelectionDocumentStorage,),
}
"""SOP classes that a kind is written in, in the order of its ranks, each once."""

_UNNAMED = {LABEL_MAP_SEGMENTATION_STORAGE: "Label Map Segmentation Storage"}


def class_name(sop_class: str) -> str:
    """Return the name of a SOP class (PS3.6 Annex A), also where pydicom has none."""
    uid = UID(sop_class)
    return _UNNAMED.get(uid, uid.name)


@dataclass(frozen=True)
class Result:
    """One object to send; of those of one kind and language only the best that is taken is sent."""

    kind: Kind
    dataset: Dataset
    rank: int = 0
    language: str = ""
    """RFC 5646 tag where all words of the object are in one language."""


def refers_to(dataset: Dataset, uids: Sequence[str]) -> list[str]:
    """Return which of `uids` an object refers to; it is of no use where they are not."""
    named = {
        str(element.value)
        for element in _elements_with(dataset, uids)
        if element.keyword == "ReferencedSOPInstanceUID"
    }
    return [uid for uid in uids if uid in named]


def _elements_with(dataset: Dataset, uids: Sequence[str]) -> Iterator[DataElement]:
    """Yield the elements of all depths that may have one of `uids`; others stay encoded."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating over a Dataset decodes every element
        stored: Any = dataset.get_item(tag)
        if stored.is_raw and not any(uid.encode() in (stored.value or b"") for uid in uids):
            continue
        yield dataset[tag]
        if stored.VR == "SQ":
            for item in dataset[tag].value:
                yield from _elements_with(item, uids)
