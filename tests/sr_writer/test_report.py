"""A report says what the assessment says, of the right patient, and as true as it is."""

from dataclasses import replace

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import Comprehensive3DSRStorage
from pydicom.valuerep import PersonName

from inference.assessment import Assessment, Evidence, Text, not_assessed
from sr_writer.conformance import check_objects
from sr_writer.content_items import is_named, number_of, value_of, walk
from sr_writer.identifiers import device_uid
from sr_writer.plain_report import report_text
from sr_writer.report import write_report
from sr_writer.segmentation import write_segmentation
from sr_writer.wording import MODEL_TEXT, NARRATIVE_WITHHELD
from tests.sr_writer.series import (
    BRAIN,
    HAEMORRHAGE,
    MIDLINE_SHIFT,
    MODEL,
    NARRATIVE,
    PROVENANCE,
    absent,
    as_received,
    as_spooled,
    bytes_of,
    finding_groups,
    make_volume,
    mixed,
    on_slices,
    place_groups,
    present,
    spooled,
    two_segments,
    undetermined,
)

WHY = Text(en="Slices 12 to 14 are missing.", zh="缺少第12至14层。")


def written(assessment, volume, **more):
    segmentation = write_segmentation(assessment, volume, PROVENANCE) if assessment.masks else None
    report = write_report(assessment, volume.sources, volume, segmentation, PROVENANCE, **more)
    return as_received(report), segmentation


def no_assessment(sources):
    assessment = not_assessed(MODEL, (WHY,), PROVENANCE.written_at)
    return as_received(write_report(assessment, sources, None, None, PROVENANCE))


def items(report, code):
    return [item for item in walk(report) if is_named(item, code)]


def tracking_uids(report):
    """One for each finding that is present."""
    found = [
        [item.UID for item in items(group, codes.DCM.TrackingUniqueIdentifier)]
        for group in finding_groups(report)
    ]
    return [uid for (uid,) in found]


def texts(report):
    return [item.TextValue for item in walk(report) if "TextValue" in item]


def test_a_present_finding_is_a_group_on_its_segment():
    volume = make_volume()
    report, segmentation = written(present(volume), volume)
    assert report.SOPClassUID == Comprehensive3DSRStorage
    (group,) = finding_groups(report)
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1411"
    (finding,) = items(group, codes.DCM.Finding)
    assert value_of(finding) == HAEMORRHAGE.value
    (site,) = items(group, codes.SCT.FindingSite)
    assert value_of(site) == BRAIN.value
    assert value_of(site.ContentSequence[0]) == codes.SCT.Left.value
    (region,) = items(group, codes.DCM.ReferencedSegment)
    reference = region.ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
    assert reference.ReferencedSegmentNumber == 1
    (tracking,) = items(group, codes.DCM.TrackingUniqueIdentifier)
    assert segmentation.SegmentSequence[0].TrackingUID == tracking.UID
    assert [number_of(item) for item in items(group, codes.DCM.CertaintyOfFinding)] == [97.3]
    assert [number_of(item) for item in items(group, codes.SCT.Volume)] == [11.49]


def corners(group):
    """The corners of a group's region, and the image that it was selected from."""
    (region,) = items(group, codes.DCM.ImageRegion)
    assert region.GraphicType == "POLYLINE"
    (image,) = region.ContentSequence
    assert image.RelationshipType == "SELECTED FROM"
    points = np.array(region.GraphicData).reshape(-1, 2)
    return points.tolist(), image.ReferencedSOPSequence[0]


