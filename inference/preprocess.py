"""Volume to model input: resampled through patient coordinates, upright, centred on the head.

Whatever the acquisition's plane or slice order, the model sees the same upright grid: slices
towards the vertex, rows to the back, columns to the patient's left (LPS).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from inference.assessment import Mask, NotForThisModel
from inference.manifest import HeadGrid, Plausibility
from inference.volume import Volume

Floats = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

OUTSIDE_HU = -1000.0
BLOCK_SHARE = 0.75
"""Blocks that are averaged before resampling span up to this share of a model voxel."""

SLAB_MM = (20.0, 95.0)
"""Below the vertex: the part of the head whose extent gives its centre, above ears and face."""

EXTENT_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class ModelInput:
    """What the vision graph reads, and where it lies.

    `channels` is (windows, slice, row, column) in 0..1, `hu` the same grid in HU, `affine` maps
    its indices to LPS mm, `enclosed` is what the skull encloses.
    """

    channels: Floats
    hu: Floats
    affine: Affine
    enclosed: Mask


def prepare(volume: Volume, spec: HeadGrid) -> ModelInput:
    """Check that the volume is a CT head and bring it on the model grid; raises NotForThisModel."""
    rule = spec.plausibility
    if volume.modality != spec.modality:
        raise NotForThisModel(
            f"The model reads {spec.modality}, this series is {volume.modality}.",
            f"该模型仅适用于{spec.modality}，本序列为{volume.modality}。",
        )
    _check_sampling(volume, rule)
    coarse, affine = block_mean(volume.grid.array, volume.grid.affine, spec.spacing_mm)
    centre = head_centre(coarse, affine, spec)
    grid = upright_grid(centre, spec)
    hu = resample(coarse, affine, grid, spec.size)
    enclosed = enclosed_by_skull(hu, rule)
    _check_head(hu, enclosed, spec)
    return ModelInput(apply_windows(hu, spec.windows_hu), hu, grid, enclosed)


def apply_windows(hu: Floats, windows: Sequence[tuple[float, float]]) -> Floats:
    """HU [slice, row, column] to [window, slice, row, column], each window scaled to 0..1."""
    channels = [np.clip((hu - low) / (high - low), 0, 1) for low, high in windows]
    return np.stack(channels).astype(np.float32)


def block_mean(
    array: npt.NDArray[np.generic], affine: Affine, target_mm: tuple[float, float, float]
) -> tuple[Floats, Affine]:
    """Average blocks of voxels that are much finer than the model's: cheap anti-aliasing."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    wanted = np.floor(BLOCK_SHARE * min(target_mm) / spacing + 0.5).astype(int)
    factor = np.minimum(np.maximum(1, wanted), array.shape)
    slices, rows, columns = (
        int(extent // step) for extent, step in zip(array.shape, factor, strict=True)
    )
    a, b, c = (int(step) for step in factor)
    mean = np.empty((slices, rows, columns), dtype=np.float32)
    for index in range(slices):
        part = array[index * a : (index + 1) * a, : rows * b, : columns * c]
        lines = part.astype(np.float32, copy=False).sum(axis=0).reshape(rows, b, columns * c)
        mean[index] = lines.sum(axis=1).reshape(rows, columns, c).sum(axis=2)
    mean /= a * b * c
    blocked = affine.astype(np.float64).copy()
    blocked[:3, 3] += affine[:3, :3] @ ((factor - 1) / 2)
    blocked[:3, :3] = affine[:3, :3] * factor
    return mean, blocked


def head_centre(coarse: Floats, affine: Affine, spec: HeadGrid) -> npt.NDArray[np.float64]:
    """Centre of the model grid (LPS mm): a fixed way below the vertex, midway across the head."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    reach = np.maximum(1, np.round(4.0 / spacing)).astype(int) | 1
    tissue = coarse > spec.foreground_hu
    # A head holder, a sheet or tubing is thin: it does not survive the opening.
    tissue = ndimage.binary_opening(tissue, np.ones(reach, dtype=bool))
    labels, count = ndimage.label(tissue)
    if count == 0:
        raise NotForThisModel("No body is seen in the images.", "图像中未见人体组织。")
    largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    points = affine[:3, :3] @ np.array(np.nonzero(labels == largest)) + affine[:3, 3:]
    vertex = float(np.percentile(points[2], 99.9))
    below = vertex - points[2]
    slab = points[:2, (below > SLAB_MM[0]) & (below < SLAB_MM[1])]
    if slab.shape[1] == 0:
        raise NotForThisModel(
            "Too little of a head is covered.", "扫描范围不足，未覆盖足够的头部。"
        )
    across = np.percentile(slab, EXTENT_PERCENTILES, axis=1).mean(axis=0)
    return np.array([across[0], across[1], vertex - spec.centre_below_vertex_mm])


def upright_grid(centre: npt.NDArray[np.float64], spec: HeadGrid) -> Affine:
    """Affine (4, 4) of the model grid around `centre` (LPS mm)."""
    affine = np.eye(4)
    slice_mm, row_mm, column_mm = spec.spacing_mm
    affine[:3, :3] = [[0, 0, column_mm], [0, row_mm, 0], [slice_mm, 0, 0]]
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(spec.size) - 1) / 2)
    return affine


def resample(array: Floats, affine: Affine, grid: Affine, size: tuple[int, int, int]) -> Floats:
    """`array` on `affine`, linearly interpolated at the points of `grid`; air outside."""
    mapping = np.linalg.inv(affine) @ grid
    result = ndimage.affine_transform(
        array, mapping[:3, :3], mapping[:3, 3], size, order=1, cval=OUTSIDE_HU
    )
    return np.asarray(result, dtype=np.float32)


def enclosed_by_skull(hu: Floats, rule: Plausibility) -> Mask:
    """What closed rings of bone enclose, slice by slice of the upright model grid."""
    bone = hu > rule.bone_hu
    ring = ndimage.binary_closing(bone, np.ones((1, 3, 3), dtype=bool))
    filled = np.stack([ndimage.binary_fill_holes(level) for level in ring])
    return np.asarray(filled & ~bone, dtype=bool)


def _check_sampling(volume: Volume, rule: Plausibility) -> None:
    spacing = np.linalg.norm(volume.grid.affine[:3, :3], axis=0)
    extents = spacing * volume.grid.spatial_shape
    if volume.grid.spatial_shape[0] < rule.min_slices:
        raise NotForThisModel(
            f"Too few slices: {volume.grid.spatial_shape[0]}, at least {rule.min_slices} needed.",
            f"层数过少：{volume.grid.spatial_shape[0]}层，至少需要{rule.min_slices}层。",
        )
    if float(spacing.max()) > rule.max_spacing_mm:
        raise NotForThisModel(
            f"Voxels are too coarse: {spacing.max():.1f} mm, at most {rule.max_spacing_mm:g} mm.",
            f"体素过大：{spacing.max():.1f} mm，最大允许{rule.max_spacing_mm:g} mm。",
        )
    if float(extents.min()) < rule.min_coverage_mm:
        raise NotForThisModel(
            f"Only {extents.min():.0f} mm are covered, {rule.min_coverage_mm:g} mm are needed.",
            f"扫描范围仅{extents.min():.0f} mm，至少需要{rule.min_coverage_mm:g} mm。",
        )


def _check_head(hu: Floats, enclosed: Mask, spec: HeadGrid) -> None:
    rule = spec.plausibility
    pixel_cm2 = spec.spacing_mm[1] * spec.spacing_mm[2] / 100
    area = enclosed.sum(axis=(1, 2)) * pixel_cm2
    low, high = rule.tissue_hu
    tissue = (enclosed & (hu > low) & (hu < high)).sum(axis=(1, 2)) * pixel_cm2
    levels = (area >= rule.min_enclosed_area_cm2) & (tissue >= rule.min_tissue_fraction * area)
    if float(levels.sum()) * spec.spacing_mm[0] < rule.min_enclosed_mm:
        raise NotForThisModel(
            "This does not look like a head: no closed skull with brain inside is found.",
            "图像不符合头部特征：未见封闭颅骨及其内的脑组织。",
        )
