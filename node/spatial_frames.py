"""The frames of a multi-frame image without functional groups, where they are slices of a volume.

The standard has no such CT or MR image, but there are some. Only frame 1 has a position; the others
follow from a distance. Frames that follow each other in time, or in an unknown direction, are
refused.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

from node.image_header import (
    check_frames,
    check_proportion,
    elements_of,
    image_header,
    parsed_elements,
    tag_of,
    unreadable_frames,
)
from node.instances import Instance, integer_of, numbers_of, value_of

Floats = npt.NDArray[np.float64]

OFFSETS = "GridFrameOffsetVector"
LOCATIONS = "SliceLocationVector"
SPACING = "SpacingBetweenSlices"
VECTORS = (OFFSETS, LOCATIONS)

LOCATION_TOLERANCE_MM = 0.01
"""A slice location is a distance along the normal where it agrees so well with the position."""


def spatial_headers(instance: Instance) -> list[Dataset]:
    """Return the header of each frame, in the order of the frames.

    Raises UnreadableInstanceError where nothing says that the frames lie beside each other, and in
    which direction.
    """
    header = instance.header
    frames = integer_of(header, "NumberOfFrames")
    check_frames(instance, frames)
    position = numbers_of(header, "ImagePositionPatient", 3)
    orientation = numbers_of(header, "ImageOrientationPatient", 6)
    if position is None or orientation is None:
        raise unreadable_frames(
            "it has no Image Position and Image Orientation for its first frame",
            "首帧缺少图像位置与图像方位",
        )
    normal = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(normal))
    if not 0.9 < length < 1.1:
        raise unreadable_frames(
            "its Image Orientation is no pair of directions", "图像方位不是有效的方向"
        )
    normal = normal / length
    distances = _distances(header, frames, float(normal @ position))
    common = parsed_elements(
        header, without=("NumberOfFrames", "FrameIncrementPointer", "SliceLocation", *VECTORS)
    )
    check_proportion(common, frames)
    return [
        image_header(
            header,
            common,
            elements_of({"ImagePositionPatient": list(position + distance * normal)}),
        )
        for distance in distances
    ]


def _distances(header: Dataset, frames: int, first_along: float) -> Floats:
    """Return how far each frame lies from the first, along the normal.

    A positive Spacing Between Slices stacks frames along the cross product of row and column
    direction, a negative one against it (PS3.3 C.8.4.15, as for nuclear medicine).
    """
    named = _increments(header)
    for keyword in VECTORS:
        vector = numbers_of(header, keyword, frames)
        if vector is not None and (not named or tag_of(keyword) in named):
            return _along(np.array(vector), keyword, first_along)
    spacing = numbers_of(header, SPACING, 1)
    if spacing is None or not spacing[0] or (named and tag_of(SPACING) not in named):
        raise unreadable_frames(
            "its frames follow each other in time, or nothing says how far they are apart",
            "其各帧按时间排列，或未注明帧间距离",
        )
    return np.arange(frames, dtype=np.float64) * spacing[0]


def _along(vector: Floats, keyword: str, first_along: float) -> Floats:
    """Return a vector of offsets or slice locations as distances from the first frame.

    Offsets from 0 on run along the normal (PS3.3 C.8.8.3.2). Locations, and offsets that start
    elsewhere, do where the first of them is the first frame's place on it, or the opposite.
    """
    relative: Floats = vector - vector[0]
    if keyword == OFFSETS and vector[0] == 0:
        return relative
    if abs(first_along) > LOCATION_TOLERANCE_MM:
        for sign in (1.0, -1.0):
            if abs(sign * vector[0] - first_along) < LOCATION_TOLERANCE_MM:
                return np.array(sign * relative)
    raise unreadable_frames(
        "its slice locations do not say in which direction the frames follow each other",
        "其层面位置未能说明各帧的排列方向",
    )


def _increments(header: Dataset) -> set[BaseTag]:
    """Return the attributes that Frame Increment Pointer names as those that vary by frame."""
    pointer: Any = value_of(header, "FrameIncrementPointer")
    if pointer is None or pointer == "":
        return set()
    return {Tag(tag) for tag in pointer} if _is_several(pointer) else {Tag(pointer)}


def _is_several(pointer: Any) -> bool:
    return isinstance(pointer, Iterable) and not isinstance(pointer, str | int)