def test_a_finding_has_a_box_around_its_pixels_on_the_best_slice_under_the_same_tracking():
    volume = make_volume()
    assessment = present(volume)
    report, _ = written(assessment, volume)
    (place,) = place_groups(report)
    best = assessment.record.findings[0].evidence.best_slice
    rows, columns = np.nonzero(assessment.masks[1][best])
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    points, reference = corners(place)
    assert points == [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    assert reference.ReferencedSOPInstanceUID == volume.sources[best].SOPInstanceUID
    assert [item.UID for item in items(place, codes.DCM.TrackingUniqueIdentifier)] == (
        tracking_uids(report)
    )
    assert not [item for item in walk(place) if item.ValueType == "NUM"]
    assert items(place, codes.DCM.Comment)[0].TextValue == (
        "Intracranial hemorrhage (AI, unverified)"
    )


def test_the_box_of_a_finding_that_nothing_outlines_is_the_whole_best_slice():
    volume = make_volume()
    report, _ = written(on_slices(volume), volume)
    (place,) = place_groups(report)
    points, reference = corners(place)
    assert points == [[0, 0], [40, 0], [40, 48], [0, 48], [0, 0]]
    assert reference.ReferencedSOPInstanceUID == volume.sources[9].SOPInstanceUID
    said = [item.TextValue for item in items(place, codes.DCM.Comment)]
    assert said[0].endswith("somewhere on this image")
    assert said[1].endswith("位于本图像某处")


def test_highdicom_reads_places_and_findings(tmp_path):
    volume = make_volume()
    made, _ = written(mixed(volume), volume)
    made.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    content = srread(tmp_path / "report.dcm").content
    places = content.get_planar_roi_measurement_groups()
    (outlined,) = content.get_volumetric_roi_measurement_groups()
    (on,) = content.get_image_measurement_groups()
    assert [place.tracking_uid for place in places] == [on.tracking_uid, outlined.tracking_uid]
    assert [place.roi.value.shape for place in places] == [(5, 2)] * 2


def test_a_segment_that_is_not_on_the_best_slice_is_refused():
    volume = make_volume()
    assessment = present(volume)
    (finding,) = assessment.record.findings
    elsewhere = finding.evidence.model_copy(update={"best_slice": 0})
    wrong = finding.model_copy(update={"evidence": elsewhere})
    with pytest.raises(ValueError, match="is not on slice 0, its best"):
        written(changed(assessment, findings=(wrong,)), volume)


def changed(assessment, **update):
    """The assessment with another record."""
    return Assessment(assessment.record.model_copy(update=update), assessment.masks)


def shown(group):
    """The slices that a group on slices refers to, in document order."""
    return [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in items(group, codes.DCM.SourceOfMeasurement)
    ]


def test_a_present_finding_without_outline_is_a_group_on_its_slices_the_best_one_first():
    volume = make_volume()
    report, segmentation = written(on_slices(volume), volume)
    assert segmentation is None
    (group,) = finding_groups(report)
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1501"
    assert shown(group) == [volume.sources[index].SOPInstanceUID for index in (9, 4, 10)]
    (finding,) = items(group, codes.DCM.Finding)
    assert value_of(finding) == MIDLINE_SHIFT.value
    (site,) = items(group, codes.SCT.FindingSite)
    assert value_of(site) == BRAIN.value
    assert value_of(site.ContentSequence[0]) == codes.SCT.Left.value
    assert codes.SCT.Present.value in [value_of(item) for item in group.ContentSequence]
    assert [item.TextValue for item in items(group, codes.DCM.AlgorithmName)] == [MODEL.name]
    assert [number_of(item) for item in walk(group) if item.ValueType == "NUM"] == [97.3]
    assert report.CompletionFlag == "COMPLETE"


def test_a_best_slice_is_evidence_enough():
    volume = make_volume()
    assessment = on_slices(volume)
    (finding,) = assessment.record.findings
    alone = finding.model_copy(update={"evidence": Evidence(segment=None, slices=(), best_slice=7)})
    report, _ = written(changed(assessment, findings=(alone,)), volume)
    assert shown(report) == [volume.sources[7].SOPInstanceUID]
    (library,) = items(report, codes.DCM.ImageLibraryGroup)
    assert volume.sources[7].SOPInstanceUID in {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in library.ContentSequence
        if item.ValueType == "IMAGE"
    }


def test_outlined_and_other_findings_stand_in_one_report():
    volume = make_volume()
    report, segmentation = written(mixed(volume), volume)
    on, outlined = finding_groups(report)
    assert [each.ContentTemplateSequence[0].TemplateIdentifier for each in (on, outlined)] == [
        "1501",
        "1411",
    ]
    assert [item.SegmentNumber for item in segmentation.SegmentSequence] == [1]
    assert not items(on, codes.DCM.ReferencedSegment)
    assert items(outlined, codes.DCM.ReferencedSegment)


def test_findings_on_the_same_slices_have_each_their_own_tracking():
    volume = make_volume()
    report, _ = written(on_slices(volume, 9, 10), volume)
    again, _ = written(on_slices(volume, 10, 9), volume)
    uids = tracking_uids(report)
    assert len(set(uids)) == 2
    assert uids == tracking_uids(again)[::-1]


def test_a_measurement_needs_a_segment():
    volume = make_volume()
    assessment = on_slices(volume)
    (finding,) = assessment.record.findings
    measured = finding.model_copy(
        update={"measurements": present(volume).record.findings[0].measurements}
    )
    with pytest.raises(ValueError, match="no segment of it was made"):
        written(changed(assessment, findings=(measured,)), volume)


def test_two_findings_are_two_groups_with_their_own_tracking():
    volume = make_volume()
    report, segmentation = written(two_segments(volume, overlap=True), volume)
    uids = tracking_uids(report)
    assert uids == [segment.TrackingUID for segment in segmentation.SegmentSequence]
    assert len(set(uids)) == 2


@pytest.mark.parametrize(
    ("assess", "answer"),
    [(absent, codes.SCT.Absent), (undetermined, codes.SCT.Undetermined)],
)
def test_a_finding_without_region_is_question_and_answer(assess, answer):
    volume = make_volume()
    report, _ = written(assess(volume), volume)
    assert not items(report, codes.DCM.MeasurementGroup)
    (item,) = [item for item in walk(report) if value_of(item) == answer.value]
    assert item.ConceptNameCodeSequence[0].CodeValue == HAEMORRHAGE.value
    assert any("Probability that the finding is present" in text for text in texts(item))
    assert items(item, codes.DCM.CertaintyOfFinding)


def test_an_abstention_says_why():
    volume = make_volume()
    report, _ = written(undetermined(volume), volume)
    assert {"The model could not decide.", "模型无法判定。"} <= set(texts(report))


def test_it_speaks_both_languages_and_says_that_it_is_a_demonstration():
    volume = make_volume()
    report, _ = written(present(volume), volume)
    said = texts(report)
    assert {MODEL_TEXT.en + NARRATIVE.en, MODEL_TEXT.zh + NARRATIVE.zh} <= set(said)
    assert any("Unverified second opinion" in text for text in said)
    assert any("未经核实" in text for text in said)
    assert "Demonstration model, not for clinical use." in said
    for item in items(report, codes.DCM.Summary):
        marked = [value_of(child) for child in item.get("ContentSequence", [])]
        assert marked == ([] if item.TextValue.isascii() else ["zh"])


@pytest.mark.parametrize(
    ("narrative", "said"),
    [
        (Text(en="A bleed.", zh=""), [MODEL_TEXT.en + "A bleed."]),
        (Text(en=" \n", zh="出血。"), [MODEL_TEXT.zh + "出血。"]),
    ],
)
def test_a_language_that_the_model_did_not_write_in_is_left_out(narrative, said):
    volume = make_volume()
    assessment = changed(present(volume), narrative=narrative)
    report, segmentation = written(assessment, volume)
    assert [item.TextValue for item in items(report, codes.DCM.Summary)] == said
    assert report.CompletionFlag == "COMPLETE"
    plain = report_text(assessment.record)
    assert said[0] in (plain.en, plain.zh)[said[0].startswith(MODEL_TEXT.zh)]
    assert (MODEL_TEXT.en in plain.en, MODEL_TEXT.zh in plain.zh).count(True) == 1
    assert check_objects([report, as_received(segmentation)], volume.sources, model=MODEL) == []


def test_a_narrative_in_no_language_is_none():
    volume = make_volume()
    report, _ = written(changed(present(volume), narrative=Text(en="", zh=" ")), volume)
    assert not items(report, codes.DCM.Summary)
    assert report.CompletionFlag == "PARTIAL"
    assert {NARRATIVE_WITHHELD.en, NARRATIVE_WITHHELD.zh} <= set(texts(report))


def test_control_characters_of_a_model_are_spaces():
    volume = make_volume()
    narrative = Text(en="a\tb\nc\x00d", zh="甲\x1b乙")
    report, _ = written(changed(present(volume), narrative=narrative), volume)
    assert [item.TextValue for item in items(report, codes.DCM.Summary)] == [
        MODEL_TEXT.en + "a b\nc d",
        MODEL_TEXT.zh + "甲 乙",
    ]


def test_many_and_long_limitations_arrive_whole():
    volume = make_volume()
    limitations = tuple(
        Text(
            en=f"{number}: " + "the graph runs on the CPU, not on the GPU it was made for; " * 40,
            zh=f"{number}：" + "该计算图在CPU上运行；" * 40 if number % 2 else "",
        )
        for number in range(50)
    )
    assessment = changed(
        present(volume),
        limitations=limitations,
        provider="CPUExecutionProvider, CUDAExecutionProvider",
    )
    report, segmentation = written(assessment, volume)
    expected = {each.en.strip() for each in limitations} | {
        each.zh for each in limitations if each.zh
    }
    assert expected <= set(texts(report))
    plain = report_text(assessment.record)
    assert [line for line in plain.en.splitlines() if line.startswith("- ")] == [
        f"- {each.en}" for each in limitations
    ]
    assert len([line for line in plain.zh.splitlines() if line.startswith("- ")]) == 25
    assert check_objects([report, as_received(segmentation)], volume.sources, model=MODEL) == []


def test_a_long_segment_label_leaves_its_number_in_the_tracking_identifier():
    volume = make_volume()
    assessment = present(volume)
    (segment,) = assessment.record.segments
    long = segment.model_copy(update={"label": "Hemorrhage " * 10})
    report, segmentation = written(changed(assessment, segments=(long,)), volume)
    (tracking,) = items(finding_groups(report)[0], codes.DCM.TrackingIdentifier)
    assert tracking.TextValue == segmentation.SegmentSequence[0].TrackingID
    assert tracking.TextValue == long.label + " 1"


def test_a_model_that_is_no_demonstration_is_not_called_one():
    volume = make_volume()
    assessment = present(volume)
    model = MODEL.model_copy(update={"demonstration": False})
    assessment = Assessment(assessment.record.model_copy(update={"model": model}), assessment.masks)
    report, _ = written(assessment, volume)
    assert not any("Demonstration" in text for text in texts(report))
    assert "Demonstration" not in report_text(assessment.record).en


def test_completion_is_as_true_as_the_assessment():
    volume = make_volume()
    withheld = present(volume)
    withheld = Assessment(withheld.record.model_copy(update={"narrative": None}), withheld.masks)
    for assessment, flag in (
        (present(volume), "COMPLETE"),
        (absent(volume), "COMPLETE"),
        (undetermined(volume), "PARTIAL"),
        (withheld, "PARTIAL"),
    ):
        report, _ = written(assessment, volume)
        assert report.CompletionFlag == flag
        assert ("CompletionFlagDescription" in report) == (flag == "PARTIAL")
        assert report.VerificationFlag == "UNVERIFIED"
        assert report.PreliminaryFlag == "PRELIMINARY"


def test_the_model_is_the_one_device_everywhere():
    volume = make_volume()
    report, segmentation = written(present(volume), volume)
    (observer,) = items(report, codes.DCM.DeviceObserverUID)
    for made in (report, segmentation):
        (item,) = made.ContributingEquipmentSequence
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert observer.UID == item.DeviceUID == made.DeviceUID == device_uid(MODEL)
        assert list(item.SoftwareVersions) == ["0.1.0", "Overread 0.1.0"]


def test_no_assessment_says_so_and_why_and_names_the_series():
    volume = spooled(make_volume())
    report = no_assessment(volume.sources)
    assert report.CompletionFlag == "PARTIAL"
    assert report.CompletionFlagDescription == "No assessment was made"
    assert {"No assessment was made of this series.", WHY.en, WHY.zh} <= set(texts(report))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    listed = {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence}
    assert listed == {source.SOPInstanceUID for source in volume.sources}


def test_the_order_of_the_sources_does_not_matter():
    volume = make_volume()
    assessment = present(volume)
    segmentation = write_segmentation(assessment, volume, PROVENANCE)
    forward, backward = (
        bytes_of(write_report(assessment, sources, volume, segmentation, PROVENANCE))
        for sources in (volume.sources, volume.sources[::-1])
    )
    assert forward == backward
    assert bytes_of(no_assessment(volume.sources)) == bytes_of(no_assessment(volume.sources[::-1]))


def test_a_retry_makes_the_same_object_and_new_content_another():
    volume = make_volume()
    first, second = (bytes_of(written(present(volume), volume)[0]) for _ in range(2))
    assert first == second
    assessment = present(volume)
    revised = replace(PROVENANCE, content="study-revision-2/route-head")
    segmentation = write_segmentation(assessment, volume, revised)
    other = write_report(assessment, volume.sources, volume, segmentation, revised)
    assert other.SOPInstanceUID != written(assessment, volume)[0].SOPInstanceUID


def test_a_revision_names_the_report_it_supersedes():
    volume = make_volume()
    first, _ = written(present(volume), volume)
    segmentation = write_segmentation(present(volume), volume, PROVENANCE)
    second = write_report(
        present(volume), volume.sources, volume, segmentation, PROVENANCE, predecessor=first
    )
    series = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_the_order_that_it_answers_is_named():
    volume = spooled(make_volume())
    report, _ = written(present(volume), volume)
    (request,) = report.ReferencedRequestSequence
    assert request.AccessionNumber == "A-2026-1"
    assert request.RequestedProcedureID == "RP-7"
    assert request.StudyInstanceUID == report.StudyInstanceUID


def test_the_image_library_holds_what_is_referenced_and_nothing_else():
    volume = make_volume()
    assessment = present(volume)
    report, _ = written(assessment, volume)
    (group,) = items(report, codes.DCM.ImageLibraryGroup)
    listed = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in group.ContentSequence
        if item.ValueType == "IMAGE"
    ]
    slices = assessment.record.findings[0].evidence.slices
    assert listed == [volume.sources[index].SOPInstanceUID for index in slices]


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("GB18030", "Zhang^Xiao Dong=张^小东="),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东="),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 100", "Müller^Jürgen"),
        (None, "Plain^Name"),
    ],
)
def test_names_in_any_character_set_arrive_in_utf8(charset, name):
    volume = make_volume(name=name, charset=charset)
    if charset is None:
        for source in volume.sources:
            del source.SpecificCharacterSet
    volume = spooled(volume)
    report, segmentation = written(present(volume), volume)
    for made in (report, as_received(segmentation)):
        assert made.SpecificCharacterSet == "ISO_IR 192"
        assert str(made.PatientName).rstrip("=") == name.rstrip("=")


