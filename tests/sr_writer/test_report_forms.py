"""Every form of a report says the same, in a way that its SOP class and its receiver allow."""

from copy import deepcopy
from io import BytesIO

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from sr_writer.conformance import check_objects
from sr_writer.content_items import is_named, number_of, walk
from sr_writer.image_regions import MOST_POINTS, Subject, outline_regions
from sr_writer.report import write_reports
from sr_writer.results import refers_to
from sr_writer.segmentation import write_segmentation
from sr_writer.source_images import source_images
from tests.sr_writer.acquisitions import acquired
from tests.sr_writer.series import (
    MODEL,
    OBLIQUE,
    PROVENANCE,
    as_received,
    bytes_of,
    finding_groups,
    instances_of,
    make_volume,
    mixed,
    on_slices,
    place_groups,
    present,
    spooled,
)

VOLUME = spooled(make_volume(OBLIQUE))
CLASSES = [Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage]


def forms(assess, volume, **more):
    """The SEG, if there is one, and the reports of all ranks, as the receiver reads them."""
    assessment = assess(volume)
    segmentation = write_segmentation(assessment, volume, PROVENANCE) if assessment.masks else None
    reports = write_reports(
        assessment,
        instances_of(volume),
        volume,
        segmentation,
        PROVENANCE,
        **{"predecessors": {}, **more},
    )
    seg = None if segmentation is None else as_received(segmentation)
    return seg, [as_received(report) for report in reports]


SEGMENTATION, REPORTS = forms(mixed, VOLUME)


def regions(report):
    """The outlines of the group that is outlined."""
    group = finding_groups(report)[1]
    return [item for item in group.ContentSequence if is_named(item, codes.DCM.ImageRegion)]


def test_a_report_with_segments_has_three_classes_with_the_seg_and_three_without():
    assert [report.SOPClassUID for report in REPORTS] == CLASSES * 2
    uids = [SEGMENTATION.SOPInstanceUID]
    assert [refers_to(report, uids) for report in REPORTS] == [uids] * 3 + [[]] * 3
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({report[keyword].value for report in REPORTS}) == 6
    for report in REPORTS:
        assert report.file_meta.MediaStorageSOPInstanceUID == report.SOPInstanceUID
        assert report.file_meta.MediaStorageSOPClassUID == report.SOPClassUID


def test_a_report_without_segment_has_three_classes():
    segmentation, reports = forms(on_slices, VOLUME)
    assert segmentation is None
    assert [report.SOPClassUID for report in reports] == CLASSES


def test_all_forms_measure_the_same_and_outline_the_same_place():
    first, *others = [
        [(item.ConceptNameCodeSequence[0].CodeValue, number_of(item)) for item in walk(group)
         if item.ValueType == "NUM"]
        for report in REPORTS
        for group in [finding_groups(report)[1]]
    ]  # fmt: skip
    assert first
    assert all(other == first for other in others)
    places = [
        [item.GraphicData for group in place_groups(report) for item in walk(group)
         if item.ValueType == "SCOORD"]
        for report in REPORTS
    ]  # fmt: skip
    assert all(place == places[0] for place in places)


def test_outlines_stand_on_each_image_of_the_segment_and_enclose_its_pixels():
    assessment = mixed(VOLUME)
    mask = assessment.masks[1]
    drawn = {}
    for region in regions(REPORTS[3]):
        (image,) = region.ContentSequence
        points = np.array(region.GraphicData).reshape(-1, 2)
        uid = image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        column, row = points.T
        area = abs(column[:-1] @ row[1:] - column[1:] @ row[:-1]) / 2
        drawn[uid] = drawn.get(uid, 0) + area
    assert drawn == {
        VOLUME.sources[index].SOPInstanceUID: mask[index].sum()
        for index in np.flatnonzero(mask.any(axis=(1, 2)))
    }


def test_an_outline_too_long_for_its_value_is_cut_and_loses_no_pixel():
    mask = np.zeros((1, 200, 200), bool)
    mask[:, ::4] = mask[:, 1::4, ::2] = mask[:, :, 0] = True  # ragged teeth
    volume = make_volume(shape=(1, 200, 200))
    record = present(VOLUME).record
    subject = Subject(record, source_images(volume), {1: mask}, {})
    lines = [np.array(each.GraphicData).reshape(-1, 2) for each in outline_regions(1, 0, subject)]
    assert len(lines) > 1
    assert max(map(len, lines)) <= MOST_POINTS
    areas = [column[:-1] @ row[1:] - column[1:] @ row[:-1] for column, row in (x.T for x in lines)]
    assert sum(areas) / 2 >= mask.sum()


@pytest.mark.parametrize("name", ["enhanced", "mosaic", "tilted, gapped"])
def test_every_form_of_any_acquisition_passes_the_gate(name):
    volume = spooled(acquired(name))
    segmentation, reports = forms(mixed, volume)
    sources = instances_of(volume)
    assert check_objects([segmentation, *reports], sources, volume, model=MODEL) == []
    assert check_objects(reports[3:], sources, volume, model=MODEL) == []


def test_in_a_mosaic_a_finding_without_seg_is_on_the_mosaic_and_not_measured():
    _, reports = forms(present, spooled(acquired("mosaic")))
    (group,) = finding_groups(reports[3])
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1501"
    assert [number_of(item) for item in walk(group) if item.ValueType == "NUM"] == [97.3]


@pytest.mark.parametrize("rank", range(6))
def test_highdicom_reads_every_form(rank):
    content = srread(BytesIO(bytes_of(REPORTS[rank]))).content
    (group,) = content.get_volumetric_roi_measurement_groups()
    assert (group.roi is None) == (rank < 3)
    assert len(content.get_planar_roi_measurement_groups()) == 2


