"""What an operator can choose of what is written: kinds of objects, languages, forms of a SEG.

This imports no DICOM library: the configuration is read by every command and every role.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum


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


class SegmentationForm(StrEnum):
    """How a SEG says which pixels are part of a segment (PS3.3 C.8.20.2.3)."""

    BINARY = "binary"
    """A frame of bits for each segment that an image shows."""
    LABELMAP = "labelmap"
    """A frame of segment numbers for each image that shows any, 0 being the background."""
    FRACTIONAL = "fractional"
    """A frame of probabilities in 255ths for each segment that an image may show."""


FALLBACKS: Mapping[Kind, Kind] = {
    Kind.SEGMENTATION: Kind.SECONDARY_CAPTURE,
    Kind.REPORT: Kind.TEXT_REPORT,
}
"""What is sent in place of a kind that a destination does not take at all; a later kind."""

LANGUAGES = ("en", "zh")
"""RFC 5646 tags of those that objects are written in."""


def with_fallbacks(kinds: Iterable[Kind]) -> frozenset[Kind]:
    """Return `kinds` and what may have to stand in for one of them."""
    wanted = frozenset(kinds)
    return wanted | {FALLBACKS[kind] for kind in wanted if kind in FALLBACKS}
