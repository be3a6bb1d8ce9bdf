"""A SEG lies exactly where the masks are, in patient coordinates, read by another reader."""

import highdicom as hd
import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from inference.assessment import Assessment
from sr_writer.conformance import check_objects
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.series import (
    AXIAL,
    OBLIQUE,
    PROVENANCE,
    SAGITTAL,
    absent,
    as_received,
    bytes_of,
    make_volume,
    patient_points,
    present,
    two_segments,
)


def points_by_segment(segmentation):
    """Patient coordinates of every voxel of each segment, by raw attributes, without highdicom."""
    rows, columns = segmentation.Rows, segmentation.Columns
    frames = segmentation.PerFrameFunctionalGroupsSequence
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    pixels = bits[: rows * columns * len(frames)].reshape(len(frames), rows, columns)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    row_spacing, column_spacing = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = {}
    for frame, plane in zip(frames, pixels, strict=True):
        identification = (
            frame if "SegmentIdentificationSequence" in frame else shared
        ).SegmentIdentificationSequence[0]
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        row, column = np.nonzero(plane)
        points = (
            origin
            + column[:, None] * column_spacing * cosines[:3]
            + row[:, None] * row_spacing * cosines[3:]
        )
        found.setdefault(identification.ReferencedSegmentNumber, []).append(points)
    return {number: np.concatenate(points) for number, points in found.items()}


def same_points(found, expected):
    def sort(points):
        return points[np.lexsort(np.round(points, 2).T)]

    return found.shape == expected.shape and np.allclose(sort(found), sort(expected), atol=0.01)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE], ids=["ax", "sag", "oblique"])
@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("kind", ["one", "two", "overlapping"])
def test_it_lies_where_the_mask_is(orientation, descending, kind):
    volume = make_volume(orientation, descending=descending)
    assessment = (
        present(volume) if kind == "one" else two_segments(volume, overlap=kind == "overlapping")
    )
    segmentation = as_received(write_segmentation(assessment, volume, PROVENANCE))
    found = points_by_segment(segmentation)
    everywhere = patient_points(volume.grid.affine, volume.grid.spatial_shape)
    assert set(found) == set(assessment.masks)
    for number, mask in assessment.masks.items():
        assert same_points(found[number], everywhere[mask])


def test_its_frames_name_the_slices_they_were_drawn_on():
    volume = make_volume(descending=True)
    assessment = present(volume)
    segmentation = write_segmentation(assessment, volume, PROVENANCE)
    named = {
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for frame in segmentation.PerFrameFunctionalGroupsSequence
    }
    shown = np.flatnonzero(assessment.masks[1].any(axis=(1, 2)))
    assert named == {volume.sources[index].SOPInstanceUID for index in shown}
    assert segmentation.NumberOfFrames == len(shown) < len(volume.sources)


def test_it_is_written_twice_with_the_same_bytes():
    volume = make_volume()
    first, second = (
        write_segmentation(two_segments(volume, overlap=False), volume, PROVENANCE)
        for _ in range(2)
    )
    assert bytes_of(first) == bytes_of(second)


def test_it_says_who_drew_it_and_that_nobody_verified_it():
    volume = make_volume()
    segmentation = as_received(write_segmentation(present(volume), volume, PROVENANCE))
    assert segmentation.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert segmentation.SegmentationType == "BINARY"
    assert segmentation.SeriesDescription == "Overread AI segmentation (unverified)"
    segment = segmentation.SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.TrackingID == "Hemorrhage 1"
    assert segment.TrackingUID.startswith("2.25.")
    assert len(segmentation.ContributingEquipmentSequence) == 1


def test_thickness_is_the_distance_of_slices_where_the_source_does_not_say():
    volume = make_volume()
    for source in volume.sources:
        del source.SliceThickness
    segmentation = write_segmentation(present(volume), volume, PROVENANCE)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].SliceThickness == pytest.approx(8.0)


def test_directions_and_spacings_may_differ_in_their_last_digits():
    volume = make_volume(OBLIQUE)
    for index, source in enumerate(volume.sources):
        noise = 4e-4 * (-1) ** index
        source.ImageOrientationPatient = [each + noise for each in source.ImageOrientationPatient]
        source.PixelSpacing = [each * (1 + noise) for each in source.PixelSpacing]
    made = as_received(write_segmentation(present(volume), volume, PROVENANCE))
    shared = made.SharedFunctionalGroupsSequence[0]
    first = volume.sources[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    for found, expected in (
        (orientation, first.ImageOrientationPatient),
        (spacing, first.PixelSpacing),
    ):
        assert list(map(float, found)) == pytest.approx(list(map(float, expected)), abs=1e-9)
    assert check_objects([made], volume.sources, volume) == []


def test_it_says_that_its_source_was_compressed_with_loss():
    volume = make_volume()
    for source in volume.sources:
        source.LossyImageCompression, source.LossyImageCompressionRatio = "01", 9.5
        source.LossyImageCompressionMethod = "ISO_15444_1"
    made = write_segmentation(present(volume), volume, PROVENANCE)
    assert made.LossyImageCompression == "01"
    assert made.LossyImageCompressionRatio == 9.5


def test_no_segment_is_refused():
    volume = make_volume()
    with pytest.raises(ValueError, match="no segment"):
        write_segmentation(absent(volume), volume, PROVENANCE)


def test_an_empty_mask_is_refused():
    volume = make_volume()
    assessment = present(volume)
    nothing = Assessment(assessment.record, {1: np.zeros_like(assessment.masks[1])})
    with pytest.raises(ValueError, match="mask 1 is empty"):
        write_segmentation(nothing, volume, PROVENANCE)


def test_a_mask_off_the_grid_is_refused():
    volume = make_volume()
    assessment = present(volume)
    cropped = Assessment(assessment.record, {1: assessment.masks[1][1:]})
    with pytest.raises(ValueError, match="shape"):
        write_segmentation(cropped, volume, PROVENANCE)


def test_sources_that_do_not_lie_where_the_volume_says_are_refused():
    volume = make_volume()
    volume.sources[5].ImagePositionPatient = [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="not in slice order"):
        write_segmentation(present(volume), volume, PROVENANCE)


def test_segment_numbers_count_from_one():
    volume = make_volume()
    assessment = present(volume)
    second = assessment.record.segments[0].model_copy(update={"number": 2})
    finding = assessment.record.findings[0]
    evidence = finding.evidence.model_copy(update={"segment": 2})
    record = assessment.record.model_copy(
        update={
            "segments": (second,),
            "findings": (finding.model_copy(update={"evidence": evidence}),),
        }
    )
    with pytest.raises(ValueError, match="counts 1, 2"):
        write_segmentation(Assessment(record, {2: assessment.masks[1]}), volume, PROVENANCE)


def test_many_segments_keep_their_voxels():
    volume = make_volume()
    assessment = two_segments(volume, overlap=True)
    segmentation = as_received(write_segmentation(assessment, volume, PROVENANCE))
    read = hd.seg.Segmentation.from_dataset(segmentation)
    assert read.number_of_segments == 2
    assert segmentation.SegmentsOverlap == "YES"
