"""The steps between slices: where slices are missing, and the even grid that holds all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from node.planes import Floats

MISSING_SLICE_FACTOR = 1.5
"""A step longer than this many expected steps is a gap, with slices missing in it."""

ISOLATION_FACTOR = 1.5
"""A step that is longer than its neighbours by this factor stands alone."""

SLOT_TOLERANCE = 0.05
"""How far a slice may lie from a plane of the even grid, in steps of the grid."""

ROUNDING = 1e-6
"""What differs by less, in steps of the grid, is the same number, computed twice."""

MAX_DIVISIONS = 8
"""The grid's step is at the smallest this part of the smallest step between slices."""

MAX_SLICES_ADDED = 4
"""The grid has at most this many times as many slices as there are images."""


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
        return self.isolated and self.steps > limit


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
        ratio = float(steps[index] / expected[index])
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


def even_slots(along: Floats) -> tuple[float, float, Floats]:
    """Find the coarsest even grid with a plane at each of the ascending places `along` (mm).

    Returns its step, its first place and the slice index of each place: whole numbers, unless the
    places have no common measure; then the grid is fine, and images lie between its planes.
    """
    smallest = float(np.diff(along).min())
    extent = float(along[-1] - along[0])
    limit = MAX_SLICES_ADDED * len(along)
    divisions = range(1, MAX_DIVISIONS + 1)
    steps = [smallest / division for division in divisions if extent * division / smallest < limit]
    for guess in steps:
        step, start = _fitted(along, guess)
        places = (along - start) / step
        whole = np.rint(places)
        if np.abs(places - whole).max() <= SLOT_TOLERANCE and (np.diff(whole) > 0).all():
            return step, start + step * whole[0], whole - whole[0]
    step = steps[-1] if steps else extent / limit
    step = extent / np.ceil(extent / step - 1e-6)
    places = (along - along[0]) / step
    whole = np.rint(places)
    return float(step), float(along[0]), np.where(np.abs(places - whole) < ROUNDING, whole, places)


def _fitted(along: Floats, guess: float) -> tuple[float, float]:
    """Step near `guess`, and first place, of the even grid that fits all places best."""
    whole = np.concatenate([[0], np.cumsum(np.rint(np.diff(along) / guess))])
    step, start = np.polyfit(whole, along, 1)
    return float(step), float(start)
