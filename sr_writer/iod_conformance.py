"""What the gate asks of an object by its IOD: attributes that must be there, and have a value.

`iod_tables.json` has the attributes of Type 1 and 2 of every module of the SOP classes that we
write (PS3.3 Annex A and C), from the tables that highdicom carries; what a standard says only in
words, such as "shall be present if", is added here where it always holds for us.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import orjson
from pydicom import DataElement, Dataset
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SegmentationStorage,
)

from sr_writer.header import ALWAYS_PRESENT, COPIED_IF_PRESENT

LABEL_MAP_SEGMENTATION = UID("1.2.840.10008.5.1.4.1.1.66.7")
COPIED = frozenset({*ALWAYS_PRESENT, *COPIED_IF_PRESENT, "ReferencedRequestSequence"})
"""What stands there as the source has it is the source's to answer for, not ours to correct."""

_DOCUMENT = {
    "ValueType": "1",
    "ConceptNameCodeSequence": "1",
    "ContinuityOfContent": "1",
    "ContentSequence": "1",
    "CurrentRequestedProcedureEvidenceSequence": "1",
}
_FRAMES = {
    "FrameOfReferenceUID": "1",
    "PositionReferenceIndicator": "2",
    "PerFrameFunctionalGroupsSequence": "1",
    "DimensionIndexSequence": "1",
    "ReferencedSeriesSequence": "1",
}
ALWAYS_OURS: Mapping[UID, Mapping[str, str]] = {
    BasicTextSRStorage: _DOCUMENT,
    EnhancedSRStorage: _DOCUMENT,
    ComprehensiveSRStorage: _DOCUMENT,
    Comprehensive3DSRStorage: _DOCUMENT,
    KeyObjectSelectionDocumentStorage: _DOCUMENT,
    SegmentationStorage: {**_FRAMES, "PixelData": "1"},
    LABEL_MAP_SEGMENTATION: {**_FRAMES, "PixelData": "1"},
    ParametricMapStorage: _FRAMES,
    EncapsulatedPDFStorage: {"SourceInstanceSequence": "1"},
}
"""Attributes of conditional type, or of a conditional module, whose condition our objects meet."""

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class Level:
    """What items on one level of nesting must have: by tag, its type and what its items must."""

    def __init__(self) -> None:
        self.types: dict[BaseTag, str] = {}
        self.within: dict[BaseTag, Level] = {}

    def add(self, attributes: Mapping[str, Any], *, mandatory: bool) -> None:
        """Add a module's attributes; only within their sequences where it may be left out."""
        for keyword, found in attributes.items():
            tag = _tag(keyword)
            type_, items = (found, {}) if isinstance(found, str) else found
            if type_ and mandatory:
                self.types[tag] = min(type_, self.types.get(tag, type_))
            if items:
                self.within.setdefault(tag, Level()).add(items, mandatory=True)


def check_required(made: Dataset) -> Iterator[str]:
    """Yield what the IOD requires and `made` lacks; a Type 1 attribute lacks a value if empty."""
    level = _level(UID(made.SOPClassUID))
    yield from dict.fromkeys(_missing(made, level, "", set()))
    has_pixels = _tag("SamplesPerPixel") in level.types
    if has_pixels and not any(_has_value(made, keyword) for keyword in _PIXELS):
        yield "lacks PixelData, which must have a value; write it"


def _has_value(made: Dataset, keyword: str) -> bool:
    return keyword in made and not _is_empty(made.get_item(keyword))


def _missing(
    item: Dataset, level: Level, where: str, seen: set[tuple[str, BaseTag, bytes]]
) -> Iterator[str]:
    """Yield what an item lacks; sequences that still are as they were read, once for each."""
    present = item.keys()
    for tag, type_ in level.types.items():
        if tag not in present:
            rule = "must have a value" if type_ == "1" else "may be empty but not missing"
            yield f"lacks {where}{keyword_for_tag(tag)}, which {rule}; write it"
        elif type_ == "1" and _is_empty(item.get_item(tag)):
            yield f"lacks {where}{keyword_for_tag(tag)}, which must have a value; write it"
    for tag in present:
        if tag not in level.within:
            continue
        stored: Any = item.get_item(tag)
        if isinstance(stored.value, bytes):
            if (where, tag, stored.value) in seen:
                continue
            seen.add((where, tag, stored.value))
        for nested in item[tag].value or ():
            inner = f"{where}{keyword_for_tag(tag)}/"
            yield from _missing(nested, level.within[tag], inner, seen)


def _is_empty(element: Any) -> bool:
    if isinstance(element, DataElement):
        return element.is_empty
    return not element.value  # as it was read


def _tag(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is not in the data dictionary")
    return BaseTag(tag)


@cache
def _tables() -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = orjson.loads(
        (files("sr_writer") / "iod_tables.json").read_bytes()
    )
    return tables


@cache
def _level(sop_class: UID) -> Level:
    """Return what an object of a SOP class must have; KeyError where there is no table for it."""
    tables, level = _tables(), Level()
    for module, usage in tables["classes"][sop_class].items():
        of_ours = {k: v for k, v in tables["modules"][module].items() if k not in COPIED}
        level.add(of_ours, mandatory=usage == "M")
    level.add(ALWAYS_OURS.get(sop_class, {}), mandatory=True)
    level.add(dict.fromkeys(ALWAYS_PRESENT, "2"), mandatory=True)
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        inner = level.within.get(_tag(groups))
        if inner is not None:
            inner.types.clear()  # a functional group stands in either, and may not be needed
    return level
