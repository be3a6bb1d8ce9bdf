"""SEGs of each form: what they say, what outside readers see in them, what the gate stops."""

from copy import deepcopy

import highdicom as hd
import numpy as np
import pytest
from pydicom.sr.codedict import codes

from inference.assessment import Assessment, LabelMap
from sr_writer.conformance import check_objects
from sr_writer.kinds import SegmentationForm
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.acquisitions import acquired
from tests.sr_writer.series import (
    PROVENANCE,
    as_received,
    instances_of,
    make_volume,
    present,
    two_segments,
)
from tests.sr_writer.test_segmentation_content import labels_of, with_probabilities
from tests.sr_writer.validators import dciodvfy, dciodvfy_missing
from tests.system.segmentation_reader import frames_by_dcmtk, pixels_by_segment

BINARY, LABELMAP, FRACTIONAL = SegmentationForm
VOLUME = make_volume(shape=(24, 45, 39), descending=True)
ASSESSMENT = with_probabilities(two_segments(VOLUME, overlap=False))


def written(form, assessment=ASSESSMENT, volume=VOLUME):
    return as_received(write_segmentation(assessment, volume, PROVENANCE, form=form))


MADE = {form: written(form) for form in SegmentationForm}
FORMS = pytest.mark.parametrize("form", SegmentationForm)


def expected_pixels(form):
    """Masks, or probabilities in 255ths, of each segment in the order of the slices."""
    return ASSESSMENT.probabilities if form is FRACTIONAL else ASSESSMENT.masks


@FORMS
def test_a_reader_of_the_standard_sees_the_pixels(form, tmp_path):
    MADE[form].save_as(tmp_path / "seg.dcm")
    found = pixels_by_segment(tmp_path / "seg.dcm", [s.SOPInstanceUID for s in VOLUME.sources])
    assert found.keys() == ASSESSMENT.masks.keys()
    for number, pixels in expected_pixels(form).items():
        assert np.array_equal(found[number], pixels)


@FORMS
def test_highdicom_reads_the_pixels(form, tmp_path):
    MADE[form].save_as(tmp_path / "seg.dcm")
    read = hd.seg.segread(tmp_path / "seg.dcm")
    uids = [source.SOPInstanceUID for source in VOLUME.sources]
    pixels = read.get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True, rescale_fractional=False
    )
    numbers = [number for number in read.segment_numbers if number]
    for number, expected in expected_pixels(form).items():
        assert np.array_equal(pixels[..., numbers.index(number)], expected)


@FORMS
def test_dcmtk_decodes_the_frames_that_pydicom_does(form, tmp_path):
    MADE[form].save_as(tmp_path / "seg.dcm")
    frames = frames_by_dcmtk(tmp_path / "seg.dcm")
    if frames is None:
        pytest.skip("dcm2pnm is missing: install dcmtk")
    assert np.array_equal(frames, MADE[form].pixel_array)


@pytest.mark.skipif(dciodvfy_missing() is not None, reason=str(dciodvfy_missing()))
@FORMS
@pytest.mark.parametrize("name", ["even", "uneven", "enhanced", "mosaic"])
def test_dciodvfy_finds_no_error(form, name, tmp_path):
    volume = VOLUME if name == "even" else acquired(name)
    assessment = with_probabilities(two_segments(volume, overlap=False))
    written(form, assessment, volume).save_as(tmp_path / "seg.dcm")
    assert [line for line in dciodvfy(tmp_path / "seg.dcm") if line.startswith("Error")] == []


def test_the_background_of_a_label_map_is_described():
    made = MADE[LABELMAP]
    background, *others = made.SegmentSequence
    assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert background.SegmentNumber == made.PixelPaddingValue == 0
    assert background.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.DCM.Background.value
    assert "TrackingUID" not in background
    assert [each.SegmentNumber for each in others] == [1, 2]


def test_a_fractional_one_is_of_probabilities_in_255ths():
    made = MADE[FRACTIONAL]
    assert (made.SegmentationFractionalType, made.MaximumFractionalValue) == ("PROBABILITY", 255)


def test_segments_that_overlap_are_no_label_map():
    made = written(LABELMAP, two_segments(VOLUME, overlap=True))
    assert (made.SegmentationType, made.SegmentsOverlap) == ("BINARY", "YES")


def test_masks_are_no_probabilities():
    made = written(FRACTIONAL, Assessment(ASSESSMENT.record, ASSESSMENT.masks))
    assert made.SegmentationType == "BINARY"


def test_a_mask_outside_its_probabilities_is_refused():
    maps = {number: np.zeros_like(each) for number, each in ASSESSMENT.probabilities.items()}
    contradictory = Assessment(ASSESSMENT.record, ASSESSMENT.masks, maps)
    with pytest.raises(ValueError, match="certainly no part"):
        written(FRACTIONAL, contradictory)


