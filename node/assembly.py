"""The instances of one series -> one Volume, or the reason why not.

Each file is read once: its header first, its pixel data only when the whole series is accepted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import UID

from inference.assessment import Text
from inference.volume import Geometry, GeometryVerdict, Volume
from node import stack_wording as wording
from node.assembly_settings import MAX_GAP
from node.codecs import Codecs
from node.frames import MODALITY_OF_CLASS, Frame
from node.geometry import Stack, stack_planes
from node.instances import Instance, UnreadableInstanceError, read_instance, text_of
from node.pixels import decode_frames, pixel_format
from node.resampling import resample
from node.slice_selection import select_slices
from node.stacks import choose_stack, separate_stacks

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


def assemble(paths: Sequence[Path], *, stack: str = "", max_gap: float = MAX_GAP) -> Assembled:
    """Make a volume of one series' Part 10 files, given in any order.

    Voxels are float32 [slice, row, column] with the rescaling of each slice applied; slices ascend
    along the cross product of row and column direction, and the affine maps indices to LPS mm.
    `stack` is a rule (CEL) that chooses among several images at each position, `max_gap` the widest
    gap that is filled, in usual steps. Bad data never raise: they are a verdict with its reason.
    OSError is raised where the files themselves cannot be read, ValueError where the rule cannot
    be evaluated.
    """
    instances: list[Instance] = []
    try:
        instances += map(read_instance, paths)
        verdict, volume = _assembled(instances, stack, max_gap)
    except UnreadableInstanceError as error:
        unreadable = Geometry.UNREADABLE
        verdict = GeometryVerdict(
            unreadable, accepted=False, slices=len(paths), reason=error.reason
        )
        volume = None
    return Assembled(verdict, volume, tuple(instance.header for instance in instances))


def _assembled(
    instances: Sequence[Instance], rule: str, max_gap: float
) -> tuple[GeometryVerdict, Volume | None]:
    selection = select_slices(instances)
    aside = selection.rules
    if selection.refusal is not None:
        return _refused(*selection.refusal, len(selection.slices), aside), None
    separation = separate_stacks(selection.slices, selection.planes)
    if separation.twins:
        aside["image that was sent twice, with the same pixels"] += len(separation.twins)
    if separation.repeated:
        aside["image that was acquired again at its position"] += len(separation.repeated)
    if not separation.stacks:
        reason = wording.inseparable(len(selection.slices))
        return _refused(Geometry.DUPLICATED, reason, len(selection.slices), aside), None
    chosen = choose_stack(separation.stacks, rule)
    if chosen is None:
        reason = wording.no_stack_taken(separation, rule)
        return _refused(Geometry.DUPLICATED, reason, len(selection.slices), aside), None
    stack = stack_planes(chosen.planes, max_gap=max_gap)
    ordered = [chosen.frames[index] for index in stack.order]
    verdict = replace(stack.verdict, set_aside=_counted(aside))
    if verdict.accepted and not text_of(ordered[0].header, "FrameOfReferenceUID"):
        inconsistent = Geometry.INCONSISTENT
        verdict = replace(verdict, geometry=inconsistent, accepted=False, reason=NO_FRAME)
    if not verdict.accepted:
        return verdict, None
    if len(separation.stacks) > 1:
        note = wording.stack_taken(separation, chosen, by_rule=bool(rule))
        verdict = replace(verdict, notes=(*verdict.notes, note))
    return verdict, _load(ordered, stack, verdict)


def _refused(geometry: Geometry, reason: Text, slices: int, aside: Counter[str]) -> GeometryVerdict:
    return GeometryVerdict(
        geometry, accepted=False, slices=slices, reason=reason, set_aside=_counted(aside)
    )


def _counted(aside: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} x {rule}" for rule, count in sorted(aside.items()))


def _load(ordered: Sequence[Frame], stack: Stack, verdict: GeometryVerdict) -> Volume:
    """Decode every slice to its place; raises UnreadableInstanceError for the first that fails."""
    assert stack.affine is not None  # noqa: S101 - an accepted stack has a grid
    headers = tuple(frame.header for frame in ordered)
    modality = MODALITY_OF_CLASS[UID(text_of(headers[0], "SOPClassUID"))]
    formats = [pixel_format(frame, modality=modality) for frame in ordered]

    with Codecs() as codecs:

        def decode(numbers: Sequence[int], outs: Sequence[npt.NDArray[np.float32]]) -> None:
            chosen = [ordered[number] for number in numbers]
            meant = [formats[number] for number in numbers]
            decode_frames(chosen, meant, outs, codecs)

        if verdict.resampled:
            voxels = resample(stack, decode, formats[0].transformation.background)
        else:
            voxels = np.empty(stack.shape, np.float32)
            decode(range(len(ordered)), list(voxels))
    grid = hd.Volume(
        voxels,
        stack.affine,
        "PATIENT",
        frame_of_reference_uid=text_of(headers[0], "FrameOfReferenceUID"),
    )
    numbers = tuple(frame.number for frame in ordered)
    notes = dict.fromkeys(note for format_ in formats for note in format_.notes)
    limitations = (*verdict.notes, *notes)
    return Volume(grid, headers, verdict, modality, limitations, numbers)
