"""A mask of the grid lies on the source images where it lies in the patient."""

import highdicom as hd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from scipy.spatial.transform import Rotation

from inference.volume import Geometry, GeometryVerdict, Volume

SHAPE = (14, 12)
"""Rows and columns of an image."""


def make(rotation, spacing, shear, slots, *, resampled=True):
    """Images at slice indices `slots` of a rotated grid, each `shear` (mm/mm) beside the last."""
    along, down, across = spacing
    offsets = np.outer(slots, shear) * along / (down, across)
    offsets -= offsets.min(axis=0)
    size = (round(max(slots)) + 1, *(np.ceil(offsets.max(axis=0)).astype(int) + SHAPE))
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, [2, 1, 0]] * spacing
    affine[:3, 3] = (-70.0, 35.0, 912.0)
    sources = []
    for slot, offset in zip(slots, offsets, strict=True):
        header = Dataset()
        header.Rows, header.Columns = SHAPE
        header.ImagePositionPatient = list((affine @ [slot, *offset, 1])[:3])
        sources.append(header)
    grid = hd.Volume(np.zeros(size, np.float32), affine, "PATIENT")
    verdict = GeometryVerdict(
        Geometry.TILTED, accepted=True, slices=len(slots), resampled=resampled
    )
    return Volume(grid, tuple(sources), verdict, "CT")


@st.composite
def volumes(draw):
    steps = draw(st.lists(st.integers(1, 4), min_size=2, max_size=7))
    spacing = [draw(st.floats(0.4, 6.0)) for _ in range(3)]
    shear = [draw(st.floats(-0.5, 0.5)) for _ in range(2)]
    rotation = Rotation.random(random_state=draw(st.integers(0, 2**31))).as_matrix()
    jitter = draw(st.floats(0, 0.3))
    slots = np.cumsum([0, *steps]).astype(float)
    slots[1:-1] += jitter * np.sin(slots[1:-1])
    return make(rotation, np.array(spacing), np.array(shear), slots)


def places(volume, marked):
    """Patient coordinates of marked pixels, [pixel, xyz], from each source's own header."""
    directions = volume.grid.affine[:3, 1:3]
    found = []
    for source, plane in zip(volume.sources, marked, strict=True):
        found.append(
            np.array(source.ImagePositionPatient, float) + np.argwhere(plane) @ directions.T
        )
    return np.concatenate(found)


@settings(max_examples=150, deadline=None)
@given(volumes(), st.data())
def test_a_marker_lands_within_half_a_pixel_and_half_a_step_of_its_place(volume, data):
    pixel = [data.draw(st.integers(1, size - 2)) for size in SHAPE]
    first = volume.first_pixels()
    size = volume.grid.spatial_shape
    slice_ = data.draw(st.integers(0, size[0] - 1))
    image = volume.source_of(slice_)
    voxel = (slice_, *np.rint(first[image, 1:] + pixel).astype(int))
    mask = np.zeros(size, bool)
    mask[voxel] = True
    marked = volume.on_sources(mask)
    assert marked.shape == (len(volume.sources), *SHAPE)
    assert marked.sum() == 1
    there = volume.grid.affine @ [*voxel, 1]
    (landed,) = places(volume, marked)
    offset = np.abs(np.linalg.solve(volume.grid.affine[:3, :3], landed - there[:3]))
    widest = np.diff(first[:, 0]).max()
    assert offset[0] <= widest / 2 + 0.5 + 1e-6
    assert (offset[1:] <= 0.5 + 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(volumes(), st.data())
def test_a_ball_is_on_each_image_what_the_image_cuts_of_it(volume, data):
    """Within the rounding of positions: what is inside by a voxel is marked, outside is not."""
    spacing = np.array(volume.grid.spacing)
    size = np.array(volume.grid.spatial_shape)
    image = data.draw(st.integers(0, len(volume.sources) - 1))
    middle = volume.first_pixels()[image] + [0, SHAPE[0] / 2, SHAPE[1] / 2]
    radius = 4 * spacing.max()
    indices = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    mask = np.linalg.norm((indices - middle) * spacing, axis=-1) < radius
    slack = np.linalg.norm(spacing) / 2
    marked = volume.on_sources(mask)
    for first, plane in zip(volume.first_pixels(), marked, strict=True):
        pixels = np.stack(np.meshgrid([0], *map(np.arange, SHAPE), indexing="ij"), -1)[0]
        distance = np.linalg.norm((first + pixels - middle) * spacing, axis=-1)
        assert plane[distance < radius - slack].all()
        assert not plane[distance > radius + slack].any()


@settings(max_examples=50, deadline=None)
@given(volumes())
def test_slices_and_images_are_each_other_s_nearest(volume):
    depths = volume.first_pixels()[:, 0]
    for index in range(volume.grid.spatial_shape[0]):
        nearest = np.abs(depths - index).min()
        assert abs(depths[volume.source_of(index)] - index) == pytest.approx(nearest)
    for image, depth in enumerate(depths):
        assert abs(volume.slice_of(image) - depth) <= 0.5
        assert volume.source_of(volume.slice_of(image)) == image


@settings(max_examples=60, deadline=None)
@given(volumes(), st.integers(0, 2**31), st.integers(0, 254))
def test_probabilities_on_the_images_are_over_the_threshold_where_the_mask_is(
    volume, seed, threshold
):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 256, volume.grid.spatial_shape, np.uint8)
    probabilities[rng.random(probabilities.shape) < 0.5] = 0
    mask = probabilities > threshold
    shown = volume.probabilities_on_sources(probabilities, mask)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown > threshold, volume.on_sources(mask))


def gapped():
    return make(np.eye(3), np.array([5.0, 1.0, 1.0]), np.zeros(2), np.array([0.0, 1, 2, 6, 7]))


def test_a_structure_between_two_images_is_put_on_the_nearer_one_beside_others():
    volume = gapped()
    mask = np.zeros(volume.grid.spatial_shape, bool)
    mask[1:3, 2:5, 2:5] = True
    mask[5, 9:11, 8:10] = True
    marked = volume.on_sources(mask)
    assert list(np.flatnonzero(marked.any(axis=(1, 2)))) == [1, 2, 3]
    assert marked[3, 9:11, 8:10].all()
    assert marked[3].sum() == 4


def test_a_structure_that_an_image_shows_is_not_widened_by_what_lies_beside_the_image():
    volume = gapped()
    mask = np.zeros(volume.grid.spatial_shape, bool)
    mask[2, 5, 5] = True
    mask[3:5, 3:8, 3:8] = True
    marked = volume.on_sources(mask)
    assert marked[2].sum() == 1
    assert marked.sum() == 1


def test_without_resampling_a_mask_is_that_of_the_images():
    volume = make(np.eye(3), np.ones(3), np.zeros(2), np.arange(5.0), resampled=False)
    mask = np.zeros(volume.grid.spatial_shape, bool)
    assert volume.on_sources(mask) is mask
    assert volume.probabilities_on_sources(mask.view(np.uint8), mask).base is mask
    assert [volume.source_of(index) for index in range(5)] == list(range(5))
