"""`overread validate` says what the gate and the outside validators say of files by hand."""

import json

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from node import outside_validators, validation
from node.assembly import assemble
from node.cli import app
from node.outside_validators import DCIODVFY, Validator
from node.simulated_scanner import write_head_study
from sr_writer.kinds import LANGUAGES, Kind
from sr_writer.writing import write_results
from tests.sr_writer.series import PROVENANCE, present

QUICK = tuple(each for each in outside_validators.VALIDATORS if each.name != "PixelMed")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study and the results of its head series, as files in two folders."""
    folder = tmp_path_factory.mktemp("validate")
    scanned = write_head_study(folder / "source", seed=3, slices=24, matrix=64)
    assembled = assemble(scanned.paths[1:])
    (folder / "results").mkdir()
    for number, result in enumerate(
        write_results(
            present(assembled.volume),
            assembled.headers,
            assembled.volume,
            PROVENANCE,
            predecessors={},
            kinds=frozenset(Kind),
            languages=LANGUAGES,
        )
    ):
        path = folder / "results" / f"{number:02}-{result.kind}.dcm"
        result.dataset.save_as(path, enforce_file_format=True)
    return folder


@pytest.fixture(autouse=True)
def without_pixelmed(monkeypatch):
    """It takes seven seconds a document, and has tests of its own."""
    monkeypatch.setattr(validation, "VALIDATORS", QUICK)


def run(*arguments):
    done = CliRunner().invoke(app, ["validate", *map(str, arguments)])
    return done.exit_code, done.output


def said(*arguments):
    status, output = run("--json", *arguments)
    return status, json.loads(output)


def spoil(study, tmp_path, **values):
    """A copy of the report with other values."""
    report = dcmread(next((study / "results").glob("*-report.dcm")))
    for keyword, value in values.items():
        setattr(report, keyword, value)
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    return tmp_path / "report.dcm"


def test_good_results_with_their_source_have_no_problem(study):
    status, shown = said(study / "source", study / "results")
    (judgement,) = shown["judgements"]
    assert judgement["problems"] == []
    assert "became a volume" in judgement["checked"]
    assert len(judgement["results"]) == len(list((study / "results").iterdir()))
    assert [each for each in shown["outside"] if each["opinion"]["problems"]] == []
    assert status == 0


def test_what_the_gate_finds_ends_with_status_1(study, tmp_path):
    path = spoil(study, tmp_path, PatientID="P-0043")
    status, shown = said(study / "source", path)
    assert status == 1
    assert any(
        "PatientID is not the source's" in each for each in shown["judgements"][0]["problems"]
    )
    assert "P-0043" not in json.dumps(shown)


def test_without_source_only_the_result_itself_is_checked_and_that_is_said(study, tmp_path):
    status, shown = said(spoil(study, tmp_path, CompletionFlag="DONE", PatientID="P-0043"))
    (judgement,) = shown["judgements"]
    assert status == 1
    assert "by themselves only" in judgement["checked"]
    assert any("CompletionFlag is DONE" in each for each in judgement["problems"])
    assert not any("PatientID" in each for each in judgement["problems"])


def test_outside_validators_are_named_with_what_they_say(study, tmp_path):
    if missing := DCIODVFY.missing():
        pytest.skip(missing)
    status, output = run(spoil(study, tmp_path, CompletionFlag="DONE"))
    assert status == 1
    assert "dciodvfy: " in output
    assert "Unrecognized enumerated value" in output
    assert "known and no fault" in output


def test_validators_that_are_not_there_are_named_with_the_remedy(study, monkeypatch):
    absent = Validator("other", lambda _paths: [], lambda: "other is not installed: apt install it")
    monkeypatch.setattr(validation, "VALIDATORS", (absent,))
    status, output = run(study / "source", study / "results")
    assert status == 0
    assert "not asked other is not installed: apt install it" in output


def test_a_validator_that_breaks_off_is_no_proof(study, monkeypatch):
    def broken(_paths):
        raise OSError("ended by signal 11")

    monkeypatch.setattr(validation, "VALIDATORS", (Validator("other", broken, lambda: None),))
    status, output = run(study / "source", study / "results")
    assert status == 1
    assert "other: ended by signal 11" in output


def test_files_that_are_no_results_are_asked_for_others(study, tmp_path):
    (tmp_path / "notes.txt").write_text("no DICOM")
    status, _ = run(tmp_path)
    assert status == 2
    status, _ = run(study / "source")
    assert status == 2