@FORMS
@pytest.mark.parametrize("name", ["even", "uneven", "enhanced", "mosaic", "tilted, gapped"])
def test_the_gate_lets_it_pass_with_its_report(form, name):
    volume = VOLUME if name == "even" else acquired(name)
    assessment = with_probabilities(present(volume))
    made = written(form, assessment, volume)
    instances = instances_of(volume)
    report = as_received(write_report(assessment, instances, volume, made, PROVENANCE))
    assert check_objects([report, made], instances, volume, assessment=assessment) == []
    assert made.SegmentationType == form.upper()


@FORMS
def test_one_pixel_that_the_model_did_not_say_is_found(form):
    made = deepcopy(MADE[form])
    assert check_objects([made], VOLUME.sources, VOLUME, assessment=ASSESSMENT) == []
    pixels = bytearray(made.PixelData)
    pixels[len(pixels) // 2] ^= 1
    made.PixelData = bytes(pixels)
    problems = check_objects([made], VOLUME.sources, VOLUME, assessment=ASSESSMENT)
    assert any("is not the mask of its segment" in problem for problem in problems)


def test_probabilities_that_the_model_did_not_give_are_found():
    plain = Assessment(ASSESSMENT.record, ASSESSMENT.masks)
    problems = check_objects([MADE[FRACTIONAL]], VOLUME.sources, VOLUME, assessment=plain)
    assert any("is not the mask of its segment" in problem for problem in problems)


def test_many_segments_pass_the_gate_as_a_label_map():
    labels = labels_of(ASSESSMENT)
    made = written(BINARY, Assessment(ASSESSMENT.record, LabelMap(labels, 2)))
    assert made == MADE[BINARY]


def set_pixels(value):
    def spoil(made):
        pixels = bytearray(made.PixelData)
        pixels[0] = value
        made.PixelData = bytes(pixels)

    return spoil


def attribute(keyword, value):
    return lambda made: setattr(made, keyword, value)


def without_background(made):
    del made.SegmentSequence[0]


def swapped_images(made):
    first, second = made.PerFrameFunctionalGroupsSequence[:2]
    first.DerivationImageSequence, second.DerivationImageSequence = (
        second.DerivationImageSequence,
        first.DerivationImageSequence,
    )


def blank_frame(made):
    size = made.Rows * made.Columns * made.BitsAllocated // 8
    made.PixelData = b"\0" * size + made.PixelData[size:]


def same_index(made):
    first, second = made.PerFrameFunctionalGroupsSequence[:2]
    second.FrameContentSequence = deepcopy(first.FrameContentSequence)


FAULTS = {
    "a label of no segment": (LABELMAP, set_pixels(7), "described are"),
    "background not described": (LABELMAP, without_background, "the background, number 0"),
    "a segment of the background": (
        LABELMAP,
        lambda made: setattr(
            made.SegmentSequence[1],
            "SegmentedPropertyTypeCodeSequence",
            made.SegmentSequence[0].SegmentedPropertyTypeCodeSequence,
        ),
        "described as background",
    ),
    "another padding": (LABELMAP, attribute("PixelPaddingValue", 1), "PixelPaddingValue"),
    "a label map as Segmentation": (
        LABELMAP,
        attribute("SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.4"),
        "not of the SOP class",
    ),
    "occupancy": (FRACTIONAL, attribute("SegmentationFractionalType", "OCCUPANCY"), "PROBABILITY"),
    "percent": (FRACTIONAL, attribute("MaximumFractionalValue", 100), "255"),
    "fractions said not to overlap": (FRACTIONAL, attribute("SegmentsOverlap", "NO"), "Overlap"),
    "bits said to be bytes": (BINARY, attribute("BitsAllocated", 8), "BitsAllocated"),
    "bits said to overlap": (BINARY, attribute("SegmentsOverlap", "YES"), "Overlap"),
    **{
        f"{name}, {form}": (form, spoil, problem)
        for form in SegmentationForm
        for name, spoil, problem in (
            ("an image of another slice", swapped_images, "does not lie on its source image"),
            ("an empty frame", blank_frame, "shows no segment"),
            ("an index twice", same_index, "DimensionIndexValues"),
            ("too few pixels", lambda m: setattr(m, "PixelData", m.PixelData[:-2]), "PixelData"),
            ("no tracking", lambda m: delattr(m.SegmentSequence[-1], "TrackingUID"), "TrackingUID"),
            (
                "a segment too many",
                lambda m: m.SegmentSequence.append(deepcopy(m.SegmentSequence[-1])),
                "count 1, 2",
            ),
        )
    },
}


@pytest.mark.parametrize(("form", "spoil", "problem"), FAULTS.values(), ids=FAULTS)
def test_the_gate_stops_a_fault(form, spoil, problem):
    made = deepcopy(MADE[form])
    assert check_objects([made], VOLUME.sources, VOLUME) == []
    spoil(made)
    assert any(problem in each for each in check_objects([made], VOLUME.sources, VOLUME))
