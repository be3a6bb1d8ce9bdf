"""A capture is the key picture of a finding, names its source image and claims no place of its own.

The gate stops one that hides what it is, or whose sides are not those of its image.
"""

from copy import deepcopy

import numpy as np
import pytest

from sr_writer.conformance import check_objects
from sr_writer.key_images import draw_key_images
from sr_writer.secondary_capture import write_secondary_captures
from sr_writer.source_images import source_images
from tests.sr_writer.acquisitions import ACQUISITIONS, acquired
from tests.sr_writer.series import (
    MODEL,
    OBLIQUE,
    PROVENANCE,
    SAGITTAL,
    absent,
    as_received,
    bytes_of,
    instances_of,
    make_volume,
    mixed,
    present,
    spooled,
)
from tests.sr_writer.validators import dciodvfy, dciodvfy_missing

VOLUME = spooled(make_volume(OBLIQUE))


def captures(assess, volume):
    pictures = draw_key_images(assess(volume), volume)
    return write_secondary_captures(pictures, source_images(volume), volume, MODEL, PROVENANCE)


GOOD = [as_received(each) for each in captures(mixed, VOLUME)]


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_a_capture_of_every_acquisition_passes_the_gate_and_names_its_image(name):
    volume = spooled(acquired(name))
    pictures = draw_key_images(present(volume), volume)
    made = [as_received(each) for each in captures(present, volume)]
    assert check_objects(made, instances_of(volume), volume, model=MODEL) == []
    (item,) = made[0].SourceImageSequence
    assert item.ReferencedSOPInstanceUID == volume.sources[pictures[0].index].SOPInstanceUID
    if volume.frame_numbers:
        assert item.ReferencedFrameNumber == volume.frame_numbers[pictures[0].index]
    assert (made[0].pixel_array == pictures[0].pixels).all()


def test_nothing_is_captured_where_nothing_was_found():
    assert draw_key_images(absent(VOLUME), VOLUME)
    assert captures(absent, VOLUME) == []


def test_captures_are_one_series_of_one_study_and_the_same_bytes_again():
    assert len(GOOD) == 2
    assert [made.InstanceNumber for made in GOOD] == [1, 2]
    assert len({made.SeriesInstanceUID for made in GOOD}) == 1
    assert {made.StudyInstanceUID for made in GOOD} == {VOLUME.sources[0].StudyInstanceUID}
    again = captures(mixed, VOLUME)
    assert [bytes_of(each) for each in again] == [
        bytes_of(each) for each in captures(mixed, VOLUME)
    ]


@pytest.mark.parametrize(
    ("orientation", "expected"), [(SAGITTAL, ["P", "F"]), (OBLIQUE, ["LH", "P"])]
)
def test_patient_orientation_names_the_sides_that_are_drawn(orientation, expected):
    (made,) = captures(present, make_volume(orientation))
    assert list(made.PatientOrientation) == expected


def test_a_source_that_lost_something_in_compression_makes_a_capture_that_says_so():
    volume = make_volume()
    for source in volume.sources:
        source.LossyImageCompression, source.LossyImageCompressionRatio = "01", 9.5
        source.LossyImageCompressionMethod = "ISO_10918_1"
        source.BodyPartExamined = "HEAD"
    (made,) = captures(present, volume)
    assert (made.LossyImageCompression, made.LossyImageCompressionRatio) == ("01", 9.5)
    assert made.LossyImageCompressionMethod == "ISO_10918_1"
    assert made.BodyPartExamined == "HEAD"
    assert "Laterality" not in made


def set_to(keyword, value):
    return lambda made: setattr(made, keyword, value)


def without_warning(made):
    pixels = made.pixel_array.copy()
    pixels[-36:] = 0
    made.PixelData = pixels.tobytes()


def of_another_image(made):
    made.SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.7"


def of_an_image_of_another_class(made):
    made.SourceImageSequence[0].ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"


FAULTS = {
    "annotation denied": (set_to("BurnedInAnnotation", "NO"), "BurnedInAnnotation"),
    "original": (set_to("ImageType", ["ORIGINAL", "PRIMARY"]), "ImageType"),
    "mirrored": (set_to("PatientOrientation", ["RH", "P"]), "PatientOrientation"),
    "loss hidden": (set_to("LossyImageCompression", "01"), "LossyImageCompression"),
    "spacing claimed": (set_to("PixelSpacing", [0.5, 0.5]), "PixelSpacing"),
    "place claimed": (set_to("FrameOfReferenceUID", "2.25.9"), "FrameOfReferenceUID"),
    "notice gone": (set_to("ImageComments", "AI"), "ImageComments"),
    "called final": (set_to("SeriesDescription", "Key images"), "SeriesDescription"),
    "pixels cut": (set_to("PixelData", bytes(1000)), "PixelData"),
    "rows wrong": (set_to("Rows", 768), "PixelData"),
    "warning erased": (without_warning, "PixelData"),
    "no source": (set_to("SourceImageSequence", []), "SourceImageSequence"),
    "another source": (of_another_image, "SourceImageSequence"),
    "another class": (of_an_image_of_another_class, "SourceImageSequence"),
    "another patient": (set_to("PatientID", "P-1"), "PatientID"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_gate_stops_a_capture_with(name):
    break_it, attribute = FAULTS[name]
    made = deepcopy(GOOD)
    break_it(made[0])
    problems = check_objects(made, VOLUME.sources, VOLUME, model=MODEL)
    assert problems
    assert all(attribute in problem for problem in problems)


def test_whatever_the_window_the_picture_is_no_blank():
    for made in GOOD:
        assert np.ptp(made.pixel_array[100:-100]) > 200


@pytest.mark.peers
@pytest.mark.skipif(dciodvfy_missing() is not None, reason=dciodvfy_missing() or "")
@pytest.mark.parametrize("part", ["HEAD", "PARTIALBODY", None])
def test_dciodvfy_finds_nothing_but_what_the_source_leaves_open(part, tmp_path):
    volume = make_volume()
    for source in volume.sources:
        if part:
            source.BodyPartExamined = part
    (made,) = captures(present, volume)
    path = tmp_path / "capture.dcm"
    path.write_bytes(bytes_of(made))
    left_to_the_source = ("DeviceUID", "BodyPartExamined")
    said = [line for line in dciodvfy(path) if not any(map(line.__contains__, left_to_the_source))]
    assert not any(line.startswith("Error") for line in said)
    assert all("Laterality" in line for line in said)
    assert part != "HEAD" or not said
