"""The simulated haemorrhage: where it lies in the head, its shape, and the truth about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from inference.assessment import Laterality
from inference.phantom_anatomy import NOISE_CELL_MM, Ellipsoid, Field

Region = Literal["frontal", "parietal", "temporal", "occipital", "deep", "cerebellar"]
Kind = Literal["intraparenchymal", "subdural"]
DepthAt = Callable[[Field, Field], Field]
"""Depth in mm below the skull's inner table, at points (3, ...) with a warp field (...)."""

MIDLINE_FRACTION = 0.3
"""A lesion with this share of its volume on its lesser side belongs to neither side."""

SUBDURAL_SHARE = 0.22
HU_RANGE = (55.0, 85.0)
"""Fresh blood on unenhanced CT."""

DIAMETERS_MM = (6.0, 45.0)
BRAIN_BOX_MM = ((-66.0, -84.0, -50.0), (66.0, 84.0, 74.0))
HALF_HEAD_MM = 96.0


@dataclass(frozen=True)
class Lesion:
    """The true haemorrhage of a phantom. `centre` is its centroid in LPS mm.

    `diameter_mm` is that of a sphere of the same volume; `side` is None on the midline.
    """

    kind: Kind
    centre: tuple[float, float, float]
    volume_ml: float
    diameter_mm: float
    side: Laterality | None
    region: Region
    hu: float


@dataclass(frozen=True)
class LesionShape:
    """The haemorrhage as geometry, in the head frame.

    A subdural one is a crescent under the skull around the direction `ellipsoid.centre`.
    """

    kind: Kind
    ellipsoid: Ellipsoid
    thickness_mm: float
    half_angle: float
    oedema_mm: float
    hu: float

    def excess_mm(self, points: Field, inside: Field, warp: Field, texture: Field) -> Field:
        """How far `points` (3, ...) lie inside the haemorrhage, about in mm; negative: outside.

        `inside` is their depth below the skull's inner table.
        """
        axes = (3,) + (1,) * (points.ndim - 1)
        centre = np.array(self.ellipsoid.centre, dtype=np.float32).reshape(axes)
        if self.kind == "subdural":
            length = np.sqrt((points**2).sum(0)) + 1e-3
            angle = np.arccos(np.clip((centre * points).sum(0) / length, -1, 1)) / self.half_angle
            crescent = self.thickness_mm * (1 - angle**2) - inside + 0.6 * warp
            return np.asarray(np.minimum(crescent, inside + 1), dtype=np.float32)
        half = np.array(self.ellipsoid.half, dtype=np.float32).reshape(axes)
        radius = np.sqrt((((points - centre) / half) ** 2).sum(0))
        blob = (1 - radius - 0.12 * warp - 0.05 * texture) * float(half.min())
        return np.asarray(np.minimum(blob, inside), dtype=np.float32)


def draw_lesion(
    rng: np.random.Generator,
    depth_at: DepthAt,
    *,
    diameter_mm: float | None,
    side: Laterality | None,
) -> LesionShape:
    """A random haemorrhage; a fixed diameter means an intraparenchymal one."""
    hu = rng.uniform(*HU_RANGE)
    sign = {Laterality.LEFT: 1, Laterality.RIGHT: -1}.get(side, 0) if side else 0
    if diameter_mm is None and rng.random() < SUBDURAL_SHARE:
        direction = np.array([rng.choice([-1, 1]), rng.uniform(-0.9, 0.9), rng.uniform(-0.15, 0.9)])
        direction[0] = sign or direction[0]
        x, y, z = direction / np.linalg.norm(direction)
        thickness, angle = rng.uniform(5, 13), np.radians(rng.uniform(28, 60))
        return LesionShape("subdural", Ellipsoid((x, y, z), (1, 1, 1), hu), thickness, angle, 0, hu)
    diameter = diameter_mm or rng.uniform(*DIAMETERS_MM)
    half = diameter / 2 * np.clip(rng.normal(1, 0.15, 3), 0.7, 1.35)
    unwarped = np.zeros(1, dtype=np.float32)
    while True:
        point = rng.uniform(*BRAIN_BOX_MM)
        if sign and point[0] * sign < diameter / 2:
            continue
        if float(depth_at(point.astype(np.float32)[:, None], unwarped)[0]) > 0.45 * diameter + 2:
            break
    ellipsoid = Ellipsoid((point[0], point[1], point[2]), (half[0], half[1], half[2]), hu)
    return LesionShape("intraparenchymal", ellipsoid, 0, 0, rng.uniform(0, 7), hu)


def measure(
    shape: LesionShape,
    depth_at: DepthAt,
    noise: tuple[Field, Field],
    rotation: npt.NDArray[np.float64],
    origin: npt.NDArray[np.float64],
) -> Lesion:
    """Truth of the haemorrhage, from a grid of 1.5 mm (subdural 3 mm) in the head frame.

    `noise` are the warp and texture fields; `rotation` and `origin` place the head in LPS.
    """
    if shape.kind == "intraparenchymal":
        step = 1.5
        reach = [1.6 * half + 3 for half in shape.ellipsoid.half]
        ends = list(zip(shape.ellipsoid.centre, reach, strict=True))
    else:
        step, ends = 3.0, [(0.0, HALF_HEAD_MM)] * 3
    axes = [np.arange(mid - span, mid + span, step, dtype=np.float32) for mid, span in ends]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    warp, texture = (
        ndimage.map_coordinates(field, points / NOISE_CELL_MM, order=1, mode="grid-wrap")
        for field in noise
    )
    inside = depth_at(points, warp)
    filled = (shape.excess_mm(points, inside, warp, texture) > 0) & (inside > 0.5)
    found = points[:, filled].astype(np.float64)
    if found.size == 0:
        found = np.array(shape.ellipsoid.centre)[:, None]
    left = float((found[0] > 0).mean())
    volume_ml = found.shape[1] * step**3 / 1000
    side = Laterality.LEFT if left > 0.5 else Laterality.RIGHT
    mean = found.mean(1)
    x, y, z = rotation @ mean + origin
    return Lesion(
        kind=shape.kind,
        centre=(float(x), float(y), float(z)),
        volume_ml=volume_ml,
        diameter_mm=float((6 * volume_ml * 1000 / np.pi) ** (1 / 3)),
        side=None if min(left, 1 - left) > MIDLINE_FRACTION else side,
        region=region_of(mean),
        hu=shape.hu,
    )


def region_of(point: npt.NDArray[np.float64]) -> Region:
    """A rough word for where `point` (head frame, mm) lies in the brain."""
    x, y, z = abs(float(point[0])), float(point[1]), float(point[2])
    if y > 15 and z < -18 - 0.3 * x:
        return "cerebellar"
    if x < 36 and -34 < y < 32 and -22 < z < 30:
        return "deep"
    if y < -22:
        return "frontal"
    if z < 4 and y < 40:
        return "temporal"
    return "occipital" if y > 48 and z < 26 else "parietal"
