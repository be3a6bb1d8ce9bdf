from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.bundle import BUILTIN, find_bundle, load_bundle
from inference.manifest import HeadGrid
from inference.phantom import HeadPhantom
from inference.preprocess import (
    NotForThisModel,
    apply_windows,
    block_mean,
    prepare,
    resample,
    upright_grid,
)
from inference.simulation import volume_of
from tests.inference.conftest import Scan, scan


@pytest.fixture(scope="module")
def spec() -> HeadGrid:
    return load_bundle(find_bundle(BUILTIN)).manifest.preprocessing


def refusal(volume, spec: HeadGrid) -> str:
    with pytest.raises(NotForThisModel) as caught:
        prepare(volume, spec)
    assert caught.value.reason.zh
    return caught.value.reason.en


@pytest.mark.parametrize(
    "view",
    [
        {"reverse": True},
        {"plane": "sagittal"},
        {"plane": "coronal", "reverse": True},
        {"turn_degrees": (12.0, -8.0, 6.0)},
    ],
    ids=str,
)
def test_every_plane_and_order_gives_the_same_model_input(
    spec: HeadGrid, view: dict[str, object]
) -> None:
    phantom = HeadPhantom(77, haemorrhage=True, diameter_mm=25)
    shape, spacing = (95, 95, 95), (2.4, 2.4, 2.4)
    straight = prepare(scan(phantom, shape, spacing).volume, spec)
    other = prepare(scan(phantom, shape, spacing, **view).volume, spec)
    np.testing.assert_allclose(other.affine[:3, 3], straight.affine[:3, 3], atol=3.0)
    there = resample(other.hu, other.affine, straight.affine, spec.size)
    inside = straight.enclosed.copy()
    inside[:4] = inside[-4:] = False
    difference = np.abs(there - straight.hu)[inside]
    assert np.median(difference) < 5
    assert np.corrcoef(there[inside], straight.hu[inside])[0, 1] > 0.9


def test_reversed_storage_of_the_same_slices_changes_nothing(
    spec: HeadGrid, bleeding: Scan
) -> None:
    volume = bleeding.volume
    flipped = volume.grid.affine.copy()
    flipped[:3, 3] += flipped[:3, 0] * (volume.grid.spatial_shape[0] - 1)
    flipped[:3, 0] *= -1
    other = prepare(volume_of(volume.grid.array[::-1].copy(), flipped), spec)
    straight = prepare(volume, spec)
    np.testing.assert_allclose(other.affine, straight.affine, atol=0.2)
    assert np.abs(other.channels - straight.channels).mean() < 0.01


@settings(max_examples=25, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.4, 4.0)] * 3),
    shape=st.tuples(*[st.integers(5, 30)] * 3),
)
def test_block_mean_keeps_patient_coordinates(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    affine = np.diag([*spacing, 1.0])[[2, 1, 0, 3]]
    indices = np.indices(shape).reshape(3, -1)
    place = (affine[:3, :3] @ indices).astype(np.float32)
    for axis in range(3):
        mean, blocked = block_mean(place[axis].reshape(shape), affine, (2.5, 2.5, 2.5))
        where = blocked[:3, :3] @ np.indices(mean.shape).reshape(3, -1) + blocked[:3, 3:]
        np.testing.assert_allclose(mean.ravel(), where[axis], atol=1e-3)


def test_resampling_a_linear_field_is_exact(spec: HeadGrid) -> None:
    grid = upright_grid(np.array([3.0, -5.0, 7.0]), spec)
    turned = np.eye(4)
    turned[:3, :3] = np.array([[0, 0.3, 2.9], [0.2, 2.9, -0.3], [-2.9, 0.1, 0.2]]).T
    turned[:3, 3] = -turned[:3, :3] @ np.full(3, 60.0)
    points = turned[:3, :3] @ np.indices((121,) * 3).reshape(3, -1) + turned[:3, 3:]
    field = (points[0] + 2 * points[1] - points[2]).reshape((121,) * 3).astype(np.float32)
    sampled = resample(field, turned, grid, spec.size)
    places = grid[:3, :3] @ np.indices(spec.size).reshape(3, -1) + grid[:3, 3:]
    expected = (places[0] + 2 * places[1] - places[2]).reshape(spec.size)
    known = sampled > -999
    assert known.mean() > 0.9
    inner = (slice(8, -8),) * 3
    np.testing.assert_allclose(sampled[inner], expected[inner], atol=0.05)


def test_windows_are_scaled_and_clipped() -> None:
    hu = np.array([[[-2000.0, 50.0, 3000.0]]], dtype=np.float32)
    channels = apply_windows(hu, [(0.0, 100.0), (-50.0, 150.0)])
    np.testing.assert_allclose(channels[:, 0, 0], [[0, 0.5, 1], [0, 0.5, 1]])


def test_mr_is_refused(spec: HeadGrid, clear: Scan) -> None:
    assert "MR" in refusal(replace(clear.volume, modality="MR"), spec)


def test_a_trunk_is_refused(spec: HeadGrid) -> None:
    """An abdomen in outline: a fat-rimmed soft-tissue ellipse with a spine and open rib arcs."""
    z, y, x = np.indices((60, 110, 140)).astype(np.float32)
    y, x = (y - 55) * 3, (x - 70) * 3
    radius = np.hypot(x / 180, y / 130)
    hu = np.where(radius < 1, -90.0, -1000.0)
    hu[radius < 0.88] = 45.0
    hu[(np.hypot(x, y - 70) < 22)] = 450.0
    hu[(np.abs(radius - 0.9) < 0.02) & ((z + x / 12) % 6 < 3) & (y > -60)] = 400.0
    affine = np.diag([3.0, 3.0, 5.0, 1.0])[:, [2, 1, 0, 3]]
    assert "head" in refusal(volume_of(hu.astype(np.float32), affine), spec)


@pytest.mark.parametrize(
    ("slices", "spacing", "word"),
    [(8, 12.0, "few"), (14, 9.0, "coarse"), (20, 2.0, "covered")],
)
def test_too_little_of_a_head_is_refused(
    spec: HeadGrid, slices: int, spacing: float, word: str
) -> None:
    phantom = HeadPhantom(5, haemorrhage=False)
    part = scan(phantom, (slices, 100, 100), (spacing, 2.3, 2.3))
    assert word in refusal(part.volume, spec)


def test_air_and_water_are_refused(spec: HeadGrid) -> None:
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    for value in (-1000.0, 0.0):
        hu = np.full((60, 80, 80), value, dtype=np.float32)
        assert refusal(volume_of(hu, affine), spec)


@pytest.mark.parametrize("seed", range(300, 306))
def test_heads_in_any_pose_are_accepted(spec: HeadGrid, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = ["axial", "coronal", "sagittal"][seed % 3]
    shape = (36, 100, 100) if plane == "axial" else (48, 100, 100)
    turn = tuple(rng.uniform(-12, 12, 3))
    view = scan(HeadPhantom(seed), shape, (5.0, 2.4, 2.4), plane=plane, turn_degrees=turn)
    assert isinstance(view.volume.grid, hd.Volume)
    assert prepare(view.volume, spec).enclosed.sum() > 1000