def test_names_in_gb2312_with_escape_sequences_arrive_in_utf8():
    charset = ["", "ISO 2022 IR 58"]  # the name as in PS3.5 Annex K
    name = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="
    person = PersonName(name, convert_encodings(charset))
    volume = spooled(make_volume(name=person, charset=charset))
    assert name.rstrip(b"=") in bytes_of(volume.sources[0])
    report, _ = written(present(volume), volume)
    assert str(report.PatientName) == "Zhang^XiaoDong=张^小东"


def test_headers_with_next_to_nothing_in_them_are_enough():
    volume = make_volume()
    for source in volume.sources:
        for keyword in (
            "PatientName",
            "PatientBirthDate",
            "PatientSex",
            "StudyDate",
            "StudyTime",
            "StudyID",
            "AccessionNumber",
            "ReferringPhysicianName",
            "SeriesNumber",
            "RequestAttributesSequence",
            "SpecificCharacterSet",
        ):
            if keyword in source:
                delattr(source, keyword)
    report, _ = written(present(volume), volume)
    assert report.PatientName == ""
    assert report.SeriesNumber == 9081
    assert "ReferencedRequestSequence" not in report


def test_what_the_hospital_got_wrong_is_copied_and_not_refused():
    volume = make_volume()
    for source in volume.sources:
        source.PatientSex = "X"
        source["PatientBirthDate"].validation_mode = 0
        source["PatientBirthDate"].value = "1950"
    report, segmentation = written(present(volume), volume)
    for made in (report, segmentation):
        assert made.PatientSex == "X"
        assert made["PatientBirthDate"].value == "1950"


