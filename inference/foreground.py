"""The whole volume cropped to its foreground and stretched to a model's grid, upright.

Published volumes of this kind have no one orientation: their training turned and mirrored them at
random. The grid is that of most of them: slices from the feet up, as NIfTI files stack them, each
as a radiologist hangs it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from inference.assessment import Mask, NotForThisModel
from inference.manifest import ForegroundVolume
from inference.volume import Volume

Floats = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ForegroundInput:
    """What the vision graph reads, and where it lies.

    `values` [slice, row, column] are in 0..1; `affine` maps their indices to LPS mm; `slices` are
    the first and the last of the acquisition that show any foreground.
    """

    values: Floats
    affine: Affine
    slices: tuple[int, int]


def foreground_input(volume: Volume, spec: ForegroundVolume) -> ForegroundInput:
    """Window, crop and stretch a volume; raises NotForThisModel."""
    _check(volume, spec)
    array, affine = volume.grid.array, volume.grid.affine
    low, high = spec.window or (float(array.min()), float(array.max()))
    foreground = array > low
    if not foreground.any() or high <= low:
        raise NotForThisModel("Nothing is seen in the images.", "图像中未见任何内容。")
    box = _box(foreground)
    start = np.array([part.start for part in box])
    windowed = np.clip((array[box].astype(np.float32) - low) / (high - low), 0, 1)
    cropped = affine.astype(np.float64)
    cropped[:3, 3] += cropped[:3, :3] @ start
    grid = _upright_grid(foreground[box], cropped, spec.size)
    values = _stretched(windowed, cropped, grid, spec.size)
    return ForegroundInput(values, grid, (box[0].start, box[0].stop - 1))


def _check(volume: Volume, spec: ForegroundVolume) -> None:
    if volume.modality not in spec.modalities:
        known = ", ".join(spec.modalities)
        raise NotForThisModel(
            f"The model reads {known}, this series is {volume.modality}.",
            f"该模型仅适用于{known}，本序列为{volume.modality}。",
        )
    count = volume.grid.spatial_shape[0]
    if count < spec.min_slices:
        raise NotForThisModel(
            f"Too few slices: {count}, at least {spec.min_slices} needed.",
            f"层数过少：{count}层，至少需要{spec.min_slices}层。",
        )


def _box(foreground: Mask) -> tuple[slice, slice, slice]:
    """The smallest block of indices that holds the foreground."""
    ends = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(foreground.any(axis=others))
        ends.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return ends[0], ends[1], ends[2]


def _upright_grid(foreground: Mask, affine: Affine, size: tuple[int, int, int]) -> Affine:
    """Affine of a grid of `size` voxels over the foreground's extent along the patient's axes."""
    # The extremes along any direction lie at the ends of the lines of voxels.
    slices, rows = np.nonzero(foreground.any(axis=2))
    lines = foreground[slices, rows]
    first, last = lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
    ends = np.concatenate([[slices, rows, first], [slices, rows, last]], axis=1)
    points = affine[:3, :3] @ ends + affine[:3, 3:]
    half_voxel = np.abs(affine[:3, :3]).sum(axis=1) / 2
    low, high = points.min(axis=1) - half_voxel, points.max(axis=1) + half_voxel
    spacing = (high - low) / np.array(size)[::-1]
    grid = np.eye(4)
    grid[:3, :3] = np.diag(spacing)[:, ::-1]
    grid[:3, 3] = low + spacing / 2
    return grid


def _stretched(array: Floats, affine: Affine, grid: Affine, size: tuple[int, int, int]) -> Floats:
    """`array` interpolated linearly at the points of `grid`, as torch does; 0 outside.

    Nothing is averaged before: the published models saw volumes thinned out like this.
    """
    # Half a voxel beyond the outermost centres still belongs to the outermost voxels.
    padded = np.pad(array, 1, mode="edge")
    mapping = np.linalg.inv(affine) @ grid
    offset = mapping[:3, 3] + 1
    result = ndimage.affine_transform(padded, mapping[:3, :3], offset, size, order=1, cval=0.0)
    return np.asarray(result, dtype=np.float32)
