"""A map says of each pixel of the source images how probable it is part of the segment."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.sr.codedict import codes

from inference.assessment import Laterality
from node.outside_validators import DCIODVFY
from sr_writer.conformance import check_objects
from sr_writer.content_items import is_named
from sr_writer.parametric_map import write_parametric_maps
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.acquisitions import ACQUISITIONS, acquired
from tests.sr_writer.series import (
    AXIAL,
    BRAIN,
    LESION_AT,
    LESION_RADIUS_MM,
    MODEL,
    OBLIQUE,
    PROVENANCE,
    SAGITTAL,
    bytes_of,
    instances_of,
    make_volume,
    patient_points,
    present,
    two_segments,
)

FADES_OVER_MM = 2.0
STEP = 1 / 255


def probability(points):
    """What the simulated model says of points in the patient (LPS mm), half at the lesion's rim."""
    beyond = np.linalg.norm(points - LESION_AT, axis=-1) - LESION_RADIUS_MM
    return 1 / (1 + np.exp(beyond / FADES_OVER_MM))


def probable(volume):
    """A hemorrhage with its mask and the probabilities that this was cut from."""
    points = patient_points(volume.grid.affine, volume.grid.spatial_shape)
    map_ = np.rint(probability(points) * 255).astype(np.uint8)
    assessment = present(volume)
    return replace(assessment, masks={1: map_ > 127}, probabilities={1: map_})


def written(volume):
    """The map, and the segmentation of the same assessment."""
    assessment = probable(volume)
    (made,) = write_parametric_maps(assessment, volume, PROVENANCE)
    return made, write_segmentation(assessment, volume, PROVENANCE)


def planes(made):
    """Values of each frame, and the patient coordinates of its pixels."""
    shared = made.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    down, across = shared.PixelMeasuresSequence[0].PixelSpacing
    rows, columns = np.indices((made.Rows, made.Columns))
    values = np.frombuffer(made.FloatPixelData, "<f4").reshape(-1, made.Rows, made.Columns)
    for frame, plane in zip(made.PerFrameFunctionalGroupsSequence, values, strict=True):
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        along = columns[..., None] * cosines[:3] * across + rows[..., None] * cosines[3:] * down
        yield plane, position + along


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE], ids=["axial", "sag", "oblique"])
@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("stored", ["instances", "enhanced", "mosaic"])
def test_each_pixel_has_the_probability_of_its_place_in_the_patient(
    orientation, descending, stored
):
    made, _ = written(make_volume(orientation, descending=descending, stored=stored))
    frames = list(planes(made))
    assert len(frames) == made.NumberOfFrames > 4
    for plane, points in frames:
        assert np.abs(plane - probability(points)).max() <= STEP


def test_the_frames_are_those_images_between_the_last_on_which_anything_is_probable():
    volume = make_volume()
    assessment = probable(volume)
    assessment.probabilities[1][:2] = 0
    assessment.probabilities[1][2, 0, 0] = 1
    (made,) = write_parametric_maps(assessment, volume, PROVENANCE)
    shown = [frame.PlanePositionSequence[0] for frame in made.PerFrameFunctionalGroupsSequence]
    last = int(np.flatnonzero(assessment.probabilities[1].any(axis=(1, 2)))[-1])
    assert 2 < last < len(volume.sources) - 1
    assert {tuple(each.ImagePositionPatient) for each in shown} == {
        tuple(source.ImagePositionPatient) for source in volume.sources[2 : last + 1]
    }
    assert any(not plane.any() for plane, _ in planes(made))
    segmentation = write_segmentation(assessment, volume, PROVENANCE)
    assert not check_objects([made, segmentation], instances_of(volume), volume, model=MODEL)
    assert hd.Image.from_dataset(made).get_volume() is not None


def test_highdicom_reads_the_same_values_at_the_same_places(tmp_path):
    made, _ = written(make_volume(OBLIQUE))
    made.save_as(tmp_path / "map.dcm", enforce_file_format=True)
    read = hd.imread(tmp_path / "map.dcm").get_volume(apply_real_world_transform=True)
    there = np.rint(np.linalg.inv(read.affine) @ [*LESION_AT, 1])[:3].astype(int)
    assert read.array[tuple(there)] > 0.95
    points = patient_points(read.affine, read.spatial_shape)
    assert np.abs(read.array - probability(points)).max() <= STEP


