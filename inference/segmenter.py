"""From mask logits on the model grid to a mask on the volume's own grid, with its measurements.

Where they are wanted, the probabilities that the mask was cut from go the same way.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from scipy.special import expit

from inference.assessment import Mask, ProbabilityMap

Floats = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

NOWHERE = np.float32(-20.0)
"""Logit of a voxel that cannot belong to the mask."""

CERTAIN = 255
"""Of a ProbabilityMap; a logit over `_LEAST` makes at least 1 of it."""

_LEAST = -math.log(2 * CERTAIN - 1)

BORDER_VOXELS = 2
"""Around what is outlined on the model grid, so that interpolation fades out inside the box."""


@dataclass(frozen=True)
class Box:
    """Start and stop of a block of voxels of the volume, (slice, row, column)."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing."""
        a, b, c = (slice(*ends) for ends in zip(self.start, self.stop, strict=True))
        return a, b, c


def within_skull(logits: Floats, enclosed: Mask) -> Floats:
    """Logits with everything ruled out that lies neither inside the skull nor beside its lining."""
    near = ndimage.binary_dilation(enclosed, iterations=1)
    return np.where(near, logits, np.minimum(logits, NOWHERE))


def outline(
    logits: Floats,
    affine: Affine,
    onto: Affine,
    shape: tuple[int, int, int],
    *,
    threshold: float,
    min_volume_ml: float,
) -> Mask:
    """Mask [slice, row, column] on the grid (`onto`, `shape`) of logits on the grid `affine`.

    Logits are interpolated linearly in patient coordinates; pieces smaller than `min_volume_ml`
    are dropped.
    """
    mask = np.zeros(shape, dtype=bool)
    cut = float(np.log(threshold / (1 - threshold)))
    box = _box(np.array(np.nonzero(logits > cut)), affine, onto, shape)
    if box is None:
        return mask
    fine = _interpolated(logits, affine, onto, box)
    voxel_ml = abs(float(np.linalg.det(onto[:3, :3]))) / 1000
    mask[box.slices] = drop_specks(fine > cut, min_volume_ml / voxel_ml)
    return mask


def probabilities(
    logits: Floats, affine: Affine, onto: Affine, mask: Mask, *, threshold: float
) -> ProbabilityMap:
    """Probability [slice, row, column] in 255ths, of the logits that `outline` made `mask` of.

    It is over the threshold in the mask and nowhere else: a piece that was too small for the mask
    is shown at the threshold.
    """
    made = np.zeros(mask.shape, np.uint8)
    slices, rows, columns = mask.shape
    box = _box(np.array(np.nonzero(logits > _LEAST)), affine, onto, (slices, rows, columns))
    if box is None:
        return made
    at_threshold = np.uint8(threshold * CERTAIN)
    for index in range(box.start[0], box.stop[0]):  # a slice at a time: floats take more room
        plane = Box((index, *box.start[1:]), (index + 1, *box.stop[1:]))
        found = np.rint(expit(_interpolated(logits, affine, onto, plane)) * CERTAIN)
        inside = mask[plane.slices]
        made[plane.slices] = np.where(
            inside, np.maximum(found, at_threshold + 1), np.minimum(found, at_threshold)
        )
    return made


def _interpolated(logits: Floats, affine: Affine, onto: Affine, box: Box) -> Floats:
    """Logits at the voxels of a box of the grid `onto`, linear in patient coordinates."""
    mapping = np.linalg.inv(affine) @ onto
    offset = mapping[:3, 3] + mapping[:3, :3] @ np.array(box.start)
    size = tuple(stop - start for start, stop in zip(box.start, box.stop, strict=True))
    fine: Floats = ndimage.affine_transform(
        logits, mapping[:3, :3], offset, size, order=1, cval=float(NOWHERE)
    )
    return fine


def drop_specks(mask: Mask, min_voxels: float) -> Mask:
    """The mask without connected pieces (26 neighbours) of fewer than `min_voxels` voxels."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count == 0:
        return mask
    kept = np.bincount(labels.ravel()) >= min_voxels
    kept[0] = False
    return np.asarray(kept[labels], dtype=bool)


def long_axis_mm(mask: Mask, affine: Affine) -> float:
    """Longest diameter in mm within the slice plane that shows the most of the mask."""
    index = int(mask.sum(axis=(1, 2)).argmax())
    points = np.argwhere(mask[index]) @ affine[:3, 1:3].T
    if len(points) == 0:
        return 0.0
    pixel_mm = float(np.linalg.norm(affine[:3, 1:3], axis=0).mean())
    if len(points) == 1:
        return pixel_mm
    axes = affine[:3, 1:3] / np.linalg.norm(affine[:3, 1:3], axis=0)
    flat = points @ axes
    try:
        flat = flat[ConvexHull(flat).vertices]
    except QhullError:
        # All pixels on one line have no hull; their own distances are as good.
        flat = flat[[0, -1]]
    return float(pdist(flat).max()) + pixel_mm


def _box(
    found: npt.NDArray[np.int64], affine: Affine, onto: Affine, shape: tuple[int, int, int]
) -> Box | None:
    """The part of the target grid that the outlined part of the model grid can reach."""
    if found.size == 0:
        return None
    low, high = found.min(axis=1) - BORDER_VOXELS, found.max(axis=1) + BORDER_VOXELS
    corners = np.array(np.meshgrid(*np.stack([low, high], axis=1), indexing="ij")).reshape(3, -1)
    mapping = np.linalg.inv(onto) @ affine
    reached = mapping[:3, :3] @ corners + mapping[:3, 3:]
    start = np.maximum(np.floor(reached.min(axis=1)).astype(int), 0)
    stop = np.minimum(np.ceil(reached.max(axis=1)).astype(int) + 1, shape)
    if (stop <= start).any():
        return None
    return Box(tuple(start.tolist()), tuple(stop.tolist()))
