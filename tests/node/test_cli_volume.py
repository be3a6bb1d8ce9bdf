"""`overread volume`, as hospital IT and AI engineers type it."""

import json
import os

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage
from typer.testing import CliRunner

from inference.phantom import HeadPhantom
from inference.simulation import scan_grid
from node.cli import app
from tests.node.configuration import write_config
from tests.patient_space import agreement, source_images
from tests.slices import grid_affine, write_part10, write_slices

SHAPE = (24, 60, 64)


def run(*arguments):
    return CliRunner().invoke(app, ["volume", *(str(argument) for argument in arguments)])


def says(text: str, part: str) -> bool:
    """Whether the text holds the part, wherever the console broke its lines."""
    return "".join(part.split()) in "".join(text.replace("│", "").split())


@pytest.fixture(scope="module")
def head():
    return HeadPhantom(11, haemorrhage=True, side="left")


@pytest.fixture
def series(tmp_path, head):
    """A folder with a CT series of a head."""
    affine = scan_grid(head, SHAPE, (6.0, 3.5, 3.5), turn_degrees=(8, 3, -5))
    stored = head.render(affine, SHAPE)[0].round().astype(np.int16)
    write_slices(tmp_path / "series", stored, affine)
    return tmp_path / "series"


def uid_of(folder):
    return dcmread(next(iter(sorted(folder.iterdir())))).SeriesInstanceUID


def test_the_volume_has_every_source_pixel_at_its_patient_coordinate(series, tmp_path):
    done = run(series, "--nifti", tmp_path / "head.nii.gz", "--json")
    assert done.exit_code == 0, done.output
    found = agreement(source_images(series.iterdir()), tmp_path / "head.nii.gz")
    assert found.pixels == np.prod(SHAPE)
    assert found.correlation > 0.999999
    assert found.largest_difference < 0.5
    assert found.share_outside == 0


def test_the_json_says_everything_of_the_series(series, tmp_path):
    (series / "notes.txt").write_text("not DICOM")
    directory = Dataset()
    directory.SOPClassUID, directory.SOPInstanceUID = MediaStorageDirectoryStorage, "2.25.7"
    write_part10(series / "DICOMDIR", directory, ExplicitVRLittleEndian)
    (series / "broken.dcm").write_bytes(bytes(128) + b"DICM")
    done = run(series, "--json", "--nifti", tmp_path / "x.nii", "--picture", tmp_path / "x.png")
    told = json.loads(done.stdout)
    assert (told["not_dicom"], told["dicomdir"]) == (1, 1)
    assert told["unreadable"] == [str(series / "broken.dcm")]
    (one,) = told["series"]
    first = dcmread(series / "slice-000.dcm")
    assert told["chosen"] == one["series_instance_uid"] == first.SeriesInstanceUID
    assert (one["modality"], one["files"]) == ("CT", SHAPE[0])
    assert one["transfer_syntaxes"] == ["Explicit VR Little Endian"]
    assert one["verdict"]["geometry"] == "uniform"
    assert one["verdict"]["accepted"] is True
    assert one["verdict"]["spacing_mm"] == pytest.approx([6, 3.5, 3.5])
    volume = one["volume"]
    assert volume["shape"] == list(SHAPE)
    assert volume["units"] == "HU"
    assert volume["frame_of_reference_uid"] == first.FrameOfReferenceUID
    np.testing.assert_allclose(
        np.array(volume["affine_lps"])[:3, 3], first.ImagePositionPatient, atol=1e-4
    )
    assert volume["sources"][0] == {"sop_instance_uid": first.SOPInstanceUID, "frame": None}
    image = nibabel.load(told["nifti"])
    assert volume["range"] == [image.get_fdata().min(), image.get_fdata().max()]
    assert Image.open(told["picture"]).size[0] == 3 * Image.open(told["picture"]).size[1]


def test_in_words_it_says_what_was_found_and_writes_no_name_of_the_patient(series, tmp_path):
    done = run(series, "--nifti", tmp_path / "head.nii.gz")
    assert done.exit_code == 0
    assert says(done.stdout, uid_of(series))
    assert says(done.stdout, "accepted: uniform")
    assert says(done.stdout, "CT, 24 files, 24 x 60 x 64 voxels; Explicit VR Little Endian")
    assert says(done.stdout, "6.000 x 3.500 x 3.500 mm")
    assert says(done.stdout, f"written {tmp_path / 'head.nii.gz'}")
    assert "TEST" not in done.output
    assert b"TEST" not in (tmp_path / "head.nii.gz").read_bytes()


def test_files_may_be_named_one_by_one(series):
    assert run(*sorted(series.iterdir())).exit_code == 0


