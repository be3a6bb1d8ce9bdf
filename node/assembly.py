"""The instances of one series -> one Volume, or the reason why not.

Each file is read once: its header first, its pixel data only when the whole series is accepted.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

from inference.assessment import Text
from inference.volume import Geometry, GeometryVerdict, Volume
from node.codecs import Codecs
from node.frames import Frame
from node.geometry import Stack, stack_planes
from node.instances import Instance, UnreadableInstanceError, read_instance, text_of
from node.pixels import decode_slice, pixel_format
from node.slice_selection import MODALITY_OF_CLASS, select_slices, varies

DECODING_THREADS = 2
"""Threads that read and decode slices; file reads and most codecs let go of the interpreter."""

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

NO_FRAME = Text(
    en="The images name no frame of reference, so a result could not be placed on them. "
    "Send the series again with its Frame of Reference UID (0020,0052).",
    zh="图像未注明参考坐标系，结果无法定位到图像上。"
    "请保留参考坐标系 UID (0020,0052) 后重新发送该序列。",
)


@dataclass(frozen=True, eq=False)
class Assembled:
    """What became of a series: always a verdict, and a volume exactly where it was accepted.

    `headers` are those of every instance that could be parsed, without pixel data, in the order
    given.
    """

    verdict: GeometryVerdict
    volume: Volume | None
    headers: tuple[Dataset, ...]


def assemble(paths: Sequence[Path]) -> Assembled:
    """Make a volume of one series' Part 10 files, given in any order.

    Voxels are float32 [slice, row, column] with Rescale Slope and Intercept of each slice applied;
    slices ascend along the cross product of row and column direction, and the affine maps indices
    to LPS mm. Bad data never raise: they are a verdict with its reason. OSError is raised where
    the files themselves cannot be read.
    """
    instances: list[Instance] = []
    try:
        instances += map(read_instance, paths)
        selection = select_slices(instances)
    except UnreadableInstanceError as error:
        verdict = GeometryVerdict(
            Geometry.UNREADABLE, accepted=False, slices=len(paths), reason=error.reason
        )
        return Assembled(verdict, None, _headers(instances))
    set_aside = tuple(f"{count} x {rule}" for rule, count in sorted(selection.rules.items()))
    if selection.refusal is not None:
        verdict = GeometryVerdict(
            selection.refusal.geometry,
            accepted=False,
            slices=len(selection.slices),
            reason=selection.refusal.reason,
            set_aside=set_aside,
        )
        return Assembled(verdict, None, _headers(instances))

    stack = stack_planes(selection.planes)
    ordered = [selection.slices[index] for index in stack.order]
    headers = _headers(instances)
    verdict = replace(stack.verdict, set_aside=set_aside)
    if verdict.geometry is Geometry.DUPLICATED:
        verdict = replace(verdict, reason=_with_separator(verdict.reason, ordered))
    if verdict.accepted and not text_of(ordered[0].header, "FrameOfReferenceUID"):
        inconsistent = Geometry.INCONSISTENT
        verdict = replace(verdict, geometry=inconsistent, accepted=False, reason=NO_FRAME)
    if not verdict.accepted:
        return Assembled(verdict, None, headers)
    try:
        return Assembled(verdict, _load(ordered, stack, verdict), headers)
    except UnreadableInstanceError as error:
        unreadable = Geometry.UNREADABLE
        verdict = replace(verdict, geometry=unreadable, accepted=False, reason=error.reason)
        return Assembled(verdict, None, headers)


def _load(ordered: Sequence[Frame], stack: Stack, verdict: GeometryVerdict) -> Volume:
    """Decode every slice to its place; raises UnreadableInstanceError for the first that fails."""
    assert stack.affine is not None  # noqa: S101 - an accepted stack has a grid
    headers = tuple(frame.header for frame in ordered)
    modality = MODALITY_OF_CLASS[UID(text_of(headers[0], "SOPClassUID"))]
    formats = [pixel_format(frame, modality=modality) for frame in ordered]
    layout = formats[0].layout
    voxels = np.empty((len(ordered), layout.rows, layout.columns), np.float32)
    with Codecs() as codecs, ThreadPoolExecutor(DECODING_THREADS) as threads:
        for _ in threads.map(decode_slice, ordered, formats, voxels, repeat(codecs)):
            pass
    grid = hd.Volume(
        voxels,
        stack.affine,
        "PATIENT",
        frame_of_reference_uid=text_of(headers[0], "FrameOfReferenceUID"),
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
    return tuple(found)


def _with_separator(reason: Text | None, ordered: Sequence[Frame]) -> Text | None:
    """Add to the reason which attribute tells the images at one position apart, if one does."""
    headers = [frame.header for frame in ordered]
    for keyword, name in SEPARATORS.items():
        if reason is not None and varies(headers, keyword):
            return Text(
                en=f"{reason.en} They differ in {name.en}.",
                zh=f"{reason.zh}其区别在于{name.zh}。",
            )
    return reason


def _headers(instances: Sequence[Instance]) -> tuple[Dataset, ...]:
    return tuple(instance.header for instance in instances)
