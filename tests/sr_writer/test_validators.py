"""Outside judges find no fault that is not argued in anything that we write.

The judges, and what of theirs is known to be false, are those of `overread validate`.
"""

from dataclasses import replace

import pytest
from pydicom import Dataset

from inference.assessment import Text, not_assessed
from node.outside_validators import DCENTVFY, DCIODVFY, DCMPSCHK, DSRDUMP, PIXELMED, VALIDATORS
from sr_writer.encoding import UTF_8
from sr_writer.kinds import LANGUAGES, Kind
from sr_writer.writing import write_results
from tests.sr_writer.acquisitions import ACQUISITIONS, acquired
from tests.sr_writer.series import (
    MODEL,
    NARRATIVE,
    OBLIQUE,
    PROVENANCE,
    absent,
    as_spooled,
    instances_of,
    make_volume,
    mixed,
    on_slices,
    present,
    spooled,
    two_segments,
    undetermined,
)
from tests.sr_writer.validators import dsrdump

pytestmark = pytest.mark.peers


def nothing(_volume):
    reason = Text(en="Slices 12 to 14 are missing.", zh="缺少第12至14层。")
    return not_assessed(MODEL, (reason,), PROVENANCE.written_at)


def overlapping(volume):
    return two_segments(volume, overlap=True)


CASES = [present, on_slices, absent, undetermined, mixed, overlapping, nothing]
PIXELMED_CASES = [on_slices, absent, nothing]
"""Beside `mixed`: one Java start a document, so one document for each shape of the tree."""


def write_all(assess, folder, volume):
    """Write every kind of object in every form, and return paths and datasets together."""
    assessment = assess(volume)
    results = write_results(
        assessment,
        instances_of(volume),
        volume if assessment.record.completed else None,
        PROVENANCE,
        predecessors={},
        kinds=frozenset(Kind),
        languages=LANGUAGES,
    )
    written = []
    for number, result in enumerate(results):
        path = folder / f"{number}-{result.kind}-{result.rank}{result.language}.dcm"
        result.dataset.save_as(path, enforce_file_format=True)
        written.append((path, result))
    return written


def judged(validator, folder, written):
    """What a validator says of those results that it knows, and that is not argued."""
    paths = [path for path, result in written if validator.takes(result.dataset)]
    return validator.opinion(paths).problems if paths else ()


def skip_without(validator):
    if missing := validator.missing():
        pytest.skip(missing)


@pytest.mark.parametrize("validator", [DCIODVFY, DSRDUMP, DCMPSCHK], ids=lambda each: each.name)
@pytest.mark.parametrize("assess", CASES)
def test_no_fault_is_found_in_any_kind_of_result(validator, assess, tmp_path):
    skip_without(validator)
    written = write_all(assess, tmp_path, spooled(make_volume(OBLIQUE)))
    assert judged(validator, tmp_path, written) == ()


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_dciodvfy_finds_no_fault_in_results_on_any_acquisition(name, tmp_path):
    skip_without(DCIODVFY)
    assert judged(DCIODVFY, tmp_path, write_all(mixed, tmp_path, spooled(acquired(name)))) == ()


@pytest.mark.parametrize("assess", [mixed, nothing])
def test_dcentvfy_finds_results_and_sources_to_be_one_study(assess, tmp_path):
    """The source is in UTF-8 here: dcentvfy compares bytes, not text."""
    skip_without(DCENTVFY)
    volume = spooled(make_volume(OBLIQUE, charset=UTF_8))
    paths = [path for path, _ in write_all(assess, tmp_path, volume)]
    for number, header in enumerate(instances_of(volume)):
        paths.append(tmp_path / f"source-{number}.dcm")
        as_spooled(header).save_as(paths[-1], enforce_file_format=True)
    assert DCENTVFY.opinion(paths).problems == ()


@pytest.mark.parametrize("assess", [mixed, *PIXELMED_CASES])
def test_pixelmed_finds_no_error_in_the_best_report(assess, tmp_path):
    skip_without(PIXELMED)
    written = write_all(assess, tmp_path, spooled(make_volume(OBLIQUE)))
    best = [each for each in written if each[1].kind is Kind.REPORT and each[1].rank == 0]
    assert judged(PIXELMED, tmp_path, best) == ()


@pytest.mark.parametrize("name", ["enhanced", "mosaic"])
def test_pixelmed_finds_no_error_in_references_to_frames_and_mosaics(name, tmp_path):
    skip_without(PIXELMED)
    written = write_all(mixed, tmp_path, spooled(acquired(name)))
    best = [each for each in written if each[1].kind is Kind.REPORT and each[1].rank == 0]
    assert judged(PIXELMED, tmp_path, best) == ()


@pytest.mark.parametrize("assess", CASES)
def test_dsrdump_reads_both_languages(assess, tmp_path):
    skip_without(DSRDUMP)
    path, _ = next(
        each
        for each in write_all(assess, tmp_path, spooled(make_volume(OBLIQUE)))
        if each[1].kind is Kind.REPORT
    )
    said = dsrdump(path)
    assert "Comprehensive 3D SR Document" in said
    assert "Unverified second opinion by an artificial intelligence." in said
    assert "人工智能第二意见，未经核实。" in said
    assert (NARRATIVE.zh in said) == ("No assessment was made" not in said)


def test_dsrdump_reads_frame_numbers(tmp_path):
    skip_without(DSRDUMP)
    volume = spooled(acquired("enhanced"))
    written = write_all(on_slices, tmp_path, volume)
    path = next(path for path, result in written if result.kind is Kind.REPORT)
    said = dsrdump(path)
    for index in (9, 4, 10):
        assert f"(CTe image,,{volume.frame_numbers[index]})" in said


def test_what_a_validator_says_quotes_no_patient(tmp_path):
    skip_without(DCIODVFY)
    ((path, result), *_) = write_all(nothing, tmp_path, spooled(make_volume()))
    made: Dataset = replace(result).dataset
    made.PatientName = "Zhang^" + "Secret" * 20
    made.PatientBirthDate = "19991399"
    made.save_as(path, enforce_file_format=True)
    said = DCIODVFY.opinion([path]).problems
    assert said
    assert not [line for line in said if "Secret" in line or "19991399" in line]


@pytest.mark.parametrize("validator", VALIDATORS, ids=lambda each: each.name)
def test_what_is_not_installed_is_said_with_the_remedy(validator, monkeypatch):
    monkeypatch.setattr("node.outside_validators.program", lambda _name: None)
    monkeypatch.setattr("node.outside_validators.shutil.which", lambda _name: None)
    assert "install" in (validator.missing() or "")