def test_a_revision_supersedes_the_report_of_its_rank():
    _, later = forms(mixed, VOLUME, predecessors=dict(enumerate(REPORTS)))
    named = [
        report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        for report in later
    ]
    assert [(each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID) for each in named] == [
        (report.SOPClassUID, report.SOPInstanceUID) for report in REPORTS
    ]


def test_a_revision_that_has_a_seg_supersedes_one_of_the_same_class_that_had_none():
    _, earlier = forms(on_slices, VOLUME)
    _, later = forms(mixed, VOLUME, predecessors=dict(enumerate(earlier)))
    series = later[4].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == earlier[1].SOPInstanceUID


def move(report):
    region = regions(report)[0]
    region.GraphicData = [each + 1 for each in region.GraphicData]


def leave_the_image(report):
    region = regions(report)[0]
    region.GraphicData = [each + 30 for each in region.GraphicData]


def open_the_line(report):
    region = regions(report)[0]
    region.GraphicData = list(region.GraphicData)[:-2]


def lose_a_coordinate(report):
    region = regions(report)[0]
    region.GraphicData = list(region.GraphicData)[:-1]


def draw_points(report):
    regions(report)[0].GraphicType = "MULTIPOINT"


def leave_out_a_slice(report):
    group = finding_groups(report)[1]
    first = regions(report)[0].ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    for region in regions(report):
        if region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first:
            group.ContentSequence.remove(region)


def another_slice(report):
    reference = regions(report)[0].ContentSequence[0].ReferencedSOPSequence[0]
    reference.ReferencedSOPInstanceUID = VOLUME.sources[0].SOPInstanceUID


def select_nothing(report):
    del regions(report)[0].ContentSequence


def call_it_a_box(report):
    group = finding_groups(report)[1]
    purpose = next(
        item for item in group.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "130400"
    )  # fmt: skip
    purpose.ConceptCodeSequence[0].CodeValue = codes.cid219.BoundedBy.value


def measure_in_litres(report):
    (volume,) = [item for item in walk(report) if is_named(item, codes.SCT.Volume)]
    unit = volume.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
    unit.CodeValue = "L"


def box_elsewhere(report):
    (item,) = [each for each in walk(place_groups(report)[1]) if each.ValueType == "SCOORD"]
    item.GraphicData = [each - 1 for each in item.GraphicData]


def box_on_another_slice(report):
    (item,) = [each for each in walk(place_groups(report)[1]) if each.ValueType == "SCOORD"]
    reference = item.ContentSequence[0].ReferencedSOPSequence[0]
    reference.ReferencedSOPInstanceUID = VOLUME.sources[0].SOPInstanceUID


def box_invented(report):
    (item,) = [each for each in walk(place_groups(report)[0]) if each.ValueType == "SCOORD"]
    item.GraphicData = [1, 1, 9, 1, 9, 9, 1, 9, 1, 1]


def no_box(report):
    container = next(item for item in walk(report) if is_named(item, codes.DCM.ImagingMeasurements))
    container.ContentSequence.remove(place_groups(report)[1])


def measure_in_the_box(report):
    (volume,) = [item for item in walk(report) if is_named(item, codes.SCT.Volume)]
    place_groups(report)[1].ContentSequence.append(deepcopy(volume))


def draw_in_space(report):
    regions(report)[0].ValueType = "SCOORD3D"


FAULTS = {
    "moved": (move, "box around the outlines|not the outlines of the segment"),
    "beyond the image": (leave_the_image, "leaves the image"),
    "open": (open_the_line, "no closed POLYLINE"),
    "half a point": (lose_a_coordinate, "no closed POLYLINE"),
    "points": (draw_points, "no closed POLYLINE"),
    "a slice left out": (leave_out_a_slice, "lie on other images than the segment"),
    "another slice": (another_slice, "lie on other images than the segment"),
    "on no image": (select_nothing, "not SELECTED FROM exactly one image"),
    "outlines called a box": (call_it_a_box, "does not call its regions an Outline"),
    "litres": (measure_in_litres, "Volume is far from"),
    "a box elsewhere": (box_elsewhere, "not the box around"),
    "a box on another slice": (box_on_another_slice, "does not show its finding"),
    "a box that was invented": (box_invented, "nothing outlines its finding there"),
    "no box": (no_box, "have not the same tracking"),
    "a box that measures": (measure_in_the_box, "only its partner may"),
    "coordinates in space": (draw_in_space, "is none of a report's"),
}
BOX_FAULTS = [fault for fault in FAULTS if "box" in fault and fault != "outlines called a box"]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_region_is_stopped_by_its_own_check(fault):
    spoil, reasons = FAULTS[fault]
    report = deepcopy(REPORTS[5])
    spoil(report)
    problems = check_objects([SEGMENTATION, report], VOLUME.sources, VOLUME, model=MODEL)
    assert any(reason in problem for problem in problems for reason in reasons.split("|")), problems


@pytest.mark.parametrize("fault", BOX_FAULTS)
def test_each_fault_of_a_box_beside_a_segment_is_stopped(fault):
    spoil, reason = FAULTS[fault]
    report = deepcopy(REPORTS[0])
    spoil(report)
    problems = check_objects([SEGMENTATION, report], VOLUME.sources, VOLUME, model=MODEL)
    assert any(reason in problem for problem in problems), problems


def test_without_the_seg_a_volume_is_compared_with_the_outlines():
    report = deepcopy(REPORTS[3])
    measure_in_litres(report)
    (problem,) = check_objects([report], VOLUME.sources, VOLUME, model=MODEL)
    assert "Volume is far from what the outlines enclose" in problem
