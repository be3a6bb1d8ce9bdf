"""The steps between slices: where slices are missing, and the even grid that holds all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from node.planes import Floats

MISSING_SLICE_FACTOR = 1.5
"""A step longer than this many expected steps is a gap, with slices missing in it."""

STEP_NOISE = 0.2
"""A gap is this much longer, in expected steps, before it is one of another number of slices."""

ISOLATION_FACTOR = 1.5
"""A step that is longer than its neighbours by this factor stands alone."""

SLOT_TOLERANCE = 0.02
"""How far a slice may lie from its plane of the even grid, in median steps between slices."""

MAX_SLOT_SHIFT = 0.25
"""How far it may lie from that plane at most, in steps of the grid."""

ROUNDING = 1e-6
"""What differs by less, in steps of the grid, is the same number, computed twice."""

WIDEST_GAP = 1e6
"""Expected steps that a gap is long at most; places of 1e57 mm may have endless ones."""

MAX_DIVISIONS = 16
"""The grid's step is a step between slices, or it divided by at most this number."""

SAME_STEP = 0.01
"""Steps that differ by less than this fraction are one step, written with different rounding."""


@dataclass(frozen=True)
class Gap:
    """A step in which anatomy was not imaged.

    `index` is that of the image before it, `missing` how many slices it lacks, `steps` how many
    expected steps it is long. A gap is `isolated` where the steps beside it are shorter; a
    whole part of the stack that was imaged with wide steps is not.
    """

    index: int
    missing: int
    steps: float
    isolated: bool

    def is_wider(self, limit: float) -> bool:
        """Tell whether it is too wide to be filled; a regular wide part never is."""
        return self.isolated and self.steps > limit + STEP_NOISE


def find_gaps(along: Floats, thickness: Sequence[float | None]) -> tuple[Gap, ...]:
    """Find the steps that are longer than the slices' thickness makes plausible.

    `along` [k] are ascending places in mm. A part of a stack that was acquired with thicker slices
    has longer steps without a gap; where thickness is not given for all, the median step counts.
    """
    steps = np.diff(along)
    expected = _expected(steps, thickness)
    gaps = []
    for index in np.flatnonzero(steps > MISSING_SLICE_FACTOR * expected):
        beside = np.concatenate([steps[max(0, index - 1) : index], steps[index + 1 : index + 2]])
        # Far away from the origin the steps beside it have no length in floating point.
        step, usual = float(steps[index]), float(expected[index])
        ratio = step / usual if usual * WIDEST_GAP > step else WIDEST_GAP
        isolated = bool((beside * ISOLATION_FACTOR < steps[index]).all())
        gaps.append(Gap(int(index), max(1, round(ratio) - 1), ratio, isolated))
    return tuple(gaps)


def _expected(steps: Floats, thickness: Sequence[float | None]) -> Floats:
    known = [value for value in thickness if value is not None and value > 0]
    median: Floats = np.full(len(steps), np.median(steps))
    if len(known) < len(thickness):
        return median
    between = (np.array(known[1:]) + np.array(known[:-1])) / 2
    by_thickness: Floats = between * np.median(steps / between)
    return by_thickness


def even_slots(along: Floats, most: int) -> tuple[float, float, Floats]:
    """Find the coarsest even grid with a plane at each of the ascending places `along` (mm).

    Returns its step, its first place and the slice index of each place: whole numbers, unless the
    places have no common measure on a grid of at most `most` slices; then it has so many, and
    images lie between its planes.
    """
    extent = float(along[-1] - along[0])
    tolerance = SLOT_TOLERANCE * float(np.median(np.diff(along)))
    for guess in _candidates(np.diff(along), extent / max(most - 1, 1)):
        step, start = _fitted(along, guess)
        places = (along - start) / step
        whole = np.rint(places)
        shift = np.abs(places - whole).max()
        if shift <= min(MAX_SLOT_SHIFT, tolerance / step) and (np.diff(whole) > 0).all():
            return step, start + step * whole[0], whole - whole[0]
    step = extent / max(most - 1, 1)
    places = (along - along[0]) / step
    whole = np.rint(places)
    return step, float(along[0]), np.where(np.abs(places - whole) < ROUNDING, whole, places)


def _candidates(steps: Floats, smallest: float) -> list[float]:
    """Distinct steps and their parts, the largest first, none below `smallest`."""
    distinct: list[float] = []
    for step in np.sort(steps):
        if not distinct or step > distinct[-1] * (1 + SAME_STEP):
            distinct.append(float(step))
    parts = {step / n for step in distinct for n in range(1, MAX_DIVISIONS + 1)}
    return sorted((part for part in parts if part >= smallest * (1 - SAME_STEP)), reverse=True)


def _fitted(along: Floats, guess: float) -> tuple[float, float]:
    """Step near `guess`, and first place, of the even grid that fits all places best."""
    whole = np.concatenate([[0], np.cumsum(np.rint(np.diff(along) / guess))])
    step, start = np.polyfit(whole, along, 1)
    return float(step), float(start)
