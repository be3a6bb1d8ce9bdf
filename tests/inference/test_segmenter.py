import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from inference.segmenter import (
    drop_specks,
    long_axis_mm,
    outline,
    probabilities,
    within_skull,
)
from tests.inference.conftest import centre

MODEL = np.diag([2.5, 2.5, 2.5, 1.0])[[2, 1, 0, 3]]
ANGLES = st.tuples(*[st.floats(-90, 90)] * 3)


def ball(radius_mm: float, where: tuple[float, float, float], size=(40, 40, 40)) -> np.ndarray:
    points = MODEL[:3, :3] @ np.indices(size).reshape(3, -1)
    distance = np.linalg.norm(points - np.array(where)[:, None], axis=0)
    return (radius_mm - distance).reshape(size).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(angles=ANGLES, radius=st.floats(8, 16), shift=st.tuples(*[st.floats(-8, 8)] * 3))
def test_a_ball_keeps_its_place_and_volume_on_any_grid(
    angles: tuple[float, float, float], radius: float, shift: tuple[float, float, float]
) -> None:
    where = np.array(shift) + 48.0
    onto = np.eye(4)
    onto[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [3.0, 1.2, 1.2]
    shape = (26, 60, 60)
    onto[:3, 3] = where - onto[:3, :3] @ ((np.array(shape) - 1) / 2)
    logits = ball(radius, tuple(where))
    mask = outline(logits, MODEL, onto, shape, threshold=0.5, min_volume_ml=0.1)
    assert np.linalg.norm(centre(mask, onto) - where) < 1.0
    volume_ml = mask.sum() * abs(np.linalg.det(onto[:3, :3])) / 1000
    assert volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.1)
    assert long_axis_mm(mask, onto) == pytest.approx(2 * radius, abs=3)


@settings(max_examples=20, deadline=None)
@given(
    angles=ANGLES, threshold=st.floats(0.02, 0.98), noise=st.floats(0, 4), seed=st.integers(0, 99)
)
def test_probabilities_are_over_the_threshold_in_the_mask_and_nowhere_else(
    angles: tuple[float, float, float], threshold: float, noise: float, seed: int
) -> None:
    logits = ball(12, (50, 50, 50)) / 4
    logits += np.random.default_rng(seed).normal(0, noise, logits.shape).astype(np.float32)
    onto = np.eye(4)
    onto[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [3.0, 1.2, 1.2]
    shape = (26, 60, 60)
    onto[:3, 3] = 50 - onto[:3, :3] @ ((np.array(shape) - 1) / 2)
    mask = outline(logits, MODEL, onto, shape, threshold=threshold, min_volume_ml=0.5)
    found = probabilities(logits, MODEL, onto, mask, threshold=threshold)
    np.testing.assert_array_equal(found > threshold * 255, mask)


def test_probabilities_are_the_logistic_of_the_logits_in_255ths() -> None:
    logits = ball(12, (50, 50, 50)) / 4
    mask = logits > 0
    found = probabilities(logits, MODEL, MODEL, mask, threshold=0.5)
    assert np.abs(found / 255 - 1 / (1 + np.exp(-logits.astype(float)))).max() <= 1 / 255
    assert found[~mask].max() > 50
    far = MODEL.copy()
    far[:3, 3] = 500
    assert not probabilities(logits, MODEL, far, mask, threshold=0.5).any()


def test_nothing_outlined_and_outlined_elsewhere_give_an_empty_mask() -> None:
    logits = ball(10, (50, 50, 50))
    far = MODEL.copy()
    far[:3, 3] = 500
    for field, onto in ((np.full_like(logits, -5), MODEL), (logits, far)):
        mask = outline(field, MODEL, onto, (20, 20, 20), threshold=0.5, min_volume_ml=0.1)
        assert mask.shape == (20, 20, 20)
        assert not mask.any()


def test_specks_are_dropped_and_the_rest_kept() -> None:
    mask = np.zeros((10, 10, 10), dtype=bool)
    mask[1, 1, 1] = True
    mask[5:8, 5:8, 5:8] = True
    kept = drop_specks(mask, 5)
    assert kept.sum() == 27
    assert not kept[1, 1, 1]


def test_nothing_is_outlined_outside_the_skull() -> None:
    enclosed = np.zeros((40, 40, 40), dtype=bool)
    enclosed[:, :, :18] = True
    ruled = within_skull(ball(12, (50, 50, 50)), enclosed)
    assert (ruled[:, :, 20:] < 0).all()
    assert (ruled[:, :, :18] > 0).any()


@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_long_axis_of_a_line(pixels: int) -> None:
    mask = np.zeros((3, 9, 9), dtype=bool)
    mask[1, 4, 1 : 1 + pixels] = True
    assert long_axis_mm(mask, np.diag([5.0, 2.0, 2.0, 1.0])) == pytest.approx(2.0 * pixels)
