"""The gate lets good objects through and stops every single fault, saying which."""

from copy import deepcopy
from dataclasses import replace

import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inference.assessment import Text, not_assessed
from sr_writer.conformance import check_objects
from sr_writer.content_items import is_named, walk
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation
from tests.sr_writer.series import (
    HAEMORRHAGE,
    MODEL,
    OBLIQUE,
    PROVENANCE,
    SAGITTAL,
    absent,
    as_received,
    finding_groups,
    make_volume,
    mixed,
    present,
    spooled,
    two_segments,
    undetermined,
)

STRANGER = "2.25.1234567890"
VOLUME = spooled(make_volume())


def results(assessment, volume, provenance=PROVENANCE):
    """The SR, then the SEG if there is one, as the receiver reads them."""
    segmentation = write_segmentation(assessment, volume, provenance) if assessment.masks else None
    report = write_report(assessment, volume.sources, volume, segmentation, provenance)
    return [as_received(each) for each in (report, segmentation) if each is not None]


GOOD = results(two_segments(VOLUME, overlap=False), VOLUME)


def item(report, code):
    return next(each for each in walk(report) if is_named(each, code))


def group(report):
    return finding_groups(report)[0]


def unit(report, code):
    return item(report, code).MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]


def value(report, code):
    return item(report, code).MeasuredValueSequence[0]


def drop(report, code):
    """Take the first such item out of the first measurement group."""
    items = group(report).ContentSequence
    items.remove(next(each for each in items if is_named(each, code)))


def shared(segmentation):
    return segmentation.SharedFunctionalGroupsSequence[0]


def frame(segmentation, index=0):
    return segmentation.PerFrameFunctionalGroupsSequence[index]


def evidence(report):
    study = report.CurrentRequestedProcedureEvidenceSequence[0]
    return study.ReferencedSeriesSequence


def swap_positions(_, segmentation):
    first, second = frame(segmentation), frame(segmentation, 1)
    first.PlanePositionSequence, second.PlanePositionSequence = (
        second.PlanePositionSequence,
        first.PlanePositionSequence,
    )


def swap_segments(_, segmentation):
    first, second = segmentation.SegmentSequence
    first.SegmentNumber, second.SegmentNumber = 2, 1


def flip_orientation(_, segmentation):
    plane = shared(segmentation).PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def say_nothing_of_unverified(report, _):
    for each in walk(report):
        if "TextValue" in each:
            each.TextValue = each.TextValue.replace("Unverified", "Verified")


def same_tracking(report, segmentation):
    uid = segmentation.SegmentSequence[0].TrackingUID
    segmentation.SegmentSequence[1].TrackingUID = uid
    for each in walk(report):
        if is_named(each, codes.DCM.TrackingUniqueIdentifier):
            each.UID = uid


def other_patient_in_both(report, segmentation):
    for made in (report, segmentation):
        made.PatientID = "P-0043"


def undetermined_yet_complete(report, _):
    question = Code(HAEMORRHAGE.value, HAEMORRHAGE.scheme, HAEMORRHAGE.meaning)
    answer = item(report, question)
    answer.ConceptCodeSequence[0].CodeValue = codes.SCT.Undetermined.value


def second_equipment(report, _):
    sequence = report.ContributingEquipmentSequence
    sequence.append(deepcopy(sequence[0]))