def test_the_procedure_and_other_identifiers_are_the_source_s():
    volume = make_volume()
    for source in volume.sources:
        whole, partial = Dataset(), Dataset()
        whole.CodeValue, whole.CodingSchemeDesignator = "CT01", "99HIS"
        whole.CodeMeaning = "头颅CT平扫"
        partial.CodeValue, partial.CodingSchemeDesignator, partial.CodeMeaning = "", "", "CT"
        source.ProcedureCodeSequence = [whole, partial]
        other = Dataset()
        other.PatientID, other.TypeOfPatientID = "张-1", "TEXT"
        source.OtherPatientIDsSequence = [other]
    volume = spooled(volume)
    report, segmentation = written(present(volume), volume)
    (procedure,) = items(report, codes.DCM.ProcedureReported)
    assert procedure.ConceptCodeSequence[0].CodeMeaning == "头颅CT平扫"
    assert report.OtherPatientIDsSequence[0].PatientID == "张-1"
    assert check_objects([report, as_received(segmentation)], volume.sources, model=MODEL) == []


def test_numbers_that_are_none_count_as_missing():
    volume = make_volume()
    for source in volume.sources:
        del source.SeriesNumber
        source[0x00200011] = RawDataElement(
            Tag(0x00200011), "IS", 4, b"abc ", 0, is_implicit_VR=False, is_little_endian=True
        )
        source.TimezoneOffsetFromUTC = "+9900"
    report, _ = written(present(volume), volume)
    assert report.SeriesNumber == 9081
    assert report.ContentTime == "103005"


