"""The header of one image among several in an instance, made of the instance's own.

Elements are shared between the images, not copied: an instance may hold thousands of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import DSfloat

from inference.assessment import Text
from node.data_elements import Elements
from node.instances import Instance, UnreadableInstanceError, integer_of

MAX_ELEMENTS = 2**23
"""All images' headers together may have so many elements; 20,000 frames have 5,000,000."""

MIN_ENCAPSULATED_FRAME = 10
"""Bytes of the shortest encapsulated frame: an item's tag, its length, and two bytes."""


def check_proportion(common: Elements, images: int) -> None:
    """Refuse headers that would need memory out of all proportion to the file."""
    if len(common) * images > MAX_ELEMENTS:
        raise unreadable_frames(
            f"its {images} frames share {len(common)} attributes",
            f"其 {images} 帧共用 {len(common)} 个属性",
        )


def parsed_elements(dataset: Dataset, without: Iterable[str] = ()) -> Elements:
    """Return a data set's elements; what cannot be parsed stays raw, and counts as absent."""
    left_out = {tag_of(keyword) for keyword in without}
    found: Elements = {}
    for tag in map(BaseTag, dataset.keys() - left_out):
        try:
            found[tag] = dataset[tag]
        except Exception:  # noqa: BLE001 - hostile values raise anything
            found[tag] = dataset.get_item(tag)
    return found


def image_header(instance_header: Dataset, *layers: Elements) -> Dataset:
    """Return a data set of the layers' elements, a later layer's before an earlier one's."""
    elements: Elements = {}
    for layer in layers:
        elements.update(layer)
    made = Dataset(elements)
    made.file_meta = instance_header.file_meta
    implicit, little_endian = instance_header.original_encoding
    charset = cast("str", instance_header.original_character_set)
    made.set_original_encoding(implicit, little_endian, charset)
    return made


def element_of(keyword: str, value: Any) -> DataElement:
    """Return an element of the VR that the data dictionary has for it."""
    vr = dictionary_VR(keyword)
    if vr == "DS":
        numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        decimals = [DSfloat(float(number), auto_format=True) for number in numbers]
        value = decimals if len(decimals) != 1 else decimals[0]
    return DataElement(tag_of(keyword), vr, value)


def elements_of(values: Mapping[str, Any]) -> Elements:
    """Return the elements of attributes given by keyword and value."""
    elements = (element_of(keyword, value) for keyword, value in values.items())
    return {BaseTag(element.tag): element for element in elements}


def private_value(header: Dataset, group: int, creator: str, element: int) -> Any:
    """Return a private attribute's value, None where it is absent or cannot be parsed."""
    if all(tag >> 16 != group for tag in header.keys()):  # noqa: SIM118 - not parsed elements
        return None  # as in most headers, and far sooner than pydicom says so
    try:
        return header.private_block(group, creator)[element].value
    except Exception:  # noqa: BLE001 - values are parsed on access, and hostile ones raise anything
        return None


def tag_of(keyword: str) -> BaseTag:
    """Return an attribute's tag; KeyError where the data dictionary has no such keyword."""
    number = tag_for_keyword(keyword)
    if number is None:
        raise KeyError(keyword)
    return Tag(number)


def check_frames(instance: Instance, frames: int) -> None:
    """Refuse more frames than the file has pixel bytes for, before there is a list of them."""
    header = instance.header
    if instance.pixel_length is None:
        needed = frames * MIN_ENCAPSULATED_FRAME
    else:
        bits = integer_of(header, "SamplesPerPixel", 1) * integer_of(header, "BitsAllocated")
        pixels = integer_of(header, "Rows") * integer_of(header, "Columns")
        needed = frames * max(pixels * bits // 8, 1)
    if needed > instance.pixel_bytes_available:
        raise unreadable_frames(
            f"it declares {frames} frames, but the file is too short for them",
            f"声明有 {frames} 帧，但文件长度不足",
        )


def unreadable_frames(en: str, zh: str) -> UnreadableInstanceError:
    """Return the error that says why the images of an instance cannot be told apart."""
    return UnreadableInstanceError(
        Text(
            en=f"A multi-frame image cannot be read: {en}. Send the series again, as single-frame "
            "images if the scanner or the PACS can.",
            zh=f"多帧图像无法读取：{zh}。"
            "请重新发送该序列，如扫描设备或 PACS 支持请以单帧图像发送。",
        )
    )
