"""The frames of an enhanced image, each with the attributes that a single-frame image would have.

Enhanced and Legacy Converted Enhanced CT and MR keep them in functional groups (PS3.3 C.7.6.16).
"""

from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from node.data_elements import Elements
from node.image_header import (
    check_frames,
    check_proportion,
    element_of,
    image_header,
    parsed_elements,
    tag_of,
    unreadable_frames,
)
from node.instances import Instance, integer_of, numbers_of, value_of
from node.sequence_items import items_of

SHARED = "SharedFunctionalGroupsSequence"
PER_FRAME = "PerFrameFunctionalGroupsSequence"
DIMENSIONS = "DimensionIndexSequence"

NOT_OF_ALL_FRAMES = (
    SHARED,
    PER_FRAME,
    DIMENSIONS,
    "NumberOfFrames",
    "ImagePositionPatient",
    "SliceLocation",
)
"""What the instance says only of all its frames together, or of one of them."""

RENAMED = {
    "FrameType": "ImageType",
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
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

POSITIONS = frozenset(
    tag_of(keyword)
    for keyword in (
        "ImagePositionPatient",
        "ImagePositionVolume",
        "InStackPositionNumber",
        "SliceLocation",
    )
)
"""Dimensions that frames of one stack differ in."""

_DIRECTION = tag_of("DiffusionGradientDirectionSequence")


Known = dict[tuple[BaseTag, bytes], Elements]
"""What groups of the same bytes say; most frames repeat each other in most groups."""


def enhanced_headers(instance: Instance) -> list[Dataset]:
    """Return the header of each frame, in the order of the frames.

    A frame's own functional groups go before the shared ones, and these before the attributes of
    the instance. Dimension Index Values are 0, as no index is, for dimensions that are positions.
    Raises UnreadableInstanceError where Number of Frames is not the number of items in the
    Per-frame Functional Groups Sequence, or more than the file can hold.
    """
    header = instance.header
    declared = integer_of(header, "NumberOfFrames", 1)
    frames = items_of(header, tag_of(PER_FRAME))
    if declared < 1 or len(frames) != declared:
        raise unreadable_frames(
            f"it declares {declared} frames but describes {len(frames)} of them",
            f"声明有 {declared} 帧，但描述了其中 {len(frames)} 帧",
        )
    check_frames(instance, declared)
    common = parsed_elements(header, without=NOT_OF_ALL_FRAMES)
    known: Known = {}
    for item in items_of(header, tag_of(SHARED)):
        common |= _attributes(item, known)
    check_proportion(common, declared)
    common = parsed_elements(image_header(header, common))
    pointers = [
        value_of(item, "DimensionIndexPointer") for item in items_of(header, tag_of(DIMENSIONS))
    ]
    made = [image_header(header, common, _attributes(item, known)) for item in frames]
    for frame in made:
        if "RescaleSlope" not in frame:
            _take_real_world_values(frame)
        _blank_positions(frame, pointers)
    return made


def _blank_positions(header: Dataset, pointers: Sequence[Any]) -> None:
    """Keep of Dimension Index Values (PS3.3 C.7.6.17) what tells frames at one position apart."""
    values = value_of(header, "DimensionIndexValues")
    indices = values if isinstance(values, Sequence) else [values]
    if len(indices) != len(pointers):
        header.pop("DimensionIndexValues", None)
        return
    blanked = [
        0 if pointer is None or pointer in POSITIONS else index
        for index, pointer in zip(indices, pointers, strict=True)
    ]
    header.add(element_of("DimensionIndexValues", blanked))


def _take_real_world_values(header: Dataset) -> None:
    """Make a rescale of a linear Real World Value Mapping, where there is exactly one.

    An MR frame need not have a Pixel Value Transformation; its values are then mapped by this
    alone (PS3.3 C.7.6.16.2.11).
    """
    mappings = items_of(header, tag_of("RealWorldValueMappingSequence"))
    if len(mappings) != 1:
        return
    slope = numbers_of(mappings[0], "RealWorldValueSlope", 1)
    intercept = numbers_of(mappings[0], "RealWorldValueIntercept", 1)
    if slope is not None and intercept is not None:
        for keyword, value in (("RescaleSlope", slope[0]), ("RescaleIntercept", intercept[0])):
            header.add(element_of(keyword, value))


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
    groups = items_of(item, tag)
    if not groups:
        return {}
    if tag in ABOUT_OTHER_IMAGES or len(groups) > 1:
        return {tag: item.get_item(tag)}
    found = _of_the_frame(groups[0])
    for direction in items_of(groups[0], _DIRECTION):
        found |= _of_the_frame(direction)
    for macro, single_frame in RENAMED.items():
        value = value_of(groups[0], macro) if tag_of(macro) in found else None
        if value is not None:
            found[tag_of(single_frame)] = element_of(single_frame, value)
    return found


def _of_the_frame(group: Dataset) -> Elements:
    return {
        BaseTag(tag): group.get_item(tag)
        for tag in group.keys()  # noqa: SIM118 - a data set iterates over parsed elements
        if not tag.is_private and tag not in OF_THE_INSTANCE
    }