@pytest.mark.peers
@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("orientation", [SAGITTAL, OBLIQUE], ids=["sagittal", "oblique"])
def test_3d_slicers_reader_has_the_same_values_at_the_same_places(
    orientation, descending, tmp_path
):
    """dcmqi is what 3D Slicer reads parametric maps with; it takes the frames as they come."""
    reader = Path(sys.executable).with_name("paramap2itkimage")
    if not reader.exists():
        pytest.skip("dcmqi is not installed: pip install --group dev")
    made, _ = written(make_volume(orientation, descending=descending))
    made.save_as(tmp_path / "map.dcm", enforce_file_format=True)
    arguments = ["--inputDICOM", tmp_path / "map.dcm", "--outputDirectory", tmp_path]
    done = subprocess.run(
        [reader, *arguments, "--outputType", "nrrd"], capture_output=True, text=True, check=True
    )
    assert "W: " not in done.stderr
    image = SimpleITK.ReadImage(tmp_path / "pmap.nrrd")
    read = SimpleITK.GetArrayFromImage(image)
    directions = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions[:, ::-1], image.GetOrigin()
    assert np.abs(read - probability(patient_points(affine, read.shape))).max() <= STEP
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta["QuantityValueCode"]["CodeMeaning"] == "Probability"
    assert meta["FrameLaterality"] == "L"


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_the_map_is_over_the_threshold_where_the_segmentation_is(name):
    volume = acquired(name)
    made, segmentation = written(volume)
    assert not check_objects([made, segmentation], instances_of(volume), volume, model=MODEL)
    shown = sum(int((plane > 0.5).sum()) for plane, _ in planes(made))
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8))
    assert shown == bits.sum() > 0


def test_each_segment_that_has_probabilities_has_a_map_under_its_tracking():
    volume = make_volume()
    assessment = two_segments(volume, overlap=False)
    maps = {number: mask.astype(np.uint8) * 200 for number, mask in assessment.masks.items()}
    made = write_parametric_maps(replace(assessment, probabilities=maps), volume, PROVENANCE)
    segmentation = write_segmentation(assessment, volume, PROVENANCE)
    assert [each.InstanceNumber for each in made] == [1, 2]
    assert len({each.SeriesInstanceUID for each in made}) == 1
    assert len({each.SOPInstanceUID for each in made}) == 2
    for each, segment in zip(made, segmentation.SegmentSequence, strict=True):
        assert [item.UID for item in quantity(each) if "UID" in item] == [segment.TrackingUID]
    assert not check_objects([*made, segmentation], instances_of(volume), volume, model=MODEL)
    assert not write_parametric_maps(assessment, volume, PROVENANCE)


@pytest.mark.parametrize(
    ("side", "letter"),
    [(Laterality.LEFT, "L"), (Laterality.RIGHT, "R"), (Laterality.BILATERAL, "B"), (None, "U")],
)
@pytest.mark.parametrize("site", [BRAIN, None], ids=["brain", "unknown"])
def test_the_frames_have_the_site_and_side_of_the_finding(side, letter, site):
    volume = make_volume()
    assessment = probable(volume)
    (finding,), (segment,) = assessment.record.findings, assessment.record.segments
    update = {
        "findings": (finding.model_copy(update={"laterality": side, "site": site}),),
        "segments": (segment.model_copy(update={"site": site}),),
    }
    record = assessment.record.model_copy(update=update)
    (made,) = write_parametric_maps(replace(assessment, record=record), volume, PROVENANCE)
    (anatomy,) = made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence
    assert anatomy.FrameLaterality == letter
    expected = "Brain" if site else "Entire body"
    assert anatomy.AnatomicRegionSequence[0].CodeMeaning == expected


def test_a_retry_makes_the_same_map():
    first, second = (bytes_of(written(make_volume())[0]) for _ in range(2))
    assert first == second


@pytest.mark.peers
def test_dciodvfy_finds_no_fault(tmp_path):
    if missing := DCIODVFY.missing():
        pytest.skip(missing)
    made, _ = written(make_volume(OBLIQUE))
    made.save_as(tmp_path / "map.dcm", enforce_file_format=True)
    assert DCIODVFY.opinion([tmp_path / "map.dcm"]).problems == ()


def mapping(made):
    return made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]


def quantity(made):
    return mapping(made).QuantityDefinitionSequence


def values(made):
    return np.frombuffer(made.FloatPixelData, "<f4").reshape(-1, made.Rows, made.Columns).copy()


def put(made, pixels):
    made.FloatPixelData = pixels.tobytes()


