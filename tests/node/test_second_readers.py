"""The same files read by others: SimpleITK and dcm2niix, and by the coordinates in the headers.

For tilted and unevenly spaced series the headers are the truth: there the volume is sampled where
its source pixels say that they lie.
"""

import importlib
import shutil
import subprocess
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.data import get_testdata_file
from scipy.spatial.transform import Rotation

from inference.phantom import HeadPhantom
from inference.simulation import PLANES, scan_grid
from inference.volume import Geometry
from node.assembly import assemble
from node.nifti import nifti_image, write_nifti
from tests.multi_frames import write_enhanced, write_mosaic
from tests.node.test_assembly import real_series
from tests.patient_space import agreement, source_images
from tests.slices import decimals, grid_affine, turned, write_slices

DCM2NIIX = shutil.which("dcm2niix")
needs_dcm2niix = pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is missing: install it")


def by_dcm2niix(folder: Path, out: Path) -> nibabel.Nifti1Image:
    out.mkdir()
    command = [DCM2NIIX, "-b", "n", "-z", "n", "-f", "volume", "-o", str(out), str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    files = list(out.glob("*.nii"))
    assert len(files) == 1, said
    return nibabel.load(files[0])


def by_simpleitk(folder: Path, _: Path) -> nibabel.Nifti1Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return nibabel.Nifti1Image(sitk.GetArrayFromImage(image).T.astype(np.float32), to_ras)


READERS = [
    pytest.param(by_simpleitk, id="SimpleITK"),
    pytest.param(by_dcm2niix, id="dcm2niix", marks=needs_dcm2niix),
]


def assert_same(ours: nibabel.Nifti1Image, theirs: nibabel.Nifti1Image) -> None:
    """Compare after turning both to the same order of axes: that order is free."""
    ours, theirs = nibabel.as_closest_canonical(ours), nibabel.as_closest_canonical(theirs)
    assert ours.shape == theirs.shape
    for corner in np.ndindex(2, 2, 2):
        index = (*(np.array(corner) * (np.array(ours.shape) - 1)), 1)
        # NIfTI keeps its affine in 32 bits, ours too: about 1e-5 mm in a metre.
        np.testing.assert_allclose(ours.affine @ index, theirs.affine @ index, atol=2e-3)
    np.testing.assert_allclose(ours.get_fdata(), theirs.get_fdata(), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("plane", sorted(PLANES))
def test_others_find_the_same_voxels_at_the_same_places(
    tmp_path, plane, descending, modality, reader
):
    _, column, row = PLANES[plane]
    affine = grid_affine(row=row, column=column, descending=descending)
    affine = turned(affine, Rotation.from_euler("xyz", (9, -12, 6), degrees=True))
    stored = np.random.default_rng(7).integers(-900, 3000, (8, 12, 14)).astype(np.int16)
    paths = write_slices(
        tmp_path / "series",
        stored,
        affine,
        modality=modality,
        slopes=[1.0] * 8 if modality == "CT" else None,
        intercepts=[-100.0] * 8 if modality == "CT" else None,
    )
    volume = assemble(paths).volume
    assert_same(nifti_image(volume), reader(tmp_path / "series", tmp_path / "theirs"))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("name", "slices"), [("ct-dicom-20", 20), ("mr-t1-head", 40)])
def test_others_read_real_scans_alike(tmp_path, name, slices, reader):
    files = real_series(name)
    files.sort(key=lambda path: dcmread(path, stop_before_pixels=True).InstanceNumber)
    (tmp_path / "series").mkdir()
    paths = [shutil.copy(path, tmp_path / "series") for path in files[:slices]]
    volume = assemble([Path(path) for path in paths]).volume
    assert_same(nifti_image(volume), reader(tmp_path / "series", tmp_path / "theirs"))


# The headers are the truth


def head_series(folder: Path, places: np.ndarray, tilt_degrees: float) -> list[Path]:
    """A CT head whose slices lie `places` mm along the normal, sheared by a tilt."""
    phantom = HeadPhantom(5, haemorrhage=True)
    shape = (len(places), 96, 96)
    affine = scan_grid(phantom, shape, (4.0, 2.4, 2.4), turn_degrees=(6, 4, -9))
    normal, column = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (0, 1))
    tilt = np.tan(np.radians(tilt_degrees))
    middle = affine[:3, 3] + (len(places) - 1) / 2 * affine[:3, 0]
    away = places - np.mean(places)
    positions = middle + np.multiply.outer(away, normal + tilt * column)
    stored = []
    for position in positions:
        affine[:3, 3] = position
        stored.append(phantom.render(affine, (1, *shape[1:]))[0][0])

    def change(header, k):
        header.ImagePositionPatient = decimals(positions[k])

    return write_slices(folder, np.round(stored).astype(np.int16), affine, change=change)


EVEN = np.arange(30) * 4.0
THEN_WIDER = np.concatenate([np.arange(14) * 2.5, 35 + np.arange(14) * 5.0])
WANDERING = EVEN + np.random.default_rng(3).uniform(-1, 1, 30)