def test_a_refused_series_gives_its_reason_and_writes_nothing(tmp_path):
    write_slices(tmp_path / "few", np.zeros((1, 8, 8), np.int16), grid_affine())
    done = run(tmp_path / "few", "--nifti", tmp_path / "x.nii.gz", "--picture", tmp_path / "x.png")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert says(done.stderr, "refused: too few slices")
    assert says(done.stderr, "one slice only")
    told = run(tmp_path / "few", "--json", "--nifti", tmp_path / "x.nii.gz")
    assert told.exit_code == 1
    (one,) = json.loads(told.stdout)["series"]
    assert one["volume"] is None
    assert "one slice only" in one["verdict"]["reason"]["en"]
    assert one["verdict"]["reason"]["zh"]
    assert json.loads(told.stdout)["nifti"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["few"]


@pytest.fixture
def study(tmp_path, series):
    """The folder of a study: two series that become volumes, and one that does not."""
    affine = grid_affine()
    write_slices(tmp_path / "second", np.ones((6, 8, 8), np.int16), affine, modality="MR")
    write_slices(tmp_path / "survey", np.zeros((1, 8, 8), np.int16), affine)
    return tmp_path


def test_a_study_is_shown_series_by_series(study):
    told = json.loads(run(study, "--json").stdout)
    assert sorted(one["verdict"]["accepted"] for one in told["series"]) == [False, True, True]
    assert told["chosen"] is None


def test_of_several_volumes_one_must_be_chosen_for_a_file(study, tmp_path):
    out = tmp_path / "out.nii.gz"
    several = run(study, "--nifti", out)
    assert several.exit_code == 2
    assert "--series" in several.stderr
    assert all(uid_of(study / name) in several.stderr for name in ("series", "second"))
    assert not out.exists()
    assert run(study, "--nifti", out, "--series", uid_of(study / "second")).exit_code == 0
    assert nibabel.load(out).shape == (8, 8, 6)
    unknown = run(study, "--series", "1.2.3")
    assert unknown.exit_code == 2
    assert uid_of(study / "survey") in unknown.stderr


@pytest.fixture
def echoes(tmp_path):
    """A series with two echoes at each position; the pixels of the second are 2."""

    def change(header, k):
        header.EchoTime = ("5", "10")[k % 2]
        header.ImagePositionPatient[2] = 2.0 * (k // 2)

    stored = np.tile(np.array([1, 2], np.int16), 6)[:, None, None] * np.ones((8, 8), np.int16)
    write_slices(tmp_path / "echoes", stored, grid_affine(), modality="MR", change=change)
    return tmp_path / "echoes"


def test_one_of_several_stacks_is_chosen_as_a_route_does(echoes, tmp_path):
    out = tmp_path / "out.nii"
    assert run(echoes, "--nifti", out, "--stack", "EchoTime > 7.0").exit_code == 0
    assert set(np.unique(nibabel.load(out).get_fdata())) == {2}
    first = run(echoes, "--nifti", out)
    assert says(first.stdout, "told apart by echo time: echo time 5; echo time 10")
    assert set(np.unique(nibabel.load(out).get_fdata())) == {1}
    none = run(echoes, "--json", "--stack", "EchoTime > 70.0")
    assert none.exit_code == 1
    assert "EchoTime > 70.0" in json.loads(none.stdout)["series"][0]["verdict"]["reason"]["en"]


def test_the_node_s_own_thresholds_are_used(series, tmp_path):
    for path in sorted(series.iterdir())[10:13]:
        path.unlink()
    assert run(series).exit_code == 1
    config = write_config(tmp_path)
    config.write_text(config.read_text() + "\n[assembly]\nmax_gap = 5.0\n")
    done = run(series, "--config", config)
    assert done.exit_code == 0
    assert says(done.stdout, "accepted: gapped")
    assert says(done.stdout, "3 missing")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nifti", "x.img"], "must end in .nii or .nii.gz"),
        (["--picture", "x.jpg"], "must end in .png"),
        (["--picture", "x.png", "--at", "1,2"], "three numbers"),
        (["--at", "1,2,3"], "--picture"),
        (["--picture", "x.png", "--at", "900,900,900"], "outside the volume"),
        (["--nifti", "absent/x.nii"], "No such file"),
        (["--config", "absent.toml"], "there is no such file"),
        (["--stack", "EkkoTime > 7.0"], "did you mean EchoTime?"),
        (["--stack", "EchoTime + 1.0"], "true or false"),
    ],
)
def test_what_is_asked_wrongly_is_said(series, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = run(series, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == [series]


def test_names_in_other_character_sets_are_shown_as_far_as_they_can_be(series):
    odd = series / os.fsdecode(b"\xfcbersicht.dcm")
    odd.write_bytes(bytes(128) + b"DICM")
    told = run(series, "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["unreadable"][0].endswith("bersicht.dcm")
    assert run(odd).exit_code == 1
    odd.write_bytes(b"no DICOM")
    named = run(odd)
    assert named.exit_code == 2
    assert "bersicht.dcm" in named.stderr


def test_a_named_file_that_is_not_dicom_is_an_error_and_so_is_an_empty_folder(series, tmp_path):
    (tmp_path / "notes.txt").write_text("not DICOM")
    done = run(series, tmp_path / "notes.txt")
    assert done.exit_code == 2
    assert "notes.txt" in done.stderr
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty").exit_code == 1
    assert run(tmp_path / "absent").exit_code == 2
