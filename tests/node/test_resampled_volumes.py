"""Tilted, unevenly spaced and gapped series: every voxel shows what lies at its patient point."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from inference.volume import Geometry
from node.assembly import assemble
from node.slice_steps import WIDEST_GAP, find_gaps
from tests.slices import decimals, grid_affine, turned, write_slices

SLOPE = 0.02  # stored values count in steps of this, so that rounding is far below what is tested


def field(points, waves):
    """A smooth function of patient coordinates (..., 3) in mm, between -1 and 1."""
    return np.sin(points @ waves[:3].T).mean(axis=-1)


def image_points(affine, positions, shape):
    """Patient coordinates of every pixel [image, row, column, 3]."""
    rows, columns = np.indices(shape)
    in_plane = rows[..., None] * affine[:3, 1] + columns[..., None] * affine[:3, 2]
    return positions[:, None, None] + in_plane


def write_field(folder, affine, positions, shape, values, *, order=None, change=None):
    """A CT series whose images lie at `positions` and show `values(points)` in HU."""
    points = image_points(affine, positions, shape)
    stored = np.round(values(points) / SLOPE).astype(np.int16)

    def place(header, k):
        header.ImagePositionPatient = decimals(positions[k])
        if change is not None:
            change(header, k)

    paths = write_slices(
        folder,
        stored,
        affine,
        slopes=[SLOPE] * len(stored),
        intercepts=[0.0] * len(stored),
        change=place,
    )
    return [paths[k] for k in order] if order is not None else paths


def sampled(volume, points):
    """What the volume has at patient points, linear between its voxels."""
    inverse = np.linalg.inv(volume.grid.affine)
    indices = points @ inverse[:3, :3].T + inverse[:3, 3]
    return ndimage.map_coordinates(
        volume.grid.array, np.moveaxis(indices, -1, 0), order=1, mode="nearest"
    )


def no_thickness(header, _):
    del header.SliceThickness


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    count=st.integers(4, 12),
    tilt=st.tuples(st.floats(-28, 28), st.floats(-15, 15)),
    spacing=st.tuples(st.floats(1.0, 5.0), st.floats(0.4, 1.2), st.floats(0.4, 1.2)),
    coarse=st.integers(0, 4),
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    position=st.tuples(*[st.floats(-300, 300)] * 3),
    seed=st.integers(0, 2**16),
)
def test_nothing_moves_by_half_a_percent_of_a_voxel(
    count, tilt, spacing, coarse, turn, position, seed
):
    draw = np.random.default_rng(seed)
    affine = grid_affine(position=position, spacing=spacing)
    affine = turned(affine, Rotation.from_euler("xyz", turn, degrees=True))
    normal, column, row = (affine[:3, axis] / spacing[axis] for axis in range(3))
    down, across = np.tan(np.radians(tilt))
    steps = np.concatenate([[0], np.where(np.arange(count - 1) < coarse, 2, 1)]) * spacing[0]
    along = np.cumsum(steps)
    drift = np.abs([down / spacing[1], across / spacing[2]]).max() * along[-1]
    assume(drift == 0 or drift > 0.25)  # less is taken for rounding of the header's numbers
    positions = affine[:3, 3] + np.outer(along, normal + down * column + across * row)
    axis = [normal, column, row][seed % 3]  # a ramp shows any shift along its direction

    def ramp(points):
        return (points - affine[:3, 3]) @ axis

    with tempfile.TemporaryDirectory() as folder:
        order = draw.permutation(count)
        paths = write_field(
            Path(folder), affine, positions, (24, 20), ramp, order=order, change=no_thickness
        )
        assembled = assemble(paths)
    volume = assembled.volume
    assert volume is not None, assembled.verdict
    inner = image_points(affine, positions, (24, 20))[:, 6:-6, 6:-6]
    error = np.abs(sampled(volume, inner) - ramp(inner)).max()
    assert error < 0.005 * min(spacing) + SLOPE
    nodes = np.linalg.norm(volume.grid.affine[:3, :3], axis=0)
    assert nodes[1:] == pytest.approx(spacing[1:], rel=1e-3)


@pytest.mark.parametrize("angle", [-22.5, 8.0, 27.0])
def test_a_gantry_tilt_is_undone(tmp_path, angle):
    affine = turned(grid_affine(spacing=(2.5, 0.5, 0.5)), Rotation.from_euler("x", 5, degrees=True))
    table = affine[:3, 0] + np.tan(np.radians(angle)) * 2.5 * affine[:3, 1] / 0.5
    positions = affine[:3, 3] + np.outer(np.arange(30), table)
    waves = np.array([[0.9, 0.2, 0.1], [-0.1, 0.8, 0.2], [0.2, -0.3, 0.4]])
    assembled = assemble(
        write_field(tmp_path, affine, positions, (60, 50), lambda p: 300 * field(p, waves))
    )
    verdict, volume = assembled.verdict, assembled.volume
    assert verdict.accepted
    assert verdict.resampled
    assert verdict.geometry is Geometry.TILTED
    assert verdict.tilt_degrees == pytest.approx(abs(angle), abs=0.01)
    assert f"{abs(angle):.1f} degrees" in verdict.notes[0].en
    assert volume.limitations == verdict.notes
    assert volume.grid.spatial_shape[0] == 30
    axes = volume.grid.affine[:3, :3]
    assert np.abs(axes.T @ axes - np.diag(np.diag(axes.T @ axes))).max() < 1e-9

    points = image_points(affine, positions, (60, 50))
    truth = 300 * field(points, waves)
    inner = sampled(volume, points)[:, 2:-2]
    assert np.corrcoef(inner.ravel(), truth[:, 2:-2].ravel())[0, 1] > 0.999


def test_thicker_slices_further_apart_are_no_gap(tmp_path):
    affine = grid_affine(spacing=(2.5, 0.5, 0.5))
    along = np.array([0, 2.5, 5, 7.5, 10, 13.75, 18.75, 23.75, 28.75, 33.75])

    def thickness(header, k):
        header.SliceThickness = "2.5" if k < 5 else "5"

    positions = affine[:3, 3] + np.outer(along, [0, 0, 1])
    assembled = assemble(
        write_field(tmp_path, affine, positions, (20, 20), lambda p: p[..., 2], change=thickness)
    )
    verdict = assembled.verdict
    assert verdict.accepted
    assert verdict.geometry is Geometry.UNEVEN
    assert verdict.missing_slices == 0
    assert verdict.steps_mm == pytest.approx((2.5, 3.75, 5.0))
    assert verdict.spacing_mm == pytest.approx((1.25, 0.5, 0.5))
    assert "2.50 to 5.00" in verdict.notes[0].en
    values = assembled.volume.grid.array[:, 10, 10]
    np.testing.assert_allclose(np.diff(values), 1.25, atol=2 * SLOPE)


@pytest.mark.parametrize("descending", [False, True])
def test_missing_slices_are_interpolated_counted_and_located(tmp_path, descending):
    affine = grid_affine(spacing=(2, 0.6, 0.5), descending=descending)
    ramp = np.arange(12, dtype=np.int16)[:, None, None] * np.ones((20, 20), np.int16)
    paths = write_slices(tmp_path, ramp, affine)
    assembled = assemble(paths[:4] + paths[6:])
    verdict, volume = assembled.verdict, assembled.volume
    assert verdict.accepted
    assert verdict.geometry is Geometry.GAPPED
    assert verdict.missing_slices == 2
    (note,) = volume.limitations
    assert "About 2 slice(s) missing" in note.en
    assert ("10.0 – 16.0 mm" if descending else "6.0 – 12.0 mm") in note.en
    assert volume.grid.spatial_shape[0] == 12
    expected = np.arange(12)[:: -1 if descending else 1]
    np.testing.assert_allclose(volume.grid.array[:, 3, 3], expected, atol=1e-4)
    assert len(volume.sources) == 10


def test_the_widest_gap_is_told_in_whole_steps_whatever_their_noise(tmp_path):
    def noisy(header, k):
        header.ImagePositionPatient[2] += 0.03 * (k == 10)

    paths = write_slices(tmp_path, np.zeros((20, 8, 8), np.int16), grid_affine(), change=noisy)
    assert assemble(paths[:8] + paths[10:]).verdict.accepted
    assert not assemble(paths[:8] + paths[11:]).verdict.accepted


def test_places_where_steps_have_no_length_have_a_gap_and_no_endless_one():
    (gap,) = find_gaps(np.array([-2e57] * 5 + [1e58]), [2.0] * 6)
    assert (gap.index, gap.steps, gap.missing) == (4, WIDEST_GAP, WIDEST_GAP - 1)


def test_a_wide_gap_is_refused_unless_allowed(tmp_path):
    paths = write_slices(tmp_path, np.zeros((20, 8, 8), np.int16), grid_affine())
    left = paths[:8] + paths[13:]
    verdict = assemble(left).verdict
    assert not verdict.accepted
    assert verdict.geometry is Geometry.GAPPED
    assert "About 5 slice(s) missing" in verdict.reason.en
    allowed = assemble(left, max_gap=6)
    assert allowed.verdict.accepted
    assert allowed.volume.grid.spatial_shape[0] == 20


def test_images_without_common_measure_still_lie_where_they_are(tmp_path):
    affine = grid_affine(spacing=(2, 0.6, 0.5))
    along = np.cumsum([0, 2.0, 2.37, 1.91, 2.61, 2.13, 2.44, 2.07, 1.93])
    positions = affine[:3, 3] + np.outer(along, [0, 0, 1])
    paths = write_field(tmp_path, affine, positions, (20, 20), lambda p: p[..., 2])
    assembled = assemble(paths)
    assert assembled.verdict.geometry is Geometry.UNEVEN
    points = image_points(affine, positions, (20, 20))
    np.testing.assert_allclose(sampled(assembled.volume, points), points[..., 2], atol=2 * SLOPE)


@pytest.mark.parametrize("angle", [0.0, 18.0])
def test_a_mask_goes_back_onto_the_images(tmp_path, angle):
    affine = grid_affine(spacing=(2.0, 0.5, 0.5), position=(0, 0, 0))
    table = np.array([0, np.tan(np.radians(angle)), 1.0])
    along = np.delete(np.arange(30) * 2.0, [9, 21])
    positions = np.outer(along, table)
    marker = np.array([12.0, 20.0, 26.0])

    def ball(points):
        return 300.0 * (np.linalg.norm(points - marker, axis=-1) < 6)

    assembled = assemble(write_field(tmp_path, affine, positions, (80, 60), ball))
    volume = assembled.volume
    found = volume.on_sources(volume.grid.array > 150)
    points = image_points(affine, positions, (80, 60))
    truth = ball(points) > 0
    assert found.shape == truth.shape
    overlap = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert overlap > 0.97
    np.testing.assert_allclose(points[found].mean(axis=0), marker, atol=0.3)
