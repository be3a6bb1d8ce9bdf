"""The instances of one series -> one Volume, or the reason why not.

Each file is read once: its header first, its pixel data only when the whole series is accepted.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from inference.assessment import Text
from inference.volume import Geometry, GeometryVerdict, Volume
from node.geometry import Plane, Stack, stack_planes
from node.instances import (
    Instance,
    UnreadableInstanceError,
    integer_of,
    numbers_of,
    read_instance,
    text_of,
    value_of,
)
from node.pixels import decode_slice, pixel_format

MAX_VOXELS = 2**29
"""A volume of more voxels (2 GiB as float32, 2048 slices of 512 x 512) is refused."""

MAX_STRAY_FRACTION = 0.1
"""A single image of another matrix or orientation, or up to this part of them, is set aside."""

DECODING_THREADS = 2
"""Threads that decode compressed slices; most codecs let go of the interpreter meanwhile."""

SINGLE_FRAME_CLASSES = {CTImageStorage: "CT", MRImageStorage: "MR"}
MULTI_FRAME_CLASSES = {
    EnhancedCTImageStorage: "CT",
    LegacyConvertedEnhancedCTImageStorage: "CT",
    EnhancedMRImageStorage: "MR",
    LegacyConvertedEnhancedMRImageStorage: "MR",
}

NON_VOLUME_IMAGE_TYPES = {
    "LOCALIZER": "localizer",
    "SCREEN SAVE": "screen save",
    "DOSE_INFO": "dose screen",
    "CT_SOM5 PROT": "patient protocol screen",
}
"""Values of Image Type (PS3.3 C.8.2.1.1.1, and vendors' own) whose images are no slices."""

SEPARATORS = {
    "EchoTime": Text(en="echo time", zh="回波时间"),
    "TemporalPositionIdentifier": Text(en="temporal position", zh="时相"),
    "TriggerTime": Text(en="trigger time", zh="触发时间"),
    "DiffusionBValue": Text(en="diffusion b-value", zh="扩散 b 值"),
    "ConvolutionKernel": Text(en="convolution kernel", zh="卷积核"),
    "ImageType": Text(en="image type", zh="图像类型"),
    "AcquisitionNumber": Text(en="acquisition number", zh="采集编号"),
}
"""Attributes that tell images at one position apart, the most telling first."""


@dataclass(frozen=True, eq=False)
class Assembled:
    """What became of a series: always a verdict, and a volume exactly where it was accepted.

    `headers` are those of every instance that could be parsed, without pixel data: in slice order
    first, then whatever was set aside.
    """

    verdict: GeometryVerdict
    volume: Volume | None
    headers: tuple[Dataset, ...]


@dataclass(frozen=True, eq=False)
class _Slice:
    instance: Instance
    plane: Plane | None


def assemble(paths: Sequence[Path]) -> Assembled:
    """Make a volume of one series' Part 10 files, given in any order.

    Voxels are float32 [slice, row, column] with Rescale Slope and Intercept of each slice applied;
    slices ascend along the cross product of row and column direction, and the affine maps indices
    to LPS mm. Bad data never raise: they are a verdict with its reason. OSError is raised where
    the files themselves cannot be read.
    """
    instances: list[Instance] = []
    for path in paths:
        try:
            instances.append(read_instance(path))
        except UnreadableInstanceError as error:
            return _refused(instances, Geometry.UNREADABLE, error.reason)

    images, aside, rules = _select_images(instances)
    refusal = _refuse_before_geometry(images)
    if refusal is not None:
        return _refused([*images, *aside], *refusal, rules)
    slices = [_Slice(image, _plane(image.header)) for image in images]
    slices, strays = _separate_strays(slices)
    for stray in strays:
        aside.append(stray.instance)
        rules["image of another matrix or orientation than the stack"] += 1
    planes = [item.plane for item in slices if item.plane is not None]
    members = [item.instance for item in slices]
    refusal = _refuse_mixture(slices, planes)
    if refusal is not None:
        return _refused([*members, *aside], *refusal, rules)

    stack = stack_planes(planes)
    ordered = [members[index] for index in stack.order]
    verdict = replace(stack.verdict, set_aside=_described(rules))
    headers = tuple(instance.header for instance in (*ordered, *aside))
    if not verdict.accepted:
        if verdict.geometry is Geometry.DUPLICATED:
            verdict = replace(verdict, reason=_with_separator(verdict.reason, ordered))
        return Assembled(verdict, None, headers)
    try:
        volume = _load(ordered, stack, verdict)
    except UnreadableInstanceError as error:
        verdict = replace(
            verdict, geometry=Geometry.UNREADABLE, accepted=False, reason=error.reason
        )
        return Assembled(verdict, None, headers)
    return Assembled(verdict, volume, headers)


def _select_images(
    instances: Sequence[Instance],
) -> tuple[list[Instance], list[Instance], Counter[str]]:
    """Return the images that may be slices, what was set aside, and how often by which rule."""
    images: list[Instance] = []
    aside: list[Instance] = []
    rules: Counter[str] = Counter()
    for instance in instances:
        rule = _non_volume_rule(instance.header)
        if rule is None:
            images.append(instance)
        else:
            aside.append(instance)
            rules[rule] += 1
    return images, aside, rules


def _non_volume_rule(header: Dataset) -> str | None:
    """Name the rule by which an instance is no slice, or None where it may be one."""
    sop_class = UID(text_of(header, "SOPClassUID"))
    if sop_class not in SINGLE_FRAME_CLASSES and sop_class not in MULTI_FRAME_CLASSES:
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


def _refuse_before_geometry(images: Sequence[Instance]) -> tuple[Geometry, Text] | None:
    if not images:
        return Geometry.NOT_A_VOLUME, Text(
            en="The series holds no CT or MR slices. Send the acquired or reconstructed series.",
            zh="该序列不含 CT 或 MR 层面图像。请发送采集或重建的序列。",
        )
    for image in images:
        is_enhanced = UID(text_of(image.header, "SOPClassUID")) in MULTI_FRAME_CLASSES
        if is_enhanced or integer_of(image.header, "NumberOfFrames", 1) > 1:
            return Geometry.MULTI_FRAME, Text(
                en="The series holds multi-frame (enhanced) images, which are not read yet. "
                "Send it as single-frame CT or MR images.",
                zh="该序列为多帧（增强型）图像，目前尚不支持。请以单帧 CT 或 MR 图像发送。",
            )
    return None


def _plane(header: Dataset) -> Plane | None:
    """Return the slice's plane; None where position, orientation or pixel spacing is missing."""
    position = numbers_of(header, "ImagePositionPatient", 3)
    orientation = numbers_of(header, "ImageOrientationPatient", 6)
    spacing = numbers_of(header, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        return None
    return Plane(
        position=np.array(position),
        row_direction=np.array(orientation[:3]),
        column_direction=np.array(orientation[3:]),
        row_spacing=spacing[0],
        column_spacing=spacing[1],
        rows=integer_of(header, "Rows"),
        columns=integer_of(header, "Columns"),
    )


def _separate_strays(slices: Sequence[_Slice]) -> tuple[list[_Slice], list[_Slice]]:
    """Split off the few images whose matrix or orientation is not the stack's.

    The stack is the largest group of one matrix and orientation. More than a few others are no
    strays but a mixture, and stay. An image of the stack's matrix without a position stays too:
    it may be one of its slices.
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
    few = len(strays) <= max(1, int(MAX_STRAY_FRACTION * len(slices)))
    is_a_slice_without_position = any(
        item.plane is None and _matrix(item) == _matrix(stack[0]) for item in strays
    )
    if len(stack) < len(strays) or not few or is_a_slice_without_position:
        return list(slices), []
    return stack, strays


def _matrix(item: _Slice) -> tuple[int, int]:
    header = item.instance.header
    return integer_of(header, "Rows"), integer_of(header, "Columns")


def _same_kind(one: _Slice, other: _Slice) -> bool:
    if _matrix(one) != _matrix(other):
        return False
    if one.plane is None or other.plane is None:
        return one.plane is other.plane
    return one.plane.is_parallel(other.plane)


def _refuse_mixture(
    slices: Sequence[_Slice], planes: Sequence[Plane]
) -> tuple[Geometry, Text] | None:
    without = len(slices) - len(planes)
    if without:
        return Geometry.NO_POSITIONS, Text(
            en=f"{without} of {len(slices)} images have no Image Position, Image Orientation or "
            "Pixel Spacing, so it is unknown where they lie. Send the original series.",
            zh=f"{len(slices)} 幅图像中有 {without} 幅缺少图像位置、图像方位或像素间距，"
            "无法确定其空间位置。请发送原始序列。",
        )
    headers = [item.instance.header for item in slices]
    first = planes[0]
    differing: Sequence[tuple[bool, str, str]] = (
        (_varies(headers, "SeriesInstanceUID"), "series", "所属序列"),
        (_varies(headers, "SOPClassUID"), "modality", "成像设备类型"),
        (_varies(headers, "FrameOfReferenceUID"), "frame of reference", "参考坐标系"),
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
        return Geometry.INCONSISTENT, Text(
            en=f"The images of the series differ in {', '.join(en for en, _ in names)}. "
            "Send each acquisition or reconstruction as a series of its own.",
            zh=f"该序列的图像在{'、'.join(zh for _, zh in names)}上不一致。"
            "请将每次采集或重建分别作为独立序列发送。",
        )
    if any(text_of(header, "PhotometricInterpretation") == "MONOCHROME1" for header in headers):
        return Geometry.NOT_A_VOLUME, Text(
            en="The images are stored inverted (MONOCHROME1), which scanners do not do for CT and "
            "MR. Send the series as it came from the scanner.",
            zh="图像以反转灰度（MONOCHROME1）存储，CT 与 MR 扫描设备不会如此存储。"
            "请发送扫描设备的原始序列。",
        )
    voxels = len(slices) * first.rows * first.columns
    if voxels > MAX_VOXELS:
        return Geometry.UNREADABLE, Text(
            en=f"The series has {voxels:.2e} voxels, more than the {MAX_VOXELS:.2e} that are read. "
            "Send a reconstruction with fewer or smaller slices.",
            zh=f"该序列有 {voxels:.2e} 个体素，超过可读取的上限 {MAX_VOXELS:.2e}。"
            "请发送层数更少或矩阵更小的重建序列。",
        )
    return None


def _varies(headers: Sequence[Dataset], keyword: str) -> bool:
    return len({text_of(header, keyword) for header in headers}) > 1


def _load(ordered: Sequence[Instance], stack: Stack, verdict: GeometryVerdict) -> Volume:
    """Decode every slice to its place; raises UnreadableInstanceError for the first that fails."""
    assert stack.affine is not None  # noqa: S101 - an accepted stack has a grid
    headers = tuple(instance.header for instance in ordered)
    modality = SINGLE_FRAME_CLASSES[UID(text_of(headers[0], "SOPClassUID"))]
    layouts = [pixel_format(instance, modality=modality) for instance in ordered]
    shape = (len(ordered), layouts[0].rows, layouts[0].columns)
    voxels = np.empty(shape, np.float32)
    # Native slices are one copy each: threads would only cost.
    if any(instance.transfer_syntax.is_compressed for instance in ordered):
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            for _ in threads.map(decode_slice, ordered, layouts, voxels):
                pass
    else:
        for instance, layout, plane in zip(ordered, layouts, voxels, strict=True):
            decode_slice(instance, layout, plane)
    grid = hd.Volume(
        voxels,
        stack.affine,
        "PATIENT",
        frame_of_reference_uid=text_of(headers[0], "FrameOfReferenceUID") or None,
    )
    return Volume(grid, headers, verdict, modality, _limitations(headers))


def _limitations(headers: Sequence[Dataset]) -> tuple[Text, ...]:
    found = []
    if any(text_of(header, "LossyImageCompression") == "01" for header in headers):
        found.append(
            Text(
                en="The images were compressed with loss before they were assessed.",
                zh="图像在评估之前经过有损压缩。",
            )
        )
    if not text_of(headers[0], "FrameOfReferenceUID"):
        found.append(
            Text(
                en="The images name no frame of reference; positions hold within this series only.",
                zh="图像未注明参考坐标系，位置仅在本序列内有效。",
            )
        )
    return tuple(found)


def _with_separator(reason: Text | None, ordered: Sequence[Instance]) -> Text | None:
    """Add to the reason which attribute tells the images at one position apart, if one does."""
    headers = [instance.header for instance in ordered]
    for keyword, name in SEPARATORS.items():
        if reason is not None and _varies(headers, keyword):
            return Text(
                en=f"{reason.en} They differ in {name.en}.",
                zh=f"{reason.zh}其区别在于{name.zh}。",
            )
    return reason


def _described(rules: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} x {rule}" for rule, count in sorted(rules.items()))


def _refused(
    instances: Sequence[Instance],
    geometry: Geometry,
    reason: Text,
    rules: Counter[str] | None = None,
) -> Assembled:
    described = _described(rules or Counter())
    verdict = GeometryVerdict(
        geometry=geometry,
        accepted=False,
        slices=len(instances) - sum((rules or Counter()).values()),
        reason=reason,
        set_aside=described,
    )
    return Assembled(verdict, None, tuple(instance.header for instance in instances))