def test_no_warning_quotes_the_patient(recwarn):
    volume = make_volume(name="OneComponent")
    report, segmentation = written(present(volume), volume)
    check_objects([report, segmentation], volume.sources)
    assert not [warning for warning in recwarn if "OneComponent" in str(warning.message)]
    assert report.PatientName == "OneComponent"


def test_the_sop_class_is_taken_from_the_file_meta_where_the_data_set_lacks_it():
    source = as_spooled(make_volume().sources[0])
    del source.SOPClassUID
    report = no_assessment([source])
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPClassUID.name == "CT Image Storage"
    del source.file_meta.MediaStorageSOPClassUID
    with pytest.raises(ValueError, match="no SOPClassUID"):
        no_assessment([source])


def test_a_series_without_positions_can_be_reported_as_not_assessed():
    source = make_volume().sources[0]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(source, keyword)
    source.NumberOfFrames = 12
    assert no_assessment([source]).CompletionFlag == "PARTIAL"


def test_times_are_in_the_time_zone_that_the_source_declares():
    volume = make_volume()
    for source in volume.sources:
        source.TimezoneOffsetFromUTC = "+0800"
    report, _ = written(present(volume), volume)
    assert (report.ContentDate, report.ContentTime) == ("20261121", "183005")
    assert report.TimezoneOffsetFromUTC == "+0800"


