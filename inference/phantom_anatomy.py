"""What a simulated CT head is made of: structures in the head's own frame, and how to paint them.

Head frame: origin at the middle of the skull, mm, x to the patient's left, y to the back, z to the
vertex (LPS turned with the head). Sizes are of an adult head, rounded from anatomy textbooks; the
aim is a picture with the right grey values, neighbours and distractors, not an atlas.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Field = npt.NDArray[np.float32]

NOISE_CELLS = 64
NOISE_CELL_MM = 4.0
"""Smooth random fields are periodic cubes of 64 cells of 4 mm: one period holds a head."""

DEPTH_STEP_MM = 0.1
DEPTH_MIN_MM, DEPTH_MAX_MM = -40.0, 90.0

MAX_BODY_RADIUS_MM = 135.0
"""Nothing of the head or its holder lies farther from the head's axis."""

AIR, FAT, SKIN, MUSCLE = -1000.0, -70.0, 30.0, 48.0
CSF, GREY, WHITE = 6.0, 39.0, 29.0
"""Hounsfield units of the tissues, in the range usually given for unenhanced head CT."""


@dataclass(frozen=True)
class Ellipsoid:
    """One painted structure: centre and half axes in mm, turned about z by `turn` degrees."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    hu: float
    turn: float = 0.0
    warp: float = 0.0

    def mirrored(self) -> "Ellipsoid":
        """The same structure on the other side of the midline."""
        x, y, z = self.centre
        return Ellipsoid((-x, y, z), self.half, self.hu, -self.turn, self.warp)


def both(ellipsoid: Ellipsoid) -> tuple[Ellipsoid, Ellipsoid]:
    """A structure and its twin on the other side."""
    return ellipsoid, ellipsoid.mirrored()


SKULL_BASE = (
    *both(Ellipsoid((28, -58, -31), (19, 27, 18), 450.0)),
    *both(Ellipsoid((28, -59, -31), (16, 25, 15), FAT)),
    *both(Ellipsoid((30, -70, -31), (12, 12, 12), 12.0)),
    Ellipsoid((0, -62, -68), (30, 20, 20), 420.0),
    *both(Ellipsoid((23, -55, -57), (11, 15, 14), AIR)),
    Ellipsoid((0, -62, -48), (7, 22, 20), AIR),
    Ellipsoid((0, -22, -46), (9, 9, 7), AIR),
    Ellipsoid((0, 28, -100), (20, 18, 44), 380.0),
    Ellipsoid((0, 36, -100), (9, 9, 60), 25.0),
    *both(Ellipsoid((42, -14, -62), (7, 12, 30), 520.0)),
)
"""Outside the cranial cavity: orbits and globes, face, sinuses, spine, mandible."""

PETROUS = (
    *both(Ellipsoid((40, 12, -41), (28, 7, 8), 900.0, -32.0, 0.08)),
    *both(Ellipsoid((58, 26, -48), (10, 12, 12), -350.0, 0.0, 0.3)),
)
"""Petrous ridges reach into the cavity; the mastoid cells behind them hold air."""

DEEP_GREY = (
    *both(Ellipsoid((12, 8, 4), (8, 14, 9), GREY - 1, 18.0, 0.1)),
    *both(Ellipsoid((25, -6, 3), (6, 16, 9), GREY, 14.0, 0.1)),
    *both(Ellipsoid((11, -20, 12), (5, 9, 8), GREY, 0.0, 0.1)),
)


def ventricles(scale: float) -> tuple[Ellipsoid, ...]:
    """The ventricles, their width scaled by `scale` (1 is a young adult)."""
    return (
        *both(Ellipsoid((9, -24, 15), (4.5 * scale, 14, 7), CSF, 14.0, 0.12)),
        *both(Ellipsoid((12, 6, 21), (6 * scale, 24, 6.5), CSF, -8.0, 0.12)),
        *both(Ellipsoid((22, 38, 9), (5.5 * scale, 15, 8), CSF, -16.0, 0.12)),
        *both(Ellipsoid((33, 6, -14), (2.6 * scale, 13, 3), CSF, -12.0, 0.12)),
        Ellipsoid((0, 3, 3), (2.2 * scale, 13, 9), CSF, 0.0, 0.1),
        Ellipsoid((0, 44, -32), (7 * scale, 5, 8), CSF, 0.0, 0.1),
        Ellipsoid((0, -6, -22), (11, 8, 5), CSF, 0.0, 0.25),
        *both(Ellipsoid((44, -14, -4), (8, 4 * scale, 9), CSF, 0.0, 0.35)),
    )


def distractors(rng: np.random.Generator, vessel_hu: float) -> tuple[Ellipsoid, ...]:
    """Normal bright things: pineal and choroid calcifications, vessels."""
    found: list[Ellipsoid] = []
    if rng.random() < 0.7:
        size = rng.uniform(1.2, 3.5)
        found.append(Ellipsoid((0, 22, 6), (size,) * 3, rng.uniform(90, 320)))
    if rng.random() < 0.6:
        size = rng.uniform(1.2, 4.0)
        choroid = Ellipsoid((21, 36, 8), (size, size * 1.4, size), rng.uniform(90, 350))
        found += both(choroid) if rng.random() < 0.7 else [choroid]
    if rng.random() < 0.25:
        found += both(Ellipsoid((20, -4, 2), (2.5, 4, 2.5), rng.uniform(60, 160), 12.0))
    found += both(Ellipsoid((20, -14, -20), (12, 1.6, 1.6), vessel_hu))
    found.append(Ellipsoid((0, -2, -30), (1.8, 1.8, 12), vessel_hu))
    found += both(Ellipsoid((44, 40, -26), (16, 4, 4), vessel_hu, 40.0))
    return tuple(found)


def noise_field(rng: np.random.Generator, smoothness_mm: float) -> Field:
    """A periodic smooth random field of unit standard deviation, (64, 64, 64) cells of 4 mm."""
    white = rng.standard_normal((NOISE_CELLS,) * 3, dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, smoothness_mm / NOISE_CELL_MM, mode="wrap")
    return np.asarray(smooth / smooth.std(), dtype=np.float32)


def depth_table(knots: list[tuple[float, float]], blur_mm: float) -> Field:
    """HU over depth in mm, linear between `knots`, blurred by `blur_mm` for partial volume."""
    depth = np.arange(DEPTH_MIN_MM, DEPTH_MAX_MM, DEPTH_STEP_MM)
    table = np.interp(depth, [knot[0] for knot in knots], [knot[1] for knot in knots])
    blurred = ndimage.gaussian_filter1d(table, blur_mm / DEPTH_STEP_MM, mode="nearest")
    return blurred.astype(np.float32)


def look_up(table: Field, depth: Field) -> Field:
    """Values of a depth table at `depth` (mm, any shape)."""
    index = np.clip((depth - DEPTH_MIN_MM) / DEPTH_STEP_MM, 0, table.size - 1)
    return np.asarray(np.take(table, index.astype(np.int32)))


class SliceWindow:
    """Points of one slice, in the head frame, with smooth quantities kept on a coarse subset.

    `coarse` are the head coordinates (3, R, C) on a grid of `stride` pixels; smooth fields are
    computed there and brought to the pixels by bilinear interpolation as two small matrix
    products, which is several times cheaper than computing them at each pixel.
    """

    def __init__(
        self,
        matrix: npt.NDArray[np.float64],
        origin: npt.NDArray[np.float64],
        shape: tuple[int, int],
        stride: int,
        soft_mm: float,
    ) -> None:
        self.shape = shape
        self.soft_mm = soft_mm
        self._matrix, self._origin = matrix, origin
        self._rows, self._columns = _knots(shape[0], stride), _knots(shape[1], stride)
        self._up = _interpolation(self._rows, shape[0]), _interpolation(self._columns, shape[1])
        self.coarse = self._points(self._rows, self._columns)
        self._margin_mm = stride * float(np.linalg.norm(matrix, axis=0).max())
        normal = np.cross(matrix[:, 0], matrix[:, 1])
        self._normal = normal / np.linalg.norm(normal)

    def _points(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> Field:
        along_rows = self._origin[:, None] + self._matrix[:, :1] * rows
        along_columns = self._matrix[:, 1:] * columns
        return (along_rows[:, :, None] + along_columns[:, None, :]).astype(np.float32)

    def fine(self, coarse: Field) -> Field:
        """A coarse field (R, C) on all pixels of the slice."""
        return np.asarray(self._up[0] @ coarse @ self._up[1].T, dtype=np.float32)

    def sample(self, noise: Field) -> Field:
        """A noise field on the coarse points."""
        cells = self.coarse / np.float32(NOISE_CELL_MM)
        sampled = ndimage.map_coordinates(noise, cells, order=1, mode="grid-wrap")
        return np.asarray(sampled, dtype=np.float32)

    def radius(self, shape: Ellipsoid, warp: Field) -> Field:
        """Normalised radius of the coarse points in `shape`: below 1 is inside."""
        x, y, z = (self.coarse[axis] - np.float32(shape.centre[axis]) for axis in range(3))
        if shape.turn:
            cos, sin = np.cos(np.radians(shape.turn)), np.sin(np.radians(shape.turn))
            x, y = cos * x + sin * y, cos * y - sin * x
        a, b, c = shape.half
        radius = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        return np.asarray(radius + shape.warp * warp, dtype=np.float32)

    def weight(self, shape: Ellipsoid, warp: Field) -> tuple[tuple[slice, slice], Field] | None:
        """Where `shape` touches the slice (pixel window) and how much of each pixel it fills."""
        away = abs(float(self._normal @ (np.array(shape.centre) - self._origin)))
        if away > max(shape.half) * (1 + 3 * shape.warp) + self.soft_mm:
            return None
        radius = self.radius(shape, warp)
        smallest = min(shape.half)
        found = self.below(radius, 1 + self.soft_mm / smallest, slope=1 / smallest)
        if found is None:
            return None
        window, part = found
        return window, np.clip((1 - part) * (smallest / self.soft_mm) + 0.5, 0, 1)

    def below(
        self, coarse: Field, limit: float, *, slope: float = 1.0
    ) -> tuple[tuple[slice, slice], Field] | None:
        """The pixel window in which a coarse field can be below `limit`, and the field there.

        `slope` is how much the field changes per mm; without any such pixel, None.
        """
        hit = coarse < limit + self._margin_mm * slope
        if not hit.any():
            return None
        rows, columns = np.flatnonzero(hit.any(1)), np.flatnonzero(hit.any(0))
        top, bottom = max(rows[0] - 1, 0), min(rows[-1] + 2, hit.shape[0])
        left, right = max(columns[0] - 1, 0), min(columns[-1] + 2, hit.shape[1])
        window = (
            slice(int(self._rows[top]), int(self._rows[bottom - 1]) + 1),
            slice(int(self._columns[left]), int(self._columns[right - 1]) + 1),
        )
        part = (
            self._up[0][window[0], top:bottom]
            @ coarse[top:bottom, left:right]
            @ self._up[1][window[1], left:right].T
        )
        return window, np.asarray(part, dtype=np.float32)


def _knots(extent: int, stride: int) -> npt.NDArray[np.int64]:
    return np.unique(np.append(np.arange(0, extent, stride), extent - 1))


def _interpolation(knots: npt.NDArray[np.int64], extent: int) -> Field:
    """Matrix (extent, knots) that interpolates linearly between the knots."""
    pixels = np.arange(extent)
    left = np.clip(np.searchsorted(knots, pixels, side="right") - 1, 0, max(knots.size - 2, 0))
    right = np.minimum(left + 1, knots.size - 1)
    part = (pixels - knots[left]) / np.maximum(knots[right] - knots[left], 1)
    matrix = np.zeros((extent, knots.size), dtype=np.float32)
    matrix[pixels, left] = 1 - part
    matrix[pixels, right] += part.astype(np.float32)
    return matrix


def paint(
    image: Field, window: SliceWindow, shapes: tuple[Ellipsoid, ...], warp: Field, within: Field
) -> None:
    """Blend `shapes` into the slice, in order, only where `within` (0..1) allows it."""
    for shape in shapes:
        found = window.weight(shape, warp)
        if found is not None:
            area, weight = found
            image[area] += weight * within[area] * (np.float32(shape.hu) - image[area])


def paint_holder(plane: Field, window: SliceWindow) -> None:
    """The head holder: a thin curved shell behind the head."""
    x, y, z = window.coarse
    away = window.fine(np.where((y > 55) & (z > -90), np.abs(np.hypot(x, y) - 118), 99))
    plane += np.clip(2.0 - away, 0, 1) * (np.float32(-120) - plane)


def touched(
    matrix: npt.NDArray[np.float64], origin: npt.NDArray[np.float64], shape: tuple[int, int]
) -> tuple[slice, slice] | None:
    """The part of a slice (rows, columns) that can hold head or holder, or None."""
    step = 8
    rows, columns = np.arange(0, shape[0], step), np.arange(0, shape[1], step)
    points = (
        origin[:, None, None]
        + matrix[:, :1, None] * rows[None, :, None]
        + matrix[:, 1:, None].transpose(0, 2, 1) * columns[None, None, :]
    )
    margin = step * float(np.linalg.norm(matrix, axis=0).max())
    x, y, z = points
    hit = (np.hypot(x, y) < MAX_BODY_RADIUS_MM + margin) & (z < 100 + margin)
    if not hit.any():
        return None
    row, column = np.flatnonzero(hit.any(1)) * step, np.flatnonzero(hit.any(0)) * step
    return (
        slice(int(max(row[0] - step, 0)), int(min(row[-1] + 2 * step, shape[0]))),
        slice(int(max(column[0] - step, 0)), int(min(column[-1] + 2 * step, shape[1]))),
    )