@pytest.mark.parametrize(
    ("places", "tilt", "geometry", "correlation"),
    [
        pytest.param(EVEN, 0, Geometry.UNIFORM, 0.9999999, id="uniform"),
        pytest.param(EVEN, 14, Geometry.TILTED, 0.995, id="tilted"),
        pytest.param(EVEN, -25, Geometry.TILTED, 0.995, id="tilted the other way"),
        pytest.param(THEN_WIDER, 0, Geometry.GAPPED, 0.9999999, id="one step, then another"),
        pytest.param(WANDERING, 0, Geometry.UNEVEN, 0.995, id="steps that wander"),
        pytest.param(np.delete(EVEN, 12), 0, Geometry.GAPPED, 0.9999999, id="a slice missing"),
        pytest.param(np.delete(EVEN, [3, 12]), 14, Geometry.GAPPED, 0.995, id="all of it"),
    ],
)
def test_a_volume_sampled_at_its_source_pixels_gives_them_back(
    tmp_path, places, tilt, geometry, correlation
):
    paths = head_series(tmp_path / "series", places, tilt)
    assembled = assemble(paths[1::2] + paths[::2])
    assert assembled.verdict.geometry is geometry
    write_nifti(nifti_image(assembled.volume), tmp_path / "volume.nii")
    found = agreement(source_images(paths), tmp_path / "volume.nii")
    assert found.images == len(places)
    assert found.share_outside == 0
    assert found.correlation > correlation


def test_a_mosaic_and_an_enhanced_image_sampled_at_their_pixels_give_them_back(tmp_path):
    affine = turned(grid_affine(), Rotation.from_euler("xyz", (9, -12, 6), degrees=True))
    stored = np.random.default_rng(7).integers(0, 3000, (11, 16, 12)).astype(np.int16)
    for write in (write_mosaic, write_enhanced):
        path = write(tmp_path / f"{write.__name__}.dcm", stored, affine)
        volume = assemble([path]).volume
        write_nifti(nifti_image(volume), tmp_path / "volume.nii")
        found = agreement(source_images([path]), tmp_path / "volume.nii")
        assert found.images == 11
        assert found.largest_difference < 0.1
        assert found.share_outside == 0


# Vendors' files


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        ("CT_small.dcm", Geometry.TOO_FEW_SLICES),
        ("MR_small.dcm", Geometry.TOO_FEW_SLICES),
        ("MR_small_RLE.dcm", Geometry.TOO_FEW_SLICES),
        ("MR_small_bigendian.dcm", Geometry.TOO_FEW_SLICES),
        ("MR_small_jp2klossless.dcm", Geometry.TOO_FEW_SLICES),
        ("MR_small_jpeg_ls_lossless.dcm", Geometry.TOO_FEW_SLICES),
        ("MR_small_padded.dcm", Geometry.TOO_FEW_SLICES),
        ("MR_truncated.dcm", Geometry.TOO_FEW_SLICES),
        ("J2K_pixelrep_mismatch.dcm", Geometry.TOO_FEW_SLICES),
        ("explicit_VR-UN.dcm", Geometry.TOO_FEW_SLICES),
        ("bad_sequence.dcm", Geometry.TOO_FEW_SLICES),
        ("MR2_J2KI.dcm", Geometry.TOO_FEW_SLICES),
        ("693_UNCI.dcm", Geometry.TOO_FEW_SLICES),
        ("eCT_Supplemental.dcm", Geometry.UNIFORM),
        ("emri_small.dcm", Geometry.UNREADABLE),  # without functional groups
        ("JPEG-lossy.dcm", Geometry.NOT_A_VOLUME),
        ("no_meta.dcm", Geometry.UNREADABLE),
        ("rtplan.dcm", Geometry.NOT_A_VOLUME),
    ],
)
def test_single_files_of_scanners_have_a_verdict(name, geometry):
    found = get_testdata_file(name, download=False)
    if found is None:
        pytest.skip(f"{name} is not on this machine: install pydicom-data")
    assert assemble([Path(found)]).verdict.geometry is geometry


def test_five_slices_of_a_real_ct_are_a_volume():
    record = get_testdata_file("DICOMDIR", download=False)
    paths = sorted((Path(record).parent / "98892001" / "CT5N").iterdir())
    assembled = assemble(paths)
    assert assembled.verdict.geometry is Geometry.UNIFORM
    assert_same(nifti_image(assembled.volume), by_simpleitk(paths[0].parent, paths[0]))


@pytest.mark.parametrize(
    ("scanner", "images", "told"),
    [
        ("mri.t1w.siemens.skyra.syngo_d13c", 192, ""),
        ("mri.fmap.siemens.skyra.syngo_d13c", 60, "told apart by echo time"),
        ("mri.fmap.ge.discovery_mr888.dv26_0_r05_2008a", 60, ""),
        ("ct.ac.siemens.biograph_vision.vr20b", 531, ""),
    ],
)
def test_series_of_scanners_are_accepted(tmp_path, scanner, images, told):
    pytest.importorskip("medimages4tests")
    module = importlib.import_module(f"medimages4tests.dummy.dicom.{scanner}")
    with warnings.catch_warnings(action="ignore"):
        module.get_image(tmp_path / "series")
    verdict = assemble(sorted((tmp_path / "series").iterdir())).verdict
    assert verdict.geometry is Geometry.UNIFORM
    assert verdict.slices == images
    assert not told or any(told in note.en for note in verdict.notes)
