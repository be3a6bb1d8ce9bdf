"""The frames of an enhanced image, each with the attributes that a single-frame image would have.

Enhanced and Legacy Converted Enhanced CT and MR keep them in functional groups (PS3.3 C.7.6.16).
"""

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag

from node.image_header import (
    Elements,
    check_frames,
    check_proportion,
    common_elements,
    element_of,
    elements_of,
    image_header,
    parsed_elements,
    tag_of,
    unreadable_frames,
)
from node.instances import Instance, integer_of, value_of

SHARED = "SharedFunctionalGroupsSequence"
PER_FRAME = "PerFrameFunctionalGroupsSequence"

RENAMED = {
    tag_of(macro): single_frame
    for macro, single_frame in {
        "FrameType": "ImageType",
        "EffectiveEchoTime": "EchoTime",
        "FrameAcquisitionNumber": "AcquisitionNumber",
        "FrameAcquisitionDateTime": "AcquisitionDateTime",
        "NominalCardiacTriggerDelayTime": "TriggerTime",
        "TemporalPositionIndex": "TemporalPositionIdentifier",
    }.items()
}
"""Attributes that a single-frame image has under another name."""

ABOUT_OTHER_IMAGES = frozenset(
    tag_of(keyword)
    for keyword in (
        "ConversionSourceAttributesSequence",
        "DerivationImageSequence",
        "RealWorldValueMappingSequence",
        "ReferencedImageSequence",
    )
)
"""Functional groups whose attributes are not the frame's own; they are kept as sequences."""

OF_THE_INSTANCE = frozenset(
    tag_of(keyword)
    for keyword in (
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "Modality",
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelData",
    )
)
"""What no functional group may change: it is the same for all frames."""

_DIRECTION = tag_of("DiffusionGradientDirectionSequence")
_MAPPING = tag_of("RealWorldValueMappingSequence")
_SLOPE = tag_of("RescaleSlope")


Known = dict[tuple[BaseTag, bytes], Elements]
"""What groups of the same bytes say; most frames repeat each other in most groups."""


def enhanced_headers(instance: Instance) -> list[Dataset]:
    """Return the header of each frame, in the order of the frames.

    A frame's own functional groups go before the shared ones, and these before the attributes of
    the instance. Raises UnreadableInstanceError where Number of Frames is not the number of items
    in the Per-frame Functional Groups Sequence, or more than the file can hold.
    """
    header = instance.header
    declared = integer_of(header, "NumberOfFrames", 1)
    frames = _items(header, PER_FRAME)
    if declared < 1 or len(frames) != declared:
        raise unreadable_frames(
            f"it declares {declared} frames but describes {len(frames)} of them",
            f"声明有 {declared} 帧，但描述了其中 {len(frames)} 帧",
        )
    check_frames(instance, declared)
    common = common_elements(
        header, without=(SHARED, PER_FRAME, "DimensionIndexSequence", "NumberOfFrames")
    )
    known: Known = {}
    for item in _items(header, SHARED):
        common |= _attributes(item, known)
    check_proportion(common, declared)
    return [_frame_header(header, common, _attributes(item, known)) for item in frames]


def _frame_header(header: Dataset, common: Elements, own: Elements) -> Dataset:
    if _SLOPE not in own and _SLOPE not in common:
        own = _real_world_scale(own.get(_MAPPING) or common.get(_MAPPING)) | own
    return image_header(header, common, own)


def _attributes(item: Dataset, known: Known) -> Elements:
    """Return what the functional groups in an item say."""
    found: Elements = {}
    for tag in list(item.keys()):
        if tag.is_private:
            continue
        raw = item.get_item(tag)
        if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
            found |= _of_group(item, BaseTag(tag))
            continue
        key = BaseTag(tag), raw.value
        if key not in known:
            known[key] = _of_group(item, BaseTag(tag))
        found |= known[key]
    return found


def _of_group(item: Dataset, tag: BaseTag) -> Elements:
    """Return what one functional group says, also under the names of single-frame images."""
    element = item[tag]
    groups = element.value
    if not isinstance(groups, Items) or not groups:
        return {}
    if tag in ABOUT_OTHER_IMAGES or len(groups) > 1:
        return {tag: element}
    found = _of_the_frame(groups[0])
    direction = found.get(_DIRECTION)
    if direction is not None and isinstance(direction.value, Items) and direction.value:
        found |= _of_the_frame(direction.value[0])
    for macro, single_frame in RENAMED.items():
        if macro in found and found[macro].value is not None:
            found[tag_of(single_frame)] = element_of(single_frame, found[macro].value)
    return found


def _of_the_frame(group: Dataset) -> Elements:
    return {
        tag: element
        for tag, element in parsed_elements(group).items()
        if not tag.is_private and tag not in OF_THE_INSTANCE
    }


def _real_world_scale(mapping: DataElement | RawDataElement | None) -> Elements:
    """Return the rescale of a linear Real World Value Mapping, where there is exactly one.

    An MR frame need not have a Pixel Value Transformation; its values are then mapped by this
    alone (PS3.3 C.7.6.16.2.11).
    """
    if mapping is None or not isinstance(mapping.value, Items) or len(mapping.value) != 1:
        return {}
    scale = {
        target: value_of(mapping.value[0], source)
        for source, target in (
            ("RealWorldValueSlope", "RescaleSlope"),
            ("RealWorldValueIntercept", "RescaleIntercept"),
        )
    }
    return {} if None in scale.values() else elements_of(scale)


def _items(header: Dataset, keyword: str) -> Items:
    value = header.get(keyword)
    return value if isinstance(value, Items) else Items()
