"""NIfTI files and pictures: a patient point is the same point, whoever reads the file."""

import gzip
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from inference.simulation import PLANES, volume_of
from node.nifti import nifti_image, write_nifti
from node.three_planes import CT_WINDOW, sides, three_planes, window_of
from tests.slices import grid_affine, turned

MARKER = (6, 4, 21)


def marked(plane="axial", *, descending=False, turn=(12, -7, 20), shape=(9, 20, 30)):
    """A volume with one bright voxel, and that voxel's LPS point."""
    _, column, row = PLANES[plane]
    affine = grid_affine(descending=descending, spacing=(3, 0.7, 0.4), row=row, column=column)
    affine = turned(affine, Rotation.from_euler("xyz", turn, degrees=True))
    voxels = np.zeros(shape, np.float32)
    voxels[MARKER] = 1000
    return volume_of(voxels, affine), (affine @ (*MARKER, 1))[:3]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("plane", sorted(PLANES))
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_marker_is_at_its_patient_point_in_the_file(tmp_path, plane, descending, suffix):
    volume, point = marked(plane, descending=descending)
    path = tmp_path / f"volume{suffix}"
    write_nifti(nifti_image(volume), path)
    image = nibabel.load(path)
    where = np.unravel_index(np.asarray(image.dataobj).argmax(), image.shape)
    for affine in (image.affine, image.get_sform(), image.get_qform()):
        np.testing.assert_allclose((affine @ (*where, 1))[:3] * (-1, -1, 1), point, atol=1e-4)

    theirs = sitk.ReadImage(path)  # ITK's coordinates are LPS
    array = sitk.GetArrayFromImage(theirs)
    index = np.unravel_index(array.argmax(), array.shape)[::-1]
    found = theirs.TransformIndexToPhysicalPoint([int(i) for i in index])
    np.testing.assert_allclose(found, point, atol=1e-4)


def test_the_file_says_what_it_is(tmp_path):
    volume, _ = marked()
    path = tmp_path / "volume.nii.gz"
    write_nifti(nifti_image(volume), path)
    image = nibabel.load(path)
    assert image.shape == (30, 20, 9)  # column, row, slice
    assert image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header["descrip"].item().startswith(b"Overread ")
    np.testing.assert_allclose(image.header.get_zooms(), (0.4, 0.7, 3), rtol=1e-6)
    np.testing.assert_array_equal(image.get_fdata(), volume.grid.array.transpose(2, 1, 0))


def test_the_same_volume_is_the_same_file(tmp_path):
    for name in ("one.nii.gz", "other.nii.gz"):
        write_nifti(nifti_image(marked()[0]), tmp_path / name)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "volume.nii.gz"
    write_nifti(nifti_image(marked()[0]), path)
    before = path.read_bytes()

    def no_space(_, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", no_space)
    with pytest.raises(OSError, match="No space"):
        write_nifti(nifti_image(marked(shape=(9, 20, 31))[0]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_volume_that_the_format_cannot_count_is_refused():
    volume = volume_of(np.zeros((32768, 1, 1), np.float32), np.eye(4))
    with pytest.raises(ValueError, match="32767"):
        nifti_image(volume)


# The picture


def blob(radius_mm: float, *, at: np.ndarray, plane: str, descending: bool, turn=(4, -3, 5)):
    """A volume of a head's size, 600 in a ball around the LPS point `at`, else 0."""
    _, column, row = PLANES[plane]
    affine = grid_affine(descending=descending, spacing=(5, 2, 2), row=row, column=column)
    affine = turned(affine, Rotation.from_euler("xyz", turn, degrees=True))
    shape = (40, 90, 100)
    affine[:3, 3] -= affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    points = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    inside = np.linalg.norm(points - at, axis=-1) < radius_mm
    return volume_of(np.where(inside, 600, 0).astype(np.float32), affine)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("plane", sorted(PLANES))
def test_left_is_at_the_right_and_every_side_is_where_radiologists_expect_it(plane, descending):
    left_back_up = np.array([20.0, 15.0, 25.0])
    volume = blob(12, at=left_back_up, plane=plane, descending=descending)
    picture = three_planes(nifti_image(volume), CT_WINDOW, tuple(left_back_up))
    shades = np.asarray(picture.convert("L"))
    side = shades.shape[0]
    scale = 480 / 200  # the longest side, 100 or 40 x 5 mm, fills the panel
    for number, (across, down) in enumerate(
        [(left_back_up[0], left_back_up[1]), (left_back_up[0], -25), (left_back_up[1], -25)]
    ):
        panel = shades[30:-30, number * side + 30 : (number + 1) * side - 30]
        rows, columns = np.nonzero(panel > 200)
        middle = np.array(panel.shape)[::-1] / 2
        found = (np.array([columns.mean(), rows.mean()]) - middle) / scale
        np.testing.assert_allclose(found, (across, down), atol=4)
        # A ball is round where millimetres across are millimetres down; slices are 5 mm thick.
        assert np.ptp(columns) == pytest.approx(np.ptp(rows), abs=5 * scale)


def test_without_a_point_the_planes_go_through_the_middle():
    volume = blob(30, at=np.zeros(3), plane="axial", descending=False)
    shades = np.asarray(three_planes(nifti_image(volume), CT_WINDOW).convert("L"))
    side = shades.shape[0]
    for number in range(3):
        assert shades[side // 2, number * side + side // 2] == 255


def test_a_point_outside_the_volume_is_refused():
    with pytest.raises(ValueError, match="outside"):
        three_planes(nifti_image(marked()[0]), CT_WINDOW, (900, 0, 0))


@pytest.mark.parametrize(
    ("direction", "letters"),
    [((1, 0, 0), "R"), ((-1, 0.1, 0), "L"), ((0.6, 0.8, 0), "AR"), ((0, -0.5, -0.8), "IP")],
)
def test_sides_are_named_by_where_they_point(direction, letters):
    assert sides(np.array(direction, float)) == letters


def test_a_window_comes_from_the_ct_images_and_from_the_mr_values():
    volume, _ = marked()
    assert window_of(volume) == CT_WINDOW
    for source in volume.sources:
        source.WindowCenter, source.WindowWidth = 35, 80
    assert window_of(volume) == (-5, 75)
    ramp = np.linspace(0, 1000, volume.grid.array.size, dtype=np.float32)
    mr = volume_of(ramp.reshape(volume.grid.array.shape), volume.grid.affine, modality="MR")
    assert window_of(mr) == pytest.approx((10, 995), abs=8)
    assert window_of(replace(mr, modality="CT")) == CT_WINDOW
