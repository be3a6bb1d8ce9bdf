"""Which instances of a series are the slices of one stack, and which are set aside.

The rules are few and named; what they set aside is reported, never dropped in silence.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

from inference.assessment import Text
from inference.volume import Geometry
from node.frames import MODALITY_OF_CLASS, Frame, frames_of
from node.instances import Instance, integer_of, numbers_of, text_of, value_of
from node.planes import Plane

MIN_STACK_SHARE = 0.5
"""More than this share of the images are of one matrix and orientation, or there is no stack."""

MAX_UNPLACED_SHARE = 0.1
"""Up to this share of the images, or one, may lack a position where the matrix is another."""

NON_VOLUME_IMAGE_TYPES = {
    "LOCALIZER": "localizer",
    "SCREEN SAVE": "screen save",
    "DOSE_INFO": "dose screen",
    "CT_SOM5 PROT": "patient protocol screen",
    "PROJECTION IMAGE": "projection image",
    "MIP": "maximum intensity projection",
    "MAX_IP": "maximum intensity projection",
    "MNIP": "minimum intensity projection",
    "MINIP": "minimum intensity projection",
    "MIN_IP": "minimum intensity projection",
    "CSA MIP": "maximum intensity projection",
}
"""Values of Image Type (PS3.3 C.8.2.1.1.1, and vendors' own) whose images are no slices."""


class Refusal(NamedTuple):
    """Why the instances are not one stack of slices."""

    geometry: Geometry
    reason: Text


@dataclass(frozen=True, eq=False)
class Selection:
    """The slices of a series, each with its plane, and what was set aside by which rule.

    With a `refusal` the instances are no stack, and `planes` may be fewer than `slices`.
    """

    slices: tuple[Frame, ...]
    planes: tuple[Plane, ...]
    rules: Counter[str]
    refusal: Refusal | None


@dataclass(frozen=True, eq=False)
class _Slice:
    frame: Frame
    plane: Plane | None


def select_slices(instances: Sequence[Instance]) -> Selection:
    """Set aside what is no slice, and refuse what is a mixture of several stacks.

    The slices that remain without a refusal are parallel, of one matrix, pixel spacing, frame of
    reference and SOP class, and all have positions. Raises UnreadableInstanceError for an instance
    whose frames cannot be told apart.
    """
    images: list[Frame] = []
    rules: Counter[str] = Counter()
    for instance in instances:
        rule = _non_volume_rule(instance.header)
        frames = () if rule else frames_of(instance)
        found = [rule] if rule else [_non_volume_rule(frame.header) for frame in frames]
        rules.update(rule for rule in found if rule)
        images += [frame for frame, rule in zip(frames, found, strict=False) if not rule]
    refusal = _refuse_before_geometry(images)
    if refusal is not None:
        return Selection(tuple(images), (), rules, refusal)

    slices, strays = _separate_strays([_Slice(image, _plane(image.header)) for image in images])
    rules.update(
        "image without a position"
        if stray.plane is None
        else "image of another matrix or orientation than the stack"
        for stray in strays
    )
    return Selection(
        slices=tuple(item.frame for item in slices),
        planes=tuple(item.plane for item in slices if item.plane is not None),
        rules=rules,
        refusal=_refuse_mixture(slices),
    )


def _non_volume_rule(header: Dataset) -> str | None:
    """Name the rule by which an instance or frame is no slice, or None where it may be one."""
    sop_class = UID(text_of(header, "SOPClassUID"))
    if sop_class not in MODALITY_OF_CLASS:
        return f"{sop_class.name or 'unknown SOP class'}, not a CT or MR image"
    image_type = value_of(header, "ImageType")
    values = [image_type] if isinstance(image_type, str) else image_type
    if isinstance(values, Sequence):
        for value in values:
            name = NON_VOLUME_IMAGE_TYPES.get(str(value).upper())
            if name is not None:
                return name
    if integer_of(header, "SamplesPerPixel", 1) != 1:
        return "colour image"
    return None


def _refuse_before_geometry(images: Sequence[Frame]) -> Refusal | None:
    if not images:
        return Refusal(
            Geometry.NOT_A_VOLUME,
            Text(
                en="The series holds no CT or MR slices. "
                "Send the acquired or reconstructed series.",
                zh="该序列不含 CT 或 MR 层面图像。请发送采集或重建的序列。",
            ),
        )
    return None


def _plane(header: Dataset) -> Plane | None:
    """Return the slice's plane; None where position, orientation or pixel spacing is missing."""
    position = numbers_of(header, "ImagePositionPatient", 3)
    orientation = numbers_of(header, "ImageOrientationPatient", 6)
    spacing = numbers_of(header, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        return None
    thickness = numbers_of(header, "SliceThickness", 1)
    return Plane(
        position=np.array(position),
        row_direction=np.array(orientation[:3]),
        column_direction=np.array(orientation[3:]),
        row_spacing=spacing[0],
        column_spacing=spacing[1],
        rows=integer_of(header, "Rows"),
        columns=integer_of(header, "Columns"),
        thickness=None if thickness is None else thickness[0],
    )


def _separate_strays(slices: Sequence[_Slice]) -> tuple[list[_Slice], list[_Slice]]:
    """Split off the images whose matrix or orientation is not the stack's.

    The stack is the group of one matrix and orientation that more than half of the images are of;
    where there is none, all stay, to be refused as a mixture. An image of the stack's matrix
    without a position stays too: it may be one of its slices.
    """
    groups: list[list[_Slice]] = []
    for item in slices:
        for group in groups:
            if _same_kind(item, group[0]):
                group.append(item)
                break
        else:
            groups.append([item])
    stack = max(groups, key=len)
    strays = [item for group in groups if group is not stack for item in group]
    unplaced = [item for item in strays if item.plane is None]
    may_be_slices = any(_matrix(item) == _matrix(stack[0]) for item in unplaced)
    if (
        len(stack) <= MIN_STACK_SHARE * len(slices)
        or may_be_slices
        or len(unplaced) > max(1, MAX_UNPLACED_SHARE * len(slices))
    ):
        return list(slices), []
    return stack, strays


def _matrix(item: _Slice) -> tuple[int, int]:
    header = item.frame.header
    return integer_of(header, "Rows"), integer_of(header, "Columns")


def _same_kind(one: _Slice, other: _Slice) -> bool:
    if _matrix(one) != _matrix(other):
        return False
    if one.plane is None or other.plane is None:
        return one.plane is other.plane
    return one.plane.is_parallel(other.plane)


def _refuse_mixture(slices: Sequence[_Slice]) -> Refusal | None:
    planes = [item.plane for item in slices if item.plane is not None]
    without = len(slices) - len(planes)
    if without:
        return Refusal(
            Geometry.NO_POSITIONS,
            Text(
                en=f"{without} of {len(slices)} images have no Image Position, Image Orientation "
                "or Pixel Spacing, so it is unknown where they lie. Send the original series.",
                zh=f"{len(slices)} 幅图像中有 {without} 幅缺少图像位置、图像方位或像素间距，"
                "无法确定其空间位置。请发送原始序列。",
            ),
        )
    headers = [item.frame.header for item in slices]
    first = planes[0]
    differing: Sequence[tuple[bool, str, str]] = (
        (varies(headers, "SeriesInstanceUID"), "series", "所属序列"),
        (varies(headers, "SOPClassUID"), "modality", "成像设备类型"),
        (varies(headers, "FrameOfReferenceUID"), "frame of reference", "参考坐标系"),
        (
            len({_matrix(item) for item in slices}) > 1,
            "matrix (rows and columns)",
            "矩阵（行列数）",
        ),
        (not all(plane.is_parallel(first) for plane in planes), "orientation", "方位"),
        (not all(plane.has_spacing_of(first) for plane in planes), "pixel spacing", "像素间距"),
    )
    names = [(en, zh) for differs, en, zh in differing if differs]
    if names:
        return Refusal(
            Geometry.INCONSISTENT,
            Text(
                en=f"The images of the series differ in {', '.join(en for en, _ in names)}. "
                "Send each acquisition or reconstruction as a series of its own.",
                zh=f"该序列的图像在{'、'.join(zh for _, zh in names)}上不一致。"
                "请将每次采集或重建分别作为独立序列发送。",
            ),
        )
    return None


def varies(headers: Sequence[Dataset], keyword: str) -> bool:
    """Tell whether an attribute has more than one value among the headers."""
    return len({text_of(header, keyword) for header in headers}) > 1
