"""Parallel images -> the regular grid on which they make a volume, and a verdict on it.

The grid's rows and columns run as those of the images do. Without resampling it is the best
uniform one; a gantry tilt and uneven steps are undone on a grid that keeps the images' own planes.
Patient coordinates are LPS in mm throughout (PS3.3 C.7.6.2.1.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.assessment import Text
from inference.volume import Geometry, GeometryVerdict
from node import geometry_wording as wording
from node.assembly_settings import MAX_GAP
from node.planes import Floats, Plane
from node.slice_steps import Gap, even_slots, find_gaps

ORTHONORMAL_TOLERANCE = 5e-3
"""How far row and column directions may be from unit length and from a right angle."""

SLICE_SHIFT_TOLERANCE = 0.05
"""How far a slice may lie from its even place along the normal, in slice spacings."""

LATERAL_SHIFT_TOLERANCE = 0.2
"""How far a slice may lie beside the line through all first pixels, in pixels."""

DRIFT_TOLERANCE = 0.1
"""How far that line may lead beside the normal before it is a tilt, in pixels either way."""

MAX_TILT_DEGREES = 45.0
"""No gantry tilts so far (30 is usual); images that drift more are no stack."""

MIN_SLICES = 2
"""A single image has no distance to a neighbour, so it is no volume."""

MAX_VOXELS = 2**29
"""A volume of more voxels (2 GiB as float32, 2048 slices of 512 x 512) is refused."""

MAX_GROWTH = 16
"""A grid has at most so many times the voxels of its images; a steep tilt doubles them."""

MAX_SLICES_FACTOR = 8
"""An uneven stack's grid has at most this many times as many slices as there are images."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel images in the order of their positions along the normal, and the grid for them.

    `order[k]` is the index of the plane that is image k of the stack; the normal is the cross
    product of row and column direction, and positions ascend along it. The grid has `shape`
    (slices, rows, columns), the images have `extent` (rows, columns); `affine` (4, 4) maps the
    grid's indices to patient coordinates and is None where the images make no grid. Image k lies
    at slice index `slots[k]`, its first pixel at row and column index `offsets[k]`; these are
    whole numbers where nothing is resampled.
    """

    order: tuple[int, ...]
    verdict: GeometryVerdict
    affine: Floats | None = None
    shape: tuple[int, int, int] = (0, 0, 0)
    extent: tuple[int, int] = (0, 0)
    slots: Floats | None = None
    offsets: Floats | None = None


@dataclass(frozen=True, eq=False)
class _Run:
    """Images in order: the axes they share, and where each lies along and beside the normal.

    `along` [k] is in mm from the first; `beside` [k, (row direction, column direction)] in mm from
    the straight line along the normal through the middle of all; `drift` (2,) is how far beside
    one goes a millimetre along.
    """

    planes: tuple[Plane, ...]
    row: Floats
    column: Floats
    normal: Floats
    middle: Floats
    along: Floats
    beside: Floats
    drift: Floats

    @property
    def pixel(self) -> tuple[float, float]:
        """Spacing of rows and of columns."""
        return self.planes[0].row_spacing, self.planes[0].column_spacing


def stack_planes(planes: Sequence[Plane], *, max_gap: float = MAX_GAP) -> Stack:
    """Order parallel planes of one matrix and pixel spacing, and find the grid for them.

    No two of the planes lie at one position. `max_gap` is the largest step that is filled by
    interpolation, in expected steps.
    """
    if len(planes) < MIN_SLICES:
        return Stack((0,), _refused(Geometry.TOO_FEW_SLICES, planes, wording.one_slice()))
    axes = _orthonormal(planes)
    if axes is None:
        as_given = tuple(range(len(planes)))
        return Stack(as_given, _refused(Geometry.INCONSISTENT, planes, wording.skewed_axes()))
    order, run = _ordered(planes, *axes)
    unexplained = run.beside - np.outer(run.along - run.along.mean(), run.drift)
    tilt = float(np.degrees(np.arctan(np.linalg.norm(run.drift))))
    if (np.abs(unexplained) / np.flip(run.pixel)).max() > LATERAL_SHIFT_TOLERANCE or (
        tilt > MAX_TILT_DEGREES
    ):
        shift = float(np.linalg.norm(run.beside, axis=1).max())
        verdict = _refused(Geometry.INCONSISTENT, planes, wording.shifted(shift))
        return Stack(order, verdict)
    return _on_a_grid(order, run, tilt, max_gap)


def _on_a_grid(order: tuple[int, ...], run: _Run, tilt: float, max_gap: float) -> Stack:
    count = len(order)
    spacing, start = _even_spacing(run.along)
    off_grid = np.abs(run.along - (start + spacing * np.arange(count))).max()
    is_even = bool(off_grid <= SLICE_SHIFT_TOLERANCE * spacing)
    led_beside = np.outer(run.along, run.drift) / np.flip(run.pixel)
    is_straight = bool(np.abs(led_beside).max() <= DRIFT_TOLERANCE)
    deviation = _deviation(run, spacing, start)
    slots = np.arange(count, dtype=float)
    gaps: tuple[Gap, ...] = ()
    if not is_even:
        gaps = find_gaps(run.along, [plane.thickness for plane in run.planes])
        most = max(count, min(MAX_SLICES_FACTOR * count, MAX_VOXELS // _pixels(run)))
        spacing, start, slots = even_slots(run.along, most)
    offsets = np.zeros((count, 2))
    if not is_straight:
        offsets = np.flip(run.beside, axis=1) / run.pixel
        offsets -= offsets.min(axis=0)
    shape = _shape(run, slots, offsets)
    geometry = _geometry(is_even=is_even, is_straight=is_straight, gapped=bool(gaps))
    refusal = _refusal(run, gaps, shape, max_gap)
    notes = [] if is_straight else [wording.tilt_undone(tilt)]
    steps = np.diff(run.along)
    if gaps:
        notes.append(wording.gaps_filled(run.along, gaps))
    elif not is_even:
        notes.append(wording.steps_evened(steps, spacing))
    verdict = GeometryVerdict(
        geometry=geometry if refusal is None else refusal[0],
        accepted=refusal is None,
        slices=count,
        deviation_mm=deviation,
        spacing_mm=(spacing, *run.pixel),
        steps_mm=(float(steps.min()), float(np.median(steps)), float(steps.max())),
        tilt_degrees=0.0 if is_straight else tilt,
        missing_slices=sum(gap.missing for gap in gaps),
        resampled=not (is_even and is_straight),
        reason=None if refusal is None else refusal[1],
        notes=tuple(notes) if refusal is None else (),
    )
    extent = (run.planes[0].rows, run.planes[0].columns)
    affine = _affine(run, spacing, start, offsets)
    return Stack(order, verdict, affine, shape, extent, slots, offsets)


def _refusal(
    run: _Run, gaps: Sequence[Gap], shape: tuple[int, int, int], max_gap: float
) -> tuple[Geometry, Text] | None:
    """Why the images' grid is none to assess, if it is so."""
    if any(gap.is_wider(max_gap) for gap in gaps):
        return Geometry.GAPPED, wording.gapped(run.along, gaps)
    voxels = np.prod(shape, dtype=float)
    if voxels > MAX_VOXELS:
        return Geometry.UNREADABLE, wording.too_large(shape, MAX_VOXELS)
    if voxels > MAX_GROWTH * len(run.planes) * _pixels(run):
        return Geometry.INCONSISTENT, wording.too_spread()
    return None


