import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.assessment import Laterality
from inference.bundle import BUILTIN, find_bundle, load_bundle
from inference.midline import Midline, find_midline, side_of
from inference.phantom import HeadPhantom
from inference.preprocess import enclosed_by_skull, upright_grid
from inference.training.grid import GRID, PLAUSIBILITY

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]
MIDDLE = Midline(np.array([40.0, 0, 0]), np.array([1.0, 0, 0]))


@pytest.mark.parametrize("seed", [3, 4, 5, 6])
def test_midline_follows_the_head(seed: int) -> None:
    phantom = HeadPhantom(seed, haemorrhage=False)
    spec = load_bundle(find_bundle(BUILTIN)).manifest.preprocessing
    grid = upright_grid(phantom.centre + np.array([0, 0, 12.0]), spec)
    hu, _ = phantom.render(grid, GRID)
    midline = find_midline(hu, enclosed_by_skull(hu, PLAUSIBILITY), grid)
    true_left = phantom.rotation[:, 0]
    assert np.degrees(np.arccos(midline.left @ true_left)) < 4
    assert abs(true_left @ (midline.point - phantom.centre)) < 3


@settings(max_examples=30)
@given(column=st.integers(0, 36), size=st.integers(1, 4))
def test_side_is_that_of_patient_coordinates(column: int, size: int) -> None:
    mask = np.zeros((8, 8, 41), dtype=bool)
    mask[2:4, 3:5, column : column + size] = True
    side = side_of(mask, AFFINE, MIDDLE)
    if 2 * (column + size) < 40:
        assert side is Laterality.RIGHT
    if 2 * column > 40:
        assert side is Laterality.LEFT


def test_on_the_midline_there_is_no_side_and_far_on_both_is_bilateral() -> None:
    mask = np.zeros((4, 4, 41), dtype=bool)
    mask[1, 1, 18:23] = True
    assert side_of(mask, AFFINE, MIDDLE) is None
    mask[:] = False
    mask[1, 1, 2:6] = mask[1, 1, 34:38] = True
    assert side_of(mask, AFFINE, MIDDLE) is Laterality.BILATERAL
    assert side_of(np.zeros_like(mask), AFFINE, MIDDLE) is None
