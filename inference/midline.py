"""The head's midline plane in patient coordinates, and on which side of it a mask lies."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

from inference.assessment import Laterality, Mask

MINOR_SHARE = 0.3
"""A side that holds at least this share of a mask counts."""

NEAR_MM = 12.0
"""A mask that counts on both sides and keeps this near, on average, is a midline one."""

MAX_POINTS = 6000
SMOOTH_VOXELS = 1.5
TISSUE_HU = (-300.0, 500.0)
"""Compared between the sides: from air to bone."""

MAX_TILT_DEGREES = 25.0


Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Midline:
    """A plane: `point` on it, unit `left` normal to it towards the patient's left (LPS)."""

    point: npt.NDArray[np.float64]
    left: npt.NDArray[np.float64]

    def distance(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Signed distance in mm of `points` (3, N); positive is the patient's left."""
        return np.asarray(self.left @ (points - self.point[:, None]))


def find_midline(hu: Floats, enclosed: Mask, affine: npt.NDArray[np.float64]) -> Midline:
    """The plane across which the head is most symmetric, skull base and skull included.

    `hu` and `enclosed` (what the skull encloses) lie on an upright grid with `affine`. The
    cranium alone is nearly round from the front: it is the bone below it that shows a tilt.
    """
    centre = affine[:3, :3] @ np.argwhere(enclosed).mean(axis=0) + affine[:3, 3]
    indices = np.array(np.nonzero(hu > TISSUE_HU[0]))
    indices = indices[:, :: max(1, indices.shape[1] // MAX_POINTS)]
    points = affine[:3, :3] @ indices + affine[:3, 3:]
    smooth = ndimage.gaussian_filter(np.clip(hu, *TISSUE_HU), SMOOTH_VOXELS)
    here = smooth[tuple(indices)]
    inverse = np.linalg.inv(affine)

    def plane(parameters: npt.NDArray[np.float64]) -> Midline:
        turn, tilt, shift = parameters
        left = np.array([1.0, np.tan(np.radians(turn)), np.tan(np.radians(tilt))])
        left /= np.linalg.norm(left)
        return Midline(centre + shift * left, left)

    def asymmetry(parameters: npt.NDArray[np.float64]) -> float:
        if np.abs(parameters[:2]).max() > MAX_TILT_DEGREES:
            return TISSUE_HU[1] - TISSUE_HU[0]
        guess = plane(parameters)
        mirrored = points - 2 * guess.left[:, None] * guess.distance(points)
        places = inverse[:3, :3] @ mirrored + inverse[:3, 3:]
        there = ndimage.map_coordinates(smooth, places, order=1, cval=TISSUE_HU[0])
        return float(np.abs(there - here).mean())

    start = np.array([[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 4]], dtype=np.float64)
    best = optimize.minimize(
        asymmetry,
        start[0],
        method="Nelder-Mead",
        options={"initial_simplex": start, "xatol": 0.2, "fatol": 1e-3, "maxfev": 160},
    )
    return plane(best.x)


def side_of(mask: Mask, affine: npt.NDArray[np.float64], midline: Midline) -> Laterality | None:
    """Side of a mask on the grid `affine`; None when it sits on the midline or is empty."""
    points = affine[:3, :3] @ np.array(np.nonzero(mask)) + affine[:3, 3:]
    if points.size == 0:
        return None
    distance = midline.distance(points)
    left = float((distance > 0).mean())
    if min(left, 1 - left) >= MINOR_SHARE:
        return None if float(np.abs(distance).mean()) < NEAR_MM else Laterality.BILATERAL
    return Laterality.LEFT if left > 0.5 else Laterality.RIGHT
