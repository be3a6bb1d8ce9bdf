"""Tilted, uneven, multi-frame and mosaic series: results lie on the images that are looked at."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import dcmread
from pydicom.sr.codedict import codes

from inference.assessment import Assessment, Evidence, Text, not_assessed
from sr_writer.conformance import check_objects
from sr_writer.content_items import is_named, number_of, walk
from sr_writer.key_images import FOOTER_HEIGHT, _is_interpolated, _position, draw_key_slices
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation
from sr_writer.source_images import on_images
from tests.sr_writer.acquisitions import ACQUISITIONS, acquired, in_lesion, pixel_points
from tests.sr_writer.series import (
    MODEL,
    PROVENANCE,
    as_received,
    bytes_of,
    instances_of,
    make_volume,
    mixed,
    on_slices,
    present,
    two_segments,
)
from tests.sr_writer.test_key_images import red
from tests.sr_writer.test_report import texts

FRAMES = ["enhanced", "enhanced MR, tilted, gapped"]
GAPPED = [name for name in ACQUISITIONS if "gapped" in name]

every_acquisition = pytest.mark.parametrize("name", ACQUISITIONS)


def written(assessment, volume):
    """The SR, then the SEG if there is one, as the receiver reads them."""
    segmentation = write_segmentation(assessment, volume, PROVENANCE) if assessment.masks else None
    report = write_report(assessment, instances_of(volume), volume, segmentation, PROVENANCE)
    return [as_received(each) for each in (report, segmentation) if each is not None]


@cache
def _files(assess, name):
    volume = acquired(name)
    return tuple(map(bytes_of, written(assess(volume), volume)))


def results(assess, name):
    """What is written of an assessment of an acquisition; each caller has its own."""
    return [dcmread(BytesIO(file)) for file in _files(assess, name)]


def drawn_on(frame):
    """The reference of the one source image of a SEG frame."""
    (item,) = frame.DerivationImageSequence[0].SourceImageSequence
    return item


def named(item):
    """What an item of a sequence of references names, by raw attributes."""
    return str(item.ReferencedSOPInstanceUID), item.get("ReferencedFrameNumber")


def stored_positions(instances):
    """Positions by SOP instance and frame number, read from the instances themselves."""
    found = {}
    for instance in instances:
        if "PerFrameFunctionalGroupsSequence" not in instance:
            found[instance.SOPInstanceUID, None] = instance.get("ImagePositionPatient")
            continue
        for number, group in enumerate(instance.PerFrameFunctionalGroupsSequence, 1):
            position = group.PlanePositionSequence[0].ImagePositionPatient
            found[instance.SOPInstanceUID, number] = position
    return found


def source_at(volume, position):
    """The source that lies at a position."""
    (found,) = [
        source for source in volume.sources if list(source.ImagePositionPatient) == list(position)
    ]
    return found


@every_acquisition
def test_each_frame_shows_the_lesion_where_its_source_image_does(name):
    volume = acquired(name)
    _, segmentation = results(present, name)
    planes = segmentation.pixel_array.astype(bool)
    truth = {
        str(source.ImagePositionPatient): in_lesion(pixel_points(source))
        for source in volume.sources
    }
    expected = {place for place, plane in truth.items() if plane.any()}
    assert planes[0].shape == (volume.sources[0].Rows, volume.sources[0].Columns)
    seen = set()
    for frame, plane in zip(segmentation.PerFrameFunctionalGroupsSequence, planes, strict=True):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        points = pixel_points(source_at(volume, position))
        expects = truth[str(position)]
        seen.add(str(position))
        if expects.sum() < 9:
            continue
        assert 2 * (plane & expects).sum() / (plane.sum() + expects.sum()) > 0.9
        apart = points[plane].mean(axis=0) - points[expects].mean(axis=0)
        assert np.linalg.norm(apart) < 0.7 * min(map(float, volume.sources[0].PixelSpacing))
    assert seen == expected
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == list(
        volume.sources[0].ImageOrientationPatient
    )


@every_acquisition
def test_each_frame_names_the_image_that_it_lies_on(name):
    volume = acquired(name)
    instances = instances_of(volume)
    positions = stored_positions(instances)
    _, segmentation = results(present, name)
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        reference = drawn_on(frame)
        position = list(frame.PlanePositionSequence[0].ImagePositionPatient)
        if name == "mosaic":
            assert named(reference) == (instances[0].SOPInstanceUID, None)
            assert reference.SpatialLocationsPreserved == "NO"
        else:
            assert list(positions[named(reference)]) == position
            assert reference.SpatialLocationsPreserved == "YES"
    (series,) = segmentation.ReferencedSeriesSequence
    for sequence in (series.ReferencedInstanceSequence, segmentation.SourceImageSequence):
        assert [item.ReferencedSOPInstanceUID for item in sequence] == [
            instance.SOPInstanceUID for instance in instances
        ]
        assert {item.ReferencedSOPClassUID for item in sequence} == {instances[0].SOPClassUID}


@pytest.mark.parametrize("name", FRAMES)
def test_the_frames_that_a_segmentation_was_made_of_are_all_named(name):
    volume = acquired(name)
    _, segmentation = results(present, name)
    listed = {
        (item.ReferencedSOPInstanceUID, number)
        for item in segmentation.SourceImageSequence
        for number in item.ReferencedFrameNumber
    }
    uids = (source.SOPInstanceUID for source in volume.sources)
    assert listed == set(zip(uids, volume.frame_numbers, strict=True))


@every_acquisition
def test_the_distance_of_images_is_stated_where_it_is_one(name):
    _, segmentation = results(present, name)
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    uneven = name == "uneven" or name in GAPPED
    assert ("SpacingBetweenSlices" in measures) != uneven
    assert uneven or float(measures.SpacingBetweenSlices) == pytest.approx(6.0, abs=1e-3)
    assert not (uneven and "DimensionOrganizationType" in segmentation)


@every_acquisition
def test_simpleitk_decodes_the_same_frames(name, tmp_path):
    volume = acquired(name)
    _, segmentation = results(present, name)
    path = tmp_path / "SEG.dcm"
    segmentation.save_as(path)
    read = sitk.GetArrayFromImage(sitk.ReadImage(path)) > 0
    positions = [list(map(float, source.ImagePositionPatient)) for source in volume.sources]
    expected = on_images(present(volume), volume).masks[1]
    frames = segmentation.PerFrameFunctionalGroupsSequence
    assert len(read) == len(frames)
    for frame, plane in zip(frames, read, strict=True):
        position = list(map(float, frame.PlanePositionSequence[0].ImagePositionPatient))
        assert np.array_equal(plane, expected[positions.index(position)])


@pytest.mark.parametrize("name", ["tilted", "uneven", "gapped"])
def test_highdicom_finds_the_mask_of_each_source_instance(name):
    volume = acquired(name)
    _, made = results(present, name)
    segmentation = hd.seg.Segmentation.from_dataset(made)
    uids = [source.SOPInstanceUID for source in volume.sources]
    read = segmentation.get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True, segment_numbers=[1]
    )
    expected = on_images(present(volume), volume).masks[1]
    assert np.array_equal(read[..., 0].astype(bool), expected)


@pytest.mark.parametrize("name", FRAMES)
def test_highdicom_finds_the_mask_of_each_source_frame(name):
    volume = acquired(name)
    _, made = results(present, name)
    segmentation = hd.seg.Segmentation.from_dataset(made)
    expected = on_images(present(volume), volume).masks[1]
    for index, (source, number) in enumerate(
        zip(volume.sources, volume.frame_numbers, strict=True)
    ):
        if expected[index].any():
            read = segmentation.get_pixels_by_source_frame(source.SOPInstanceUID, [number])
            assert np.array_equal(read[0, ..., 0].astype(bool), expected[index])


@every_acquisition
@pytest.mark.parametrize("assess", [present, on_slices, mixed], ids=lambda each: each.__name__)
def test_references_of_the_report_resolve_to_images_with_true_positions(name, assess):
    volume = acquired(name)
    instances = instances_of(volume)
    positions = stored_positions(instances)
    report = results(assess, name)[0]
    library = next(item for item in walk(report) if is_named(item, codes.DCM.ImageLibraryGroup))
    entries = [item for item in library.ContentSequence if item.ValueType == "IMAGE"]
    for entry in entries:
        there = [number_of(item) for item in entry.get("ContentSequence", [])]
        expected = positions[named(entry.ReferencedSOPSequence[0])] or []
        assert there == pytest.approx(list(map(float, expected)), abs=1e-3)
    listed = [named(entry.ReferencedSOPSequence[0]) for entry in entries]
    assert len(set(listed)) == len(listed)
    for item in walk(report):
        for reference in item.get("ReferencedSOPSequence", []):
            if "ReferencedSegmentNumber" not in reference:
                assert named(reference) in listed
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    evidence = [named(item) for item in study.ReferencedSeriesSequence[0].ReferencedSOPSequence]
    assert sorted(evidence) == sorted((each.SOPInstanceUID, None) for each in instances)


@pytest.mark.parametrize("name", ["gapped", "enhanced MR, tilted, gapped"])
def test_slices_of_the_grid_are_reported_as_the_images_nearest_to_them(name):
    volume = acquired(name)
    assessment = on_slices(volume)
    (finding,) = assessment.record.findings
    evidence = Evidence(segment=None, slices=(14, 16, 17, 20), best_slice=17)
    findings = (finding.model_copy(update={"evidence": evidence}),)
    record = assessment.record.model_copy(update={"findings": findings, "key_slices": ()})
    report = written(Assessment(record), volume)[0]
    shown = [
        named(item.ReferencedSOPSequence[0])
        for item in walk(report)
        if is_named(item, codes.DCM.SourceOfMeasurement)
    ]
    numbers = volume.frame_numbers or [None] * len(volume.sources)
    images = (16, 14, 15, 18)  # at slices 18, 14, 15 and 20
    assert shown == [(volume.sources[index].SOPInstanceUID, numbers[index]) for index in images]


@every_acquisition
@pytest.mark.parametrize("assess", [present, on_slices, mixed], ids=lambda each: each.__name__)
def test_the_gate_lets_them_pass(name, assess):
    volume = acquired(name)
    made = results(assess, name)
    assert check_objects(made, instances_of(volume), volume, model=MODEL) == []


@pytest.mark.parametrize("name", ["enhanced", "mosaic", "tilted"])
def test_a_report_of_no_assessment_of_them_passes(name):
    volume = acquired(name)
    instances = instances_of(volume)
    reason = Text(en="It is no head.", zh="不是头部。")
    assessment = not_assessed(MODEL, (reason,), PROVENANCE.written_at)
    report = as_received(write_report(assessment, instances, None, None, PROVENANCE))
    assert check_objects([report], instances, volume, model=MODEL) == []
    assert check_objects([report], instances, model=MODEL) == []
    assert report.CompletionFlagDescription == "No assessment was made"


def test_overlapping_segments_name_their_frames():
    volume = acquired("enhanced MR, tilted, gapped")
    made = written(two_segments(volume, overlap=True), volume)
    assert check_objects(made, instances_of(volume), volume, model=MODEL) == []


@every_acquisition
def test_a_retry_makes_the_same_objects(name):
    volume = acquired(name)
    assert tuple(map(bytes_of, written(mixed(volume), volume))) == _files(mixed, name)


@every_acquisition
def test_measurements_stay_those_of_the_grid(name):
    report = results(present, name)[0]
    assert [number_of(item) for item in walk(report) if is_named(item, codes.SCT.Volume)] == [11.49]


@pytest.mark.parametrize("name", ["tilted", "uneven", "gapped"])
def test_a_volume_in_the_wrong_unit_is_stopped(name):
    report, segmentation = results(present, name)
    measured = next(item for item in walk(report) if is_named(item, codes.SCT.Volume))
    measured.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "mm3"
    volume = acquired(name)
    problems = check_objects([report, segmentation], instances_of(volume), volume)
    assert any("Volume is far from" in problem for problem in problems)


def test_a_structure_mostly_between_two_images_is_let_pass():
    volume = acquired("gapped")
    assessment = present(volume)
    mask = np.zeros(volume.grid.spatial_shape, bool)
    mask[15, 30, 30] = True  # images lie at slices 15 and 18
    mask[16:18, 28:33, 28:33] = True
    (finding,) = assessment.record.findings
    measured = finding.measurements[0].model_copy(
        update={"value": mask.sum() * volume.voxel_volume_ml}
    )
    evidence = Evidence(segment=1, slices=(15, 16, 17), best_slice=16)
    update = {"measurements": (measured,), "evidence": evidence}
    record = assessment.record.model_copy(
        update={"findings": (finding.model_copy(update=update),), "key_slices": (16,)}
    )
    made = written(Assessment(record, {1: mask}), volume)
    assert check_objects(made, instances_of(volume), volume, model=MODEL) == []


def other_phase(item):
    """The frame beside it, at the same position, that is not of the volume."""
    item.ReferencedFrameNumber = int(item.ReferencedFrameNumber) - 1


def next_frame(item):
    """The frame of the volume at the next position."""
    item.ReferencedFrameNumber = int(item.ReferencedFrameNumber) + 2


def beyond(item):
    item.ReferencedFrameNumber = 999


def whole(item):
    del item.ReferencedFrameNumber


FRAME_FAULTS = [other_phase, next_frame, beyond, whole]


@pytest.mark.parametrize("spoil", FRAME_FAULTS)
def test_a_segmentation_on_another_frame_is_stopped(spoil):
    volume = acquired("enhanced")
    report, segmentation = results(present, "enhanced")
    spoil(drawn_on(segmentation.PerFrameFunctionalGroupsSequence[0]))
    problems = check_objects([report, segmentation], instances_of(volume), volume)
    assert any("SEG: frame 1" in problem for problem in problems), problems


@pytest.mark.parametrize("spoil", FRAME_FAULTS)
@pytest.mark.parametrize(
    "code", [codes.DCM.SourceImageForSegmentation, codes.DCM.SourceOfMeasurement]
)
def test_a_report_on_another_frame_is_stopped(spoil, code):
    volume = acquired("enhanced")
    report, segmentation = results(mixed, "enhanced")
    item = next(each for each in walk(report) if is_named(each, code))
    spoil(item.ReferencedSOPSequence[0])
    problems = check_objects([report, segmentation], instances_of(volume), volume)
    assert problems


def test_a_library_with_the_position_of_another_frame_is_stopped():
    volume = acquired("enhanced")
    report, segmentation = results(present, "enhanced")
    library = next(item for item in walk(report) if is_named(item, codes.DCM.ImageLibraryGroup))
    entry = next(item for item in library.ContentSequence if item.ValueType == "IMAGE")
    next_frame(entry.ReferencedSOPSequence[0])
    problems = check_objects([report, segmentation], instances_of(volume), volume)
    assert any("image library is not the source's" in problem for problem in problems)


def test_a_position_for_a_mosaic_is_stopped():
    volume = acquired("mosaic")
    report, segmentation = results(present, "mosaic")
    positioned = results(present, "enhanced")[0]
    entries = [
        next(
            item
            for item in walk(each)
            if item.ValueType == "IMAGE" and is_named(item, hd.sr.CodedConcept(*SOURCE))
        )
        for each in (report, positioned)
    ]
    entries[0].ContentSequence = entries[1].ContentSequence
    problems = check_objects([report, segmentation], instances_of(volume), volume)
    assert any("its tiles do, leave it out" in problem for problem in problems)


SOURCE = ("260753009", "SCT", "Source")


def test_a_spacing_of_uneven_images_is_stopped():
    volume = acquired("uneven")
    report, segmentation = results(present, "uneven")
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = 3.0
    problems = check_objects([report, segmentation], instances_of(volume), volume)
    assert any("unevenly spaced" in problem for problem in problems)


def test_frames_on_the_grid_instead_of_the_images_are_stopped():
    volume = acquired("tilted")
    untilted = replace(volume, sources=make_volume(**ACQUISITIONS["enhanced"]).sources)
    report, segmentation = results(present, "tilted")
    for frame, source in zip(
        segmentation.PerFrameFunctionalGroupsSequence, untilted.sources, strict=False
    ):
        frame.PlanePositionSequence[0].ImagePositionPatient = source.ImagePositionPatient
    problems = check_objects([report, segmentation], instances_of(volume), volume)
    assert any("does not lie on its source image" in problem for problem in problems)


def test_a_volume_that_misplaces_a_frame_is_stopped():
    volume = acquired("enhanced")
    made = results(present, "enhanced")
    instances = instances_of(volume)
    groups = instances[1].PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence, groups[3].PlanePositionSequence = (
        groups[3].PlanePositionSequence,
        groups[1].PlanePositionSequence,
    )
    problems = check_objects(made, instances, volume)
    assert any("does not lie where the volume has it" in problem for problem in problems)


def test_a_volume_with_a_frame_that_its_instance_lacks_is_stopped():
    volume = acquired("enhanced")
    made = results(present, "enhanced")
    instances = instances_of(volume)
    instances[0].NumberOfFrames = 20
    assert any("has no frame 24" in problem for problem in check_objects(made, instances, volume))


def test_an_instance_that_counts_its_frames_twice_is_stopped():
    volume = acquired("enhanced")
    instances = instances_of(volume)
    instances[0].NumberOfFrames = [24, 24]
    problems = check_objects(results(present, "enhanced"), instances, volume)
    assert any("source: cannot be checked" in problem for problem in problems)


def test_a_volume_of_another_series_is_stopped():
    volume, other = acquired("enhanced"), acquired("uneven")
    problems = check_objects(results(present, "enhanced"), instances_of(volume), other)
    assert any("an image of another series" in problem for problem in problems)


def test_images_set_aside_are_evidence_but_nothing_lies_on_them():
    volume = acquired("tilted")
    localizer = deepcopy(volume.sources[0])
    localizer.SOPInstanceUID, localizer.Rows, localizer.Columns = "2.25.77", 512, 512
    localizer.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    instances = [localizer, *instances_of(volume)]
    assessment = present(volume)
    segmentation = write_segmentation(assessment, volume, PROVENANCE)
    report = write_report(assessment, instances, volume, segmentation, PROVENANCE)
    made = [as_received(report), as_received(segmentation)]
    assert check_objects(made, instances, volume, model=MODEL) == []
    item = next(
        each for each in walk(made[0]) if is_named(each, codes.DCM.SourceImageForSegmentation)
    )
    item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.77"
    assert any("no image of the volume" in each for each in check_objects(made, instances, volume))


@pytest.mark.parametrize("name", GAPPED)
def test_missing_slices_make_the_report_partial_and_say_so(name):
    volume = acquired(name)
    missing = Text(en="2 slices are missing; they were interpolated.", zh="缺失2层，已插值补全。")
    tilted = Text(en="The gantry was tilted by 15 degrees.", zh="扫描架倾斜15度。")
    assessment = present(volume)
    record = assessment.record.model_copy(update={"limitations": (missing, tilted)})
    report = written(Assessment(record, assessment.masks), volume)[0]
    assert report.CompletionFlag == "PARTIAL"
    assert "not seen" in report.CompletionFlagDescription
    assert {missing.en, missing.zh, tilted.en, tilted.zh} <= set(texts(report))


def test_a_complete_report_on_missing_slices_is_stopped():
    volume = acquired("gapped")
    report, segmentation = results(present, "gapped")
    report.CompletionFlag = "COMPLETE"
    problems = check_objects([report, segmentation], instances_of(volume), volume)
    assert problems == ["SR: CompletionFlag is COMPLETE, but 2 slices are missing; write PARTIAL"]


def test_complete_slices_do_not():
    assert results(present, "tilted")[0].CompletionFlag == "COMPLETE"


def test_a_segment_beside_every_image_is_refused():
    volume = acquired("tilted")
    assessment = present(volume)
    mask = np.zeros_like(assessment.masks[1])
    mask[0, -1, :] = True
    nowhere = Assessment(assessment.record, {1: mask})
    with pytest.raises(ValueError, match="beside every image"):
        write_segmentation(nowhere, volume, PROVENANCE)


def test_images_out_of_order_on_a_resampled_grid_are_refused():
    volume = acquired("uneven")
    first, second, *others = volume.sources
    swapped = replace(volume, sources=(second, first, *others))
    with pytest.raises(ValueError, match="not in slice order"):
        write_segmentation(present(volume), swapped, PROVENANCE)


def test_images_beyond_a_resampled_grid_are_refused():
    volume = acquired("tilted")
    volume.sources[7].ImagePositionPatient = [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="not in slice order"):
        write_segmentation(present(volume), volume, PROVENANCE)


@every_acquisition
def test_a_key_picture_shows_the_lesion_where_the_source_image_has_it(name):
    volume = acquired(name)
    ((index, png),) = draw_key_slices(present(volume), volume)
    image = Image.open(BytesIO(png))
    source = volume.sources[index]
    truth = np.argwhere(in_lesion(pixel_points(source)))
    height = image.height - FOOTER_HEIGHT
    scale = np.array([height / source.Rows, image.width / source.Columns])
    expected = (truth.mean(axis=0) + 0.5) * scale
    down, across = red(image).min(axis=0), red(image).max(axis=0)
    assert np.abs((down + across) / 2 - expected).max() < scale.max()
    spacing = list(map(float, source.PixelSpacing))
    wide, high = source.Columns * spacing[1], source.Rows * spacing[0]
    assert image.width / height == pytest.approx(wide / high, rel=0.01)


@every_acquisition
def test_a_key_picture_says_where_the_source_image_lies(name):
    volume = acquired(name)
    axis, (more, less) = (0, "LR") if ACQUISITIONS[name].get("modality") == "MR" else (2, "HF")
    if name == "mosaic":
        axis, (more, less) = 2, "HF"
    for index in (0, len(volume.sources) - 1):
        centre = pixel_points(volume.sources[index]).reshape(-1, 3).mean(axis=0)[axis]
        assert _position(volume, index) == f"{more if centre >= 0 else less} {abs(centre):.1f} mm"


def test_a_picture_of_voxels_between_those_of_the_image_says_so():
    tilted, uneven = acquired("tilted"), acquired("uneven")
    assert _is_interpolated(tilted, 5)
    assert not any(_is_interpolated(uneven, index) for index in range(len(uneven.sources)))


def test_a_finding_between_two_images_is_drawn_on_the_one_that_shows_it():
    volume = acquired("gapped")
    mask = np.zeros(volume.grid.spatial_shape, bool)
    mask[16:19, 30:36, 20:26] = True  # images lie at slices 15 and 18
    assessment = present(volume)
    (finding,) = assessment.record.findings
    evidence = Evidence(segment=1, slices=(16, 17, 18), best_slice=16)
    record = assessment.record.model_copy(
        update={
            "findings": (finding.model_copy(update={"evidence": evidence}),),
            "key_slices": (16,),
        }
    )
    ((index, png),) = draw_key_slices(Assessment(record, {1: mask}), volume)
    assert index == 16
    assert len(red(Image.open(BytesIO(png)))) > 0
