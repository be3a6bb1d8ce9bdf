"""A report in words says all that was found, in one language, for viewers that show only text."""

from copy import deepcopy
from dataclasses import replace

import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import BasicTextSRStorage

from inference.assessment import Assessment, Text, not_assessed
from sr_writer.conformance import check_objects
from sr_writer.content_items import is_named, value_of, walk
from sr_writer.text_report import write_text_reports
from sr_writer.wording import DEMONSTRATION, UNVERIFIED, finding_line, narrative
from tests.sr_writer.acquisitions import acquired
from tests.sr_writer.series import (
    MODEL,
    OBLIQUE,
    PROVENANCE,
    as_received,
    bytes_of,
    instances_of,
    make_volume,
    mixed,
    present,
    spooled,
)

VOLUME = spooled(make_volume(OBLIQUE))


def written(assessment, volume=VOLUME):
    """The English and the Chinese document."""
    texts = write_text_reports(assessment, instances_of(volume), volume, PROVENANCE, ["en", "zh"])
    return [as_received(text) for text in texts]


def said(report):
    return [item.TextValue for item in walk(report) if "TextValue" in item]


def images(item):
    return [
        each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for each in walk(item)
        if each.ValueType == "IMAGE"
    ]


REPORTS = written(mixed(VOLUME))


@pytest.mark.parametrize(
    ("index", "language", "meaning"), [(0, "en", "English"), (1, "zh", "Chinese")]
)
def test_it_is_in_one_language_and_says_every_finding(index, language, meaning):
    report, record = REPORTS[index], mixed(VOLUME).record
    assert report.SOPClassUID == BasicTextSRStorage
    (spoken,) = report.ContentSequence[:1]
    assert is_named(spoken, codes.DCM.LanguageOfContentItemAndDescendants)
    assert value_of(spoken) == language
    assert spoken.ConceptCodeSequence[0].CodeMeaning == meaning
    lines = [getattr(finding_line(finding), language) for finding in record.findings]
    words = said(report)
    assert [words.index(line) for line in lines] == sorted(words.index(line) for line in lines)
    for text in (UNVERIFIED, DEMONSTRATION, narrative(record), record.limitations[0]):
        assert any(getattr(text, language) in each for each in words)
    other = "zh" if language == "en" else "en"
    assert not any(getattr(text, other) in words for text in (UNVERIFIED, DEMONSTRATION))


def test_viewers_take_it_for_text_and_not_for_measurements():
    for report in REPORTS:
        assert report.ConceptNameCodeSequence[0].CodeValue == "18748-4"
        assert {item.ValueType for item in walk(report)} == {
            "CODE", "CONTAINER", "IMAGE", "TEXT", "UIDREF",
        }  # fmt: skip


def test_a_finding_and_the_key_images_name_their_slices():
    record = mixed(VOLUME).record
    report, _ = REPORTS
    findings = [item for item in walk(report) if is_named(item, codes.cid7002.Finding)]
    best = [finding.evidence and finding.evidence.best_slice for finding in record.findings]
    expected = [[] if at is None else [VOLUME.sources[at].SOPInstanceUID] for at in best]
    assert [images(item) for item in findings] == expected
    (keys,) = [item for item in walk(report) if is_named(item, codes.cid7001.KeyImages)]
    assert images(keys) == [VOLUME.sources[at].SOPInstanceUID for at in record.key_slices]


@pytest.mark.parametrize("charset", ["utf-8", "gb18030"])
def test_its_words_fit_the_character_sets_of_peers(charset):
    for report in REPORTS:
        for words in said(report):
            assert words.encode(charset).decode(charset) == words


def test_what_is_said_in_one_language_only_is_left_out_of_neither():
    assessment = present(VOLUME)
    record = assessment.record.model_copy(
        update={"limitations": (Text(en="The CPU was used.", zh=""),)}
    )
    _, chinese = written(Assessment(record, assessment.masks))
    (item,) = [each for each in walk(chinese) if "CPU" in str(each.get("TextValue"))]
    assert [value_of(child) for child in item.ContentSequence] == ["en"]
    assert check_objects([chinese], VOLUME.sources, VOLUME, model=MODEL) == []


