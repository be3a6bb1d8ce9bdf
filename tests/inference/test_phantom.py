import numpy as np
import pytest

from inference.assessment import Laterality
from inference.phantom import HeadPhantom
from inference.simulation import scan_grid
from tests.inference.conftest import Scan, centre, scan


def test_a_seed_is_a_head(left_bleed: HeadPhantom) -> None:
    again = HeadPhantom(left_bleed.seed, haemorrhage=True, diameter_mm=30, side=Laterality.LEFT)
    affine = scan_grid(left_bleed, (6, 40, 40), (20, 5, 5))
    first, second = (head.render(affine, (6, 40, 40)) for head in (left_bleed, again))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_tissues_have_their_hounsfield_units(bleeding: Scan) -> None:
    hu, lesion = bleeding.volume.grid.array, bleeding.phantom.lesion
    assert lesion is not None
    assert hu.dtype == np.float32
    assert hu.min() < -900
    assert (hu > 700).sum() * bleeding.volume.voxel_volume_ml > 100
    assert hu[bleeding.truth].mean() == pytest.approx(lesion.hu, abs=6)


def test_truth_has_the_lesions_volume_centre_and_side(bleeding: Scan) -> None:
    lesion = bleeding.phantom.lesion
    assert lesion is not None
    assert lesion.side is Laterality.LEFT
    volume_ml = bleeding.truth.sum() * bleeding.volume.voxel_volume_ml
    assert volume_ml == pytest.approx(lesion.volume_ml, rel=0.15)
    found = centre(bleeding.truth, bleeding.volume.grid.affine)
    assert np.linalg.norm(found - lesion.centre) < 2.5
    assert found[0] > bleeding.phantom.centre[0]


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_the_same_place_looks_the_same_from_every_plane(
    bleeding: Scan, left_bleed: HeadPhantom, plane: str
) -> None:
    lesion = left_bleed.lesion
    assert lesion is not None
    other = scan(left_bleed, (64, 128, 128), (3.5, 1.7, 1.7), plane=plane)
    found = centre(other.truth, other.volume.grid.affine)
    assert np.linalg.norm(found - lesion.centre) < 2.5


def test_a_clear_head_has_no_lesion(clear: Scan) -> None:
    assert clear.phantom.lesion is None
    assert not clear.truth.any()


def test_left_and_right_lesions_lie_where_they_were_asked() -> None:
    for seed in range(40, 46):
        for side, sign in ((Laterality.LEFT, 1), (Laterality.RIGHT, -1)):
            phantom = HeadPhantom(seed, haemorrhage=True, diameter_mm=20, side=side)
            assert phantom.lesion is not None
            across = phantom.rotation[:, 0] @ (np.array(phantom.lesion.centre) - phantom.centre)
            assert across * sign > 0
            assert phantom.lesion.side is side