def drop(made, code):
    mapping(made).QuantityDefinitionSequence = [
        item for item in quantity(made) if not is_named(item, code)
    ]


def exceed(made):
    pixels = values(made)
    pixels[1, 3, 3] = 1.5
    put(made, pixels)


def blank(made):
    pixels = values(made)
    pixels[0] = 0
    put(made, pixels)


def no_number(made):
    pixels = values(made)
    pixels[2, 0, 0] = np.nan
    put(made, pixels)


def track(made, uid):
    for item in quantity(made):
        if is_named(item, codes.DCM.TrackingUniqueIdentifier):
            item.UID = uid


def swap_frames(made):
    groups = made.PerFrameFunctionalGroupsSequence
    first, second = (groups[index].PlanePositionSequence for index in (0, 1))
    groups[0].PlanePositionSequence, groups[1].PlanePositionSequence = second, first


FAULTS = {
    "flipped left to right": lambda made: put(made, values(made)[:, :, ::-1]),
    "flipped front to back": lambda made: put(made, values(made)[:, ::-1]),
    "planes in another order": lambda made: put(made, values(made)[::-1]),
    "positions swapped": swap_frames,
    "a value over 1": exceed,
    "a value that is no number": no_number,
    "an empty frame": blank,
    "a frame too few": lambda made: put(made, values(made)[1:]),
    "a unit of length": lambda made: setattr(
        mapping(made).MeasurementUnitsCodeSequence[0], "CodeValue", "mm"
    ),
    "a slope of 100": lambda made: setattr(mapping(made), "RealWorldValueSlope", 100.0),
    "no mapping": lambda made: setattr(
        made.SharedFunctionalGroupsSequence[0], "RealWorldValueMappingSequence", []
    ),
    "no quantity": lambda made: delattr(mapping(made), "QuantityDefinitionSequence"),
    "no finding": lambda made: drop(made, codes.DCM.Finding),
    "no tracking": lambda made: drop(made, codes.DCM.TrackingUniqueIdentifier),
    "tracking of no segment": lambda made: track(made, "2.25.7"),
    "another frame of reference": lambda made: setattr(made, "FrameOfReferenceUID", "2.25.8"),
    "another patient": lambda made: setattr(made, "PatientID", "P-0043"),
    "another label": lambda made: setattr(made, "ContentLabel", "MAP"),
    "another modality": lambda made: setattr(made, "Modality", "CT"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_gate_stops_a_map_with_a_fault(fault):
    volume = make_volume()
    made, segmentation = written(volume)
    FAULTS[fault](made)
    problems = check_objects([made, segmentation], instances_of(volume), volume, model=MODEL)
    assert problems, fault
    assert all(problem.startswith("OT: ") for problem in problems)


ALONE = {
    **{name: FAULTS[name] for name in ("flipped left to right", "flipped front to back")},
    **{name: FAULTS[name] for name in ("planes in another order", "positions swapped")},
    "the other side": lambda made: setattr(
        made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0], "FrameLaterality", "R"
    ),
    "another finding": lambda made: setattr(
        quantity(made)[1].ConceptCodeSequence[0], "CodeValue", "55641003"
    ),
    "of no segment": lambda made: setattr(made, "InstanceNumber", 2),
}


@pytest.mark.parametrize("fault", ALONE)
def test_the_gate_stops_a_map_that_is_not_what_the_model_said(fault):
    volume = make_volume()
    assessment = probable(volume)
    (made,) = write_parametric_maps(assessment, volume, PROVENANCE)
    arguments = (instances_of(volume), volume)
    assert not check_objects([made], *arguments, model=MODEL, assessment=assessment)
    ALONE[fault](made)
    assert check_objects([made], *arguments, model=MODEL, assessment=assessment)


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_a_map_of_what_the_model_said_is_let_pass(name):
    volume = acquired(name)
    assessment = probable(volume)
    made = write_parametric_maps(assessment, volume, PROVENANCE)
    arguments = (instances_of(volume), volume)
    assert not check_objects(made, *arguments, model=MODEL, assessment=assessment)


def test_a_map_that_a_file_holds_is_let_pass(tmp_path):
    volume = make_volume(OBLIQUE)
    for number, made in enumerate(written(volume)):
        made.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    objects = [dcmread(tmp_path / f"{number}.dcm") for number in (0, 1)]
    assert not check_objects(objects, instances_of(volume), volume, model=MODEL)