FAULTS = {
    # identity
    "another patient's ID": lambda r, s: setattr(r, "PatientID", "P-0043"),
    "another patient in both objects": other_patient_in_both,
    "another name": lambda r, s: setattr(s, "PatientName", "Li^Si"),
    "another birth date": lambda r, s: setattr(r, "PatientBirthDate", "19580212"),
    "another sex": lambda r, s: setattr(s, "PatientSex", "F"),
    "another accession number": lambda r, s: setattr(r, "AccessionNumber", "A-2026-2"),
    "another study": lambda r, s: setattr(r, "StudyInstanceUID", STRANGER),
    "another study ID": lambda r, s: setattr(s, "StudyID", "S2"),
    "no patient name at all": lambda r, s: delattr(r, "PatientName"),
    "the source's series": lambda r, s: setattr(
        r, "SeriesInstanceUID", VOLUME.sources[0].SeriesInstanceUID
    ),
    # required attributes, flags, character set
    "no content date": lambda r, s: delattr(r, "ContentDate"),
    "a date that is none": lambda r, s: setattr(r, "ContentDate", "20261341"),
    "no manufacturer": lambda r, s: setattr(s, "Manufacturer", ""),
    "the wrong modality": lambda r, s: setattr(r, "Modality", "CT"),
    "an invalid UID": lambda r, s: setattr(s.SegmentSequence[0], "TrackingUID", "1.02.3"),
    "a character set that lacks Chinese": lambda r, s: setattr(
        r, "SpecificCharacterSet", "ISO_IR 100"
    ),
    "file meta of another object": lambda r, s: setattr(
        r.file_meta, "MediaStorageSOPInstanceUID", STRANGER
    ),
    "verified by nobody": lambda r, s: setattr(r, "VerificationFlag", "VERIFIED"),
    "final": lambda r, s: setattr(r, "PreliminaryFlag", "FINAL"),
    "partial without saying why": lambda r, s: setattr(r, "CompletionFlag", "PARTIAL"),
    "complete with an undetermined finding": undetermined_yet_complete,
    "no word that it is unverified": say_nothing_of_unverified,
    "no template": lambda r, s: delattr(r, "ContentTemplateSequence"),
    # device
    "no device UID": lambda r, s: delattr(r.ContributingEquipmentSequence[0], "DeviceUID"),
    "another device UID in the observer": lambda r, s: setattr(
        item(r, codes.DCM.DeviceObserverUID), "UID", STRANGER
    ),
    "another device UID in the SEG": lambda r, s: setattr(s, "DeviceUID", STRANGER),
    "two items of equipment": second_equipment,
    # references
    "evidence of a stranger": lambda r, s: setattr(
        evidence(r)[0].ReferencedSOPSequence[0], "ReferencedSOPInstanceUID", STRANGER
    ),
    "a source missing from the evidence": lambda r, s: evidence(r)[0].ReferencedSOPSequence.pop(),
    "evidence in the wrong series": lambda r, s: setattr(
        evidence(r)[0], "SeriesInstanceUID", STRANGER
    ),
    "a segment of another SEG": lambda r, s: setattr(
        item(r, codes.DCM.ReferencedSegment).ReferencedSOPSequence[0],
        "ReferencedSOPInstanceUID",
        STRANGER,
    ),
    "a segment that the SEG lacks": lambda r, s: setattr(
        item(r, codes.DCM.ReferencedSegment).ReferencedSOPSequence[0],
        "ReferencedSegmentNumber",
        7,
    ),
    "the other finding's segment": lambda r, s: setattr(
        item(r, codes.DCM.ReferencedSegment).ReferencedSOPSequence[0],
        "ReferencedSegmentNumber",
        2,
    ),
    "the wrong SOP class of a slice": lambda r, s: setattr(
        item(r, codes.DCM.SourceImageForSegmentation).ReferencedSOPSequence[0],
        "ReferencedSOPClassUID",
        "1.2.840.10008.5.1.4.1.1.4",
    ),
    "a slice of the segment left out": lambda r, s: drop(r, codes.DCM.SourceImageForSegmentation),
    "a frame of a stranger": lambda r, s: setattr(
        frame(s).DerivationImageSequence[0].SourceImageSequence[0],
        "ReferencedSOPInstanceUID",
        STRANGER,
    ),
    "a series of a stranger in the SEG": lambda r, s: setattr(
        s.ReferencedSeriesSequence[0], "SeriesInstanceUID", STRANGER
    ),
    # content of the report
    "no tracking UID": lambda r, s: drop(r, codes.DCM.TrackingUniqueIdentifier),
    "no tracking identifier": lambda r, s: drop(r, codes.DCM.TrackingIdentifier),
    "no finding": lambda r, s: drop(r, codes.DCM.Finding),
    "no algorithm": lambda r, s: drop(r, codes.DCM.AlgorithmName),
    "no region": lambda r, s: drop(r, codes.DCM.ReferencedSegment),
    "another tracking UID": lambda r, s: setattr(
        item(r, codes.DCM.TrackingUniqueIdentifier), "UID", STRANGER
    ),
    "one tracking UID for two regions": same_tracking,
    "a volume in mm": lambda r, s: setattr(unit(r, codes.SCT.Volume), "CodeValue", "mm"),
    "a volume in mm3 with the number of mL": lambda r, s: setattr(
        unit(r, codes.SCT.Volume), "CodeValue", "mm3"
    ),
    "a length in mL": lambda r, s: setattr(unit(r, codes.SCT.LongAxis), "CodeValue", "mL"),
    "a certainty in mm": lambda r, s: setattr(
        unit(r, codes.DCM.CertaintyOfFinding), "CodeValue", "mm"
    ),
    "a certainty of 973 %": lambda r, s: setattr(
        value(r, codes.DCM.CertaintyOfFinding), "NumericValue", 973
    ),
    "a volume of nothing": lambda r, s: setattr(value(r, codes.SCT.Volume), "NumericValue", 0),
    "a number without value": lambda r, s: delattr(value(r, codes.SCT.Volume), "NumericValue"),
    "a wrong relationship": lambda r, s: setattr(
        item(r, codes.SCT.Volume), "RelationshipType", "HAS PROPERTIES"
    ),
    "a finding as context": lambda r, s: setattr(
        item(r, codes.DCM.Finding), "RelationshipType", "HAS OBS CONTEXT"
    ),
    "an empty text": lambda r, s: setattr(item(r, codes.DCM.Comment), "TextValue", ""),
    "a wrong position in the image library": lambda r, s: setattr(
        value(r, codes.DCM.ImagePositionPatientZ), "NumericValue", 999
    ),
    "another frame of reference in the image library": lambda r, s: setattr(
        item(r, codes.DCM.FrameOfReferenceUID), "UID", STRANGER
    ),
    # geometry and segments
    "another frame of reference": lambda r, s: setattr(s, "FrameOfReferenceUID", STRANGER),
    "a flipped orientation": flip_orientation,
    "two frames' positions swapped": swap_positions,
    "a frame moved by half a millimetre": lambda r, s: setattr(
        frame(s).PlanePositionSequence[0], "ImagePositionPatient", [-78.5, -98.7, 12]
    ),
    "another pixel spacing": lambda r, s: setattr(
        shared(s).PixelMeasuresSequence[0], "PixelSpacing", [4.0, 4.2]
    ),
    "another slice distance": lambda r, s: setattr(
        shared(s).PixelMeasuresSequence[0], "SpacingBetweenSlices", 4.0
    ),
    "fewer rows": lambda r, s: setattr(s, "Rows", 47),
    "half the pixels": lambda r, s: setattr(s, "PixelData", s.PixelData[: len(s.PixelData) // 2]),
    "a frame too few": lambda r, s: s.PerFrameFunctionalGroupsSequence.pop(),
    "segments swapped": swap_segments,
    "a segment without tracking UID": lambda r, s: delattr(s.SegmentSequence[0], "TrackingUID"),
    "a segment drawn by hand": lambda r, s: setattr(
        s.SegmentSequence[0], "SegmentAlgorithmType", "MANUAL"
    ),
    "another property category": lambda r, s: setattr(
        s.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence[0], "CodeValue", "91723000"
    ),
    "no pixel measures": lambda r, s: delattr(shared(s), "PixelMeasuresSequence"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_stopped(fault):
    report, segmentation = (deepcopy(made) for made in GOOD)
    FAULTS[fault](report, segmentation)
    assert check_objects([report, segmentation], VOLUME.sources, model=MODEL)


def test_problems_name_object_attribute_and_remedy_but_no_patient():
    report, segmentation = (deepcopy(made) for made in GOOD)
    report.PatientID = "P-0043"
    (problem,) = check_objects([report, segmentation], VOLUME.sources)
    assert problem == (
        "SR: PatientID is not the source's; copy it from the source, never from elsewhere"
    )


@pytest.mark.parametrize("assess", [present, absent, undetermined, mixed])
@pytest.mark.parametrize("orientation", [SAGITTAL, OBLIQUE])
@pytest.mark.parametrize("descending", [False, True])
def test_good_objects_pass(assess, orientation, descending):
    volume = spooled(make_volume(orientation, descending=descending))
    made = results(assess(volume), volume)
    assert check_objects(made, volume.sources[::-1], model=MODEL) == []


def test_a_report_of_no_assessment_passes():
    reason = Text(en="Gaps.", zh="有缺层。")
    assessment = not_assessed(MODEL, (reason,), PROVENANCE.written_at)
    report = write_report(assessment, VOLUME.sources, None, None, PROVENANCE)
    assert check_objects([report], VOLUME.sources, model=MODEL) == []


def test_another_model_is_not_let_speak_for_this_one():
    other = MODEL.model_copy(update={"digest": "ab" * 32})
    assert check_objects(GOOD, VOLUME.sources, model=other)


def test_a_demonstration_model_has_to_say_so():
    report, segmentation = (deepcopy(made) for made in GOOD)
    for each in walk(report):
        if "TextValue" in each and each.TextValue.startswith("Demonstration"):
            each.TextValue = "A model."
    assert check_objects([report, segmentation], VOLUME.sources) == []
    (problem,) = check_objects([report, segmentation], VOLUME.sources, model=MODEL)
    assert "demonstration" in problem


def test_sources_of_two_patients_are_stopped():
    sources = [deepcopy(source) for source in VOLUME.sources]
    sources[3].PatientID = "P-0043"
    assert any("source: PatientID" in problem for problem in check_objects(GOOD, sources))


def test_instances_may_disagree_on_what_does_not_identify():
    volume = make_volume()
    for source in volume.sources[:5]:
        source.ReferringPhysicianName = "Someone^Else"
        source.StudyDescription = "CT head, repeated"
    made = results(present(volume), volume)
    assert check_objects(made, volume.sources[::-1], model=MODEL) == []


def test_the_seg_alone_of_another_content_is_stopped():
    stale = results(
        two_segments(VOLUME, overlap=False), VOLUME, replace(PROVENANCE, content="revision 2")
    )
    assert check_objects([GOOD[0], stale[1]], VOLUME.sources)


def test_two_objects_with_one_uid_are_stopped():
    assert check_objects([GOOD[0], GOOD[0], GOOD[1]], VOLUME.sources)


def test_nothing_to_check_is_not_nothing_wrong():
    assert check_objects([], VOLUME.sources)
    assert check_objects(GOOD, [])


def test_an_object_that_it_does_not_know_is_stopped():
    stranger = Dataset()
    stranger.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    assert check_objects([stranger, *GOOD], VOLUME.sources)
