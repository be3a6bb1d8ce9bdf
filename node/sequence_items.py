"""The items of a sequence, their values unparsed: thousands of frames have ten groups each."""

from struct import Struct
from typing import cast

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from node.data_elements import (
    UNDEFINED_LENGTH,
    MoreNeededError,
    UnusualEncodingError,
    header_of,
    walk_elements,
)

ITEM = (0xFFFE, 0xE000)
ITEM_END = 0xFFFEE00D
_HEADER = Struct("<HHL")
_END = _HEADER.pack(0xFFFE, 0xE00D, 0)


def items_of(dataset: Dataset, tag: BaseTag) -> list[Dataset]:
    """Return the items of a sequence (PS3.5 Section 7.5); none where it is absent, or none.

    Raises whatever pydicom raises for a sequence that it cannot parse.
    """
    if tag not in dataset:
        return []
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement) and element.value and element.is_little_endian:
        try:
            return _walk(dataset, element.value, implicit=element.is_implicit_VR)
        except (UnusualEncodingError, MoreNeededError):
            pass  # pydicom may know how to go on
    value = dataset[tag].value
    return list(value) if isinstance(value, Sequence) else []


def _walk(dataset: Dataset, content: bytes, *, implicit: bool) -> list[Dataset]:
    encoding = cast("str", dataset.original_character_set)
    items = []
    at = 0
    while at < len(content):
        if len(content) - at < _HEADER.size:
            raise MoreNeededError(at + _HEADER.size)
        group, number, length = _HEADER.unpack_from(content, at)
        if (group, number) != ITEM:
            raise UnusualEncodingError("not an item")
        at += _HEADER.size
        if length == UNDEFINED_LENGTH:
            elements, end = walk_elements(content, at, implicit=implicit, until=ITEM_END)
            at = end + _HEADER.size
            ends = content[end:at]
        else:
            part = content[at : at + length] + _END
            elements, end = walk_elements(part, 0, implicit=implicit, until=ITEM_END)
            at += length
            ends = part[end:]
        if ends != _END:
            raise UnusualEncodingError("an item that does not end as it says")
        item = header_of(elements, implicit=implicit)
        item.set_original_encoding(implicit, is_little_endian=True, character_encoding=encoding)
        items.append(item)
    return items