def _pixels(run: _Run) -> int:
    return max(1, run.planes[0].rows * run.planes[0].columns)


def _geometry(*, is_even: bool, is_straight: bool, gapped: bool) -> Geometry:
    if gapped:
        return Geometry.GAPPED
    if not is_straight:
        return Geometry.TILTED
    return Geometry.UNIFORM if is_even else Geometry.UNEVEN


def _orthonormal(planes: Sequence[Plane]) -> tuple[Floats, Floats] | None:
    row: Floats = np.mean([plane.row_direction for plane in planes], axis=0)
    column: Floats = np.mean([plane.column_direction for plane in planes], axis=0)
    error = max(
        abs(float(np.linalg.norm(row)) - 1),
        abs(float(np.linalg.norm(column)) - 1),
        abs(float(row @ column)),
    )
    if not error <= ORTHONORMAL_TOLERANCE:
        return None
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def _ordered(planes: Sequence[Plane], row: Floats, column: Floats) -> tuple[tuple[int, ...], _Run]:
    normal = np.cross(row, column)
    positions = np.array([plane.position for plane in planes])
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    middle: Floats = positions.mean(axis=0)
    away = positions - middle
    along = away @ normal
    beside = away @ np.column_stack([row, column])
    drift = along @ beside / (along @ along)
    ordered = tuple(planes[index] for index in order)
    run = _Run(ordered, row, column, normal, middle, along, beside, drift)
    return tuple(int(index) for index in order), run


def _even_spacing(along: Floats) -> tuple[float, float]:
    """Step and first place of the even series nearest to `along`, by least squares."""
    numbers = np.arange(len(along)) - (len(along) - 1) / 2
    spacing = float(numbers @ along / (numbers @ numbers))
    return spacing, float(along.mean() + numbers[0] * spacing)


def _shape(run: _Run, slots: Floats, offsets: Floats) -> tuple[int, int, int]:
    rows, columns = run.planes[0].rows, run.planes[0].columns
    more_rows, more_columns = np.ceil(offsets.max(axis=0) - 1e-3).astype(int)
    return round(float(slots[-1])) + 1, rows + int(more_rows), columns + int(more_columns)


def _affine(run: _Run, spacing: float, start: float, offsets: Floats) -> Floats:
    """Affine of the grid; its first pixel is that of the image whose offset is 0."""
    row_spacing, column_spacing = run.pixel
    affine = np.eye(4)
    affine[:3, 0] = run.normal * spacing
    affine[:3, 1] = run.column * row_spacing
    affine[:3, 2] = run.row * column_spacing
    across, down = 0.0, 0.0
    if offsets.any():
        across, down = run.beside.min(axis=0)
    affine[:3, 3] = run.middle + start * run.normal + across * run.row + down * run.column
    return affine


def _deviation(run: _Run, spacing: float, start: float) -> float:
    """Largest distance in mm of a corner pixel from its place in a uniform, upright stack."""
    affine = _affine(run, spacing, start, np.zeros((1, 2)))
    rows, columns = run.planes[0].rows - 1, run.planes[0].columns - 1
    edges = np.array([[0, 0], [rows, 0], [0, columns], [rows, columns]])
    in_plane = edges @ affine[:3, 1:3].T + affine[:3, 3]
    return max(
        float(np.linalg.norm(plane.corners() - (in_plane + k * affine[:3, 0]), axis=1).max())
        for k, plane in enumerate(run.planes)
    )


def _refused(geometry: Geometry, planes: Sequence[Plane], reason: Text) -> GeometryVerdict:
    return GeometryVerdict(geometry=geometry, accepted=False, slices=len(planes), reason=reason)