def test_nothing_assessed_is_said_too():
    why = Text(en="Slices 12 to 14 are missing.", zh="缺少第12至14层。")
    assessment = not_assessed(MODEL, (why,), PROVENANCE.written_at)
    texts = write_text_reports(assessment, VOLUME.sources, None, PROVENANCE, ["en", "zh"])
    for text, reason in zip(texts, (why.en, why.zh), strict=True):
        assert any(reason in words for words in said(text))
        assert text.CompletionFlag == "PARTIAL"
        assert check_objects([as_received(text)], VOLUME.sources, None, model=MODEL) == []


def test_a_retry_makes_the_same_and_other_content_another():
    again = written(mixed(VOLUME))
    assert [bytes_of(each) for each in again] == [bytes_of(each) for each in REPORTS]
    revised = replace(PROVENANCE, content="study-revision-2/route-head")
    (other,) = write_text_reports(mixed(VOLUME), VOLUME.sources, VOLUME, revised, ["en"])
    assert len({other.SOPInstanceUID, *(each.SOPInstanceUID for each in REPORTS)}) == 3


@pytest.mark.parametrize("name", ["enhanced", "mosaic", "tilted, gapped"])
def test_a_text_on_any_acquisition_passes_the_gate(name):
    volume = spooled(acquired(name))
    texts = written(mixed(volume), volume)
    assert check_objects(texts, instances_of(volume), volume, model=MODEL) == []


def item(report, code):
    return next(each for each in walk(report) if is_named(each, code))


def spoil_text(words, replacement):
    def fault(report):
        for each in walk(report):
            if "TextValue" in each:
                each.TextValue = each.TextValue.replace(words, replacement)

    return fault


def number(report):
    item(report, codes.cid7002.Finding).ValueType = "NUM"


def wrong_relationship(report):
    item(report, codes.cid7002.Finding).RelationshipType = "HAS PROPERTIES"


def stranger(report):
    reference = item(report, codes.cid7002.Finding).ContentSequence[0].ReferencedSOPSequence[0]
    reference.ReferencedSOPInstanceUID = "2.25.1234567890"


def speak(language):
    def fault(report):
        spoken = item(report, codes.DCM.LanguageOfContentItemAndDescendants)
        spoken.ConceptCodeSequence[0].CodeValue = language

    return fault


def retitle(report):
    report.ConceptNameCodeSequence[0].CodeValue = "126000"


FAULTS = {
    "verified": (spoil_text("Unverified", "Verified"), "nowhere says that this is an unverified"),
    "no demonstration": (spoil_text("Demonstration", "Good"), "model is a demonstration"),
    "whose words": (spoil_text("Text written by the model", "Text"), "Summary does not"),
    "a tab": (spoil_text("lesion", "le\tsion"), "control characters"),
    "another language": (speak("fr"), "which language"),
    "the other language": (speak("zh"), "nowhere says that this is an unverified"),
    "a number": (number, "none of Basic Text SR"),
    "a wrong relationship": (wrong_relationship, "HAS PROPERTIES of item 121071"),
    "an image of a stranger": (stranger, "neither source nor sent along"),
    "a title for measurements": (retitle, "is not of TID 2000"),
    "final": (lambda report: setattr(report, "PreliminaryFlag", "FINAL"), "not PRELIMINARY"),
    "verified flag": (lambda r: setattr(r, "VerificationFlag", "VERIFIED"), "not UNVERIFIED"),
    "no reason": (lambda r: delattr(r, "CompletionFlagDescription"), "what makes the report"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_stopped_by_the_check_that_is_meant_for_it(fault):
    spoil, reason = FAULTS[fault]
    report = deepcopy(REPORTS[0])
    spoil(report)
    problems = check_objects([report], VOLUME.sources, VOLUME, model=MODEL)
    assert any(reason in problem for problem in problems), problems
