"""The gate on slices as evidence and on model text: each fault is stopped by its own check."""

from copy import deepcopy

import pytest
from pydicom.sr.codedict import codes

from sr_writer.conformance import check_objects
from sr_writer.content_items import is_named, walk
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.series import (
    MODEL,
    OBLIQUE,
    PROVENANCE,
    SAGITTAL,
    as_received,
    finding_groups,
    make_volume,
    mixed,
    on_slices,
    place_groups,
    spooled,
)

STRANGER = "2.25.1234567890"
VOLUME = spooled(make_volume())


def results(assess, volume):
    """The SR, then the SEG if there is one, as the receiver reads them."""
    assessment = assess(volume)
    segmentation = write_segmentation(assessment, volume, PROVENANCE) if assessment.masks else None
    report = write_report(assessment, volume.sources, volume, segmentation, PROVENANCE)
    return [as_received(each) for each in (report, segmentation) if each is not None]


GOOD = results(mixed, VOLUME)
"""The first group is on slices, the second on a segment."""


def groups(report):
    return finding_groups(report)


def named(report, code):
    """The items of the group on slices that have this name."""
    return [each for each in groups(report)[0].ContentSequence if is_named(each, code)]


def drop(code):
    def fault(report, _):
        for each in named(report, code):
            groups(report)[0].ContentSequence.remove(each)

    return fault


def borrow(code):
    """Move an item of the group on a segment to the one on slices."""

    def fault(report, _):
        first, second = (group.ContentSequence for group in groups(report))
        first.append(deepcopy(next(each for each in second if is_named(each, code))))

    return fault


def refer(keyword, value):
    def fault(report, _):
        image = named(report, codes.DCM.SourceOfMeasurement)[0]
        setattr(image.ReferencedSOPSequence[0], keyword, value)

    return fault


def refer_to_the_segmentation(report, segmentation):
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        refer(f"Referenced{keyword}", segmentation[keyword].value)(report, segmentation)


def refer_twice(report, _):
    images = named(report, codes.DCM.SourceOfMeasurement)
    groups(report)[0].ContentSequence.append(deepcopy(images[0]))


def rename_image(report, _):
    image = named(report, codes.DCM.SourceOfMeasurement)[0]
    image.ConceptNameCodeSequence[0].CodeValue = codes.DCM.SourceImageForSegmentation.value


def write_template(index, identifier):
    def fault(report, _):
        groups(report)[index].ContentTemplateSequence[0].TemplateIdentifier = identifier

    return fault


def say_absent(report, _):
    (finding,) = named(report, codes.DCM.Finding)
    question = finding.ConceptCodeSequence[0].CodeValue
    for each in groups(report)[0].ContentSequence:
        if each.ConceptNameCodeSequence[0].CodeValue == question:
            each.ConceptCodeSequence[0].CodeValue = codes.SCT.Absent.value


def track_the_segment(report, segmentation):
    for group in (place_groups(report)[0], groups(report)[0]):
        for item in group.ContentSequence:
            if is_named(item, codes.DCM.TrackingUniqueIdentifier):
                item.UID = segmentation.SegmentSequence[0].TrackingUID


def track_twice(report, _):
    container = next(each for each in walk(report) if is_named(each, codes.DCM.ImagingMeasurements))
    for each in (place_groups(report)[0], groups(report)[0]):
        container.ContentSequence.append(deepcopy(each))


def say_who_wrote_nothing(report, _):
    summary = next(each for each in walk(report) if is_named(each, codes.DCM.Summary))
    summary.TextValue = "There is a lesion."


def write_a_tab(report, _):
    summary = next(each for each in walk(report) if is_named(each, codes.DCM.Summary))
    summary.TextValue += "\t"


FAULTS = {
    "no tracking UID": (
        drop(codes.DCM.TrackingUniqueIdentifier),
        "not exactly one Tracking Unique Identifier",
    ),
    "no tracking identifier": (
        drop(codes.DCM.TrackingIdentifier),
        "not exactly one Tracking Identifier",
    ),
    "no finding": (drop(codes.DCM.Finding), "not exactly one Finding"),
    "no algorithm": (drop(codes.DCM.AlgorithmName), "not exactly one Algorithm Name"),
    "no version": (drop(codes.DCM.AlgorithmVersion), "not exactly one Algorithm Version"),
    "a finding that is absent": (say_absent, "does not say that its finding is present"),
    "no slice": (drop(codes.DCM.SourceOfMeasurement), "refers to no slice"),
    "a slice of a stranger": (
        refer("ReferencedSOPInstanceUID", STRANGER),
        "no slice of the source series",
    ),
    "the SEG as a slice": (refer_to_the_segmentation, "no slice of the source series"),
    "the wrong SOP class of a slice": (
        refer("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
        "wrong ReferencedSOPClassUID",
    ),
    "a slice twice": (refer_twice, "names a slice twice"),
    "a slice for another purpose": (rename_image, "may refer to Source of Measurement only"),
    "a segment": (
        borrow(codes.DCM.ReferencedSegment),
        "may refer to Source of Measurement only",
    ),
    "a volume of nothing outlined": (borrow(codes.SCT.Volume), "measures what nothing outlines"),
    "a region's template": (write_template(0, "1411"), "not exactly one Referenced Segment"),
    "a template without region on a segment": (
        write_template(1, "1501"),
        "may refer to Source of Measurement only",
    ),
    "another template": (write_template(0, "1502"), "is of template 1502"),
    "the segment's tracking": (track_the_segment, "the same for two regions"),
    "one tracking for two groups": (track_twice, "the same for two regions"),
    "a narrative with a tab": (write_a_tab, "has control characters"),
    "a narrative that does not say whose": (say_who_wrote_nothing, "Summary does not say"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_stopped_by_the_check_that_is_meant_for_it(fault):
    report, segmentation = (deepcopy(made) for made in GOOD)
    spoil, reason = FAULTS[fault]
    spoil(report, segmentation)
    problems = check_objects([report, segmentation], VOLUME.sources, model=MODEL)
    assert [problem for problem in problems if reason in problem], problems


def test_a_relationship_that_the_template_forbids_is_stopped():
    report, segmentation = (deepcopy(made) for made in GOOD)
    named(report, codes.DCM.SourceOfMeasurement)[0].RelationshipType = "HAS ACQ CONTEXT"
    (problem,) = check_objects([report, segmentation], VOLUME.sources, model=MODEL)
    assert "RelationshipType HAS ACQ CONTEXT of item 121112" in problem


@pytest.mark.parametrize("assess", [on_slices, mixed])
@pytest.mark.parametrize("orientation", [SAGITTAL, OBLIQUE])
def test_good_groups_pass(assess, orientation):
    volume = spooled(make_volume(orientation, descending=True))
    assert check_objects(results(assess, volume), volume.sources, model=MODEL) == []


def test_slices_of_another_series_are_stopped():
    other = spooled(make_volume(SAGITTAL))
    problems = check_objects(results(on_slices, other), VOLUME.sources, model=MODEL)
    assert any("no slice of the source series" in problem for problem in problems)