def test_the_plain_text_names_no_patient():
    volume = make_volume()
    said = report_text(undetermined(volume).record)
    assert "undetermined (probability 55.0%). The model could not decide." in said.en
    assert "无法判定（概率 55.0%）。模型无法判定。" in said.zh
    for text in (said.en, said.zh):
        assert "P-0042" not in text
        assert "Zhang" not in text


def test_the_plain_text_names_the_slices_of_a_finding_without_outline():
    volume = make_volume()
    said = report_text(on_slices(volume).record)
    assert (
        "Midline shift: present (probability 97.3%), left, "
        "seen on slices 5, 10 to 11 (best on 10), without outline\n"
    ) in said.en
    assert (
        "中线移位：存在（概率 97.3%），左侧，见于第5、10至11层（第10层最清楚），无轮廓\n" in said.zh
    )
    assert "outline" not in report_text(present(volume).record).en


def test_a_finding_is_named_in_the_language_that_it_has_a_name_in():
    volume = make_volume()
    (finding,) = absent(volume).record.findings
    named = finding.model_copy(
        update={"label": Text(en="Bleed", zh=""), "reason": Text(en="", zh="")}
    )
    said = report_text(changed(absent(volume), findings=(named,)).record)
    assert "Bleed: absent (probability 3.1%)\n" in said.en
    assert "Bleed：未见（概率 3.1%）\n" in said.zh


def test_a_report_without_sources_is_refused():
    with pytest.raises(ValueError, match="needs the instances"):
        no_assessment([])


def test_an_object_that_no_report_can_be_on_is_refused():
    source = make_volume().sources[0]
    source.SOPClassUID = "1.2.3.4.5"
    with pytest.raises(ValueError, match=r"SOP class 1\.2\.3\.4\.5"):
        no_assessment([source])


def test_a_side_needs_a_site():
    volume = make_volume()
    assessment = present(volume)
    (finding,), (segment,) = assessment.record.findings, assessment.record.segments
    record = assessment.record.model_copy(
        update={
            "findings": (finding.model_copy(update={"site": None}),),
            "segments": (segment.model_copy(update={"site": None}),),
        }
    )
    with pytest.raises(ValueError, match="side but no site"):
        written(Assessment(record, assessment.masks), volume)


def test_a_tiny_segment_keeps_its_volume():
    volume = make_volume()
    assessment = present(volume)
    (finding,) = assessment.record.findings
    tiny = finding.measurements[0].model_copy(update={"value": 0.00123456})
    record = assessment.record.model_copy(
        update={"findings": (finding.model_copy(update={"measurements": (tiny,)}),)}
    )
    report, _ = written(Assessment(record, assessment.masks), volume)
    assert [number_of(item) for item in items(report, codes.SCT.Volume)] == [0.001235]
