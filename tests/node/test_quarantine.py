"""What the gate refuses is put aside with the reasons, never sent, and made anew by a retry."""

import os
from types import SimpleNamespace

import pytest
from pydicom import dcmread
from structlog.testing import capture_logs

from node import run_folder, steps
from node.run_folder import RunFolder
from node.settings import load_settings
from node.steps import RunFailedError, Workbench
from tests.node.configuration import write_config
from tests.node.studies import save_everything
from tests.sr_writer.series import make_volume, present, spooled

RUN = SimpleNamespace(id="run", route="head", study_uid="1.2", supersedes=None)


@pytest.fixture(scope="module")
def volume():
    return spooled(make_volume(name="Wang^XiaoDong", charset="ISO_IR 192"))


@pytest.fixture
def bench(tmp_path, volume, monkeypatch):
    """A workbench whose run has written its objects."""
    assembled = SimpleNamespace(headers=volume.sources, volume=volume)
    monkeypatch.setattr(Workbench, "series", lambda *_: assembled)
    bench = Workbench(load_settings(write_config(tmp_path)), None)
    folder = bench.folder(RUN.id)
    folder.save_instances({"1.2.3": ("1.2.3.4",)})
    save_everything(folder, present(volume), volume)
    return bench


def spoil(folder):
    """Put another patient into the report."""
    path = next(path for path in folder.object_paths() if path.name == "report.dcm")
    report = dcmread(path)
    report.PatientID = "SOMEBODY-ELSE"
    report.save_as(path)


def test_what_the_gate_passes_stays_where_it_is(bench):
    folder = bench.folder(RUN.id)
    before = folder.object_paths()
    steps.check(bench, RUN, "1.2.3")
    assert folder.object_paths() == before
    assert folder.quarantine_reasons() == ()


def test_what_the_gate_refuses_is_put_aside_and_fails_the_run_loudly(bench):
    folder = bench.folder(RUN.id)
    spoil(folder)
    names = {path.name for path in folder.object_paths()}
    with capture_logs() as logs, pytest.raises(RunFailedError) as failed:
        steps.check(bench, RUN, "1.2.3")
    assert "held back, not sent: 1 problem: SR: PatientID is not the source's" in str(failed.value)
    assert "runs/run/quarantine/reasons.txt" in failed.value.remedy
    assert "SOMEBODY" not in str(failed.value)
    assert folder.object_paths() == []
    aside = folder.path / "quarantine"
    assert {path.name for path in aside.iterdir()} == {*names, "reasons.txt", "results.json"}
    (reason,) = folder.quarantine_reasons()
    assert "PatientID" in reason
    (event,) = [entry for entry in logs if entry["event"] == "results.quarantined"]
    assert (event["problems"], event["log_level"]) == (1, "error")


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_crash_while_objects_are_put_aside_leaves_nothing_to_send(bench, monkeypatch, after):
    folder = bench.folder(RUN.id)
    spoil(folder)
    names = {path.name for path in folder.object_paths()}
    moves = []
    rename = os.rename

    def crash(self, target):
        moves.append(target)
        if len(moves) > after:
            raise KeyboardInterrupt
        rename(self, target)
        return target

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            steps.check(bench, RUN, "1.2.3")
    with pytest.raises(RunFailedError, match="PatientID"):  # the step is repeated
        steps.check(bench, RUN, "1.2.3")
    assert folder.object_paths() == []
    assert names <= {path.name for path in (folder.path / "quarantine").iterdir()}
    assert not any((folder.path / name).exists() for name in names)


def test_a_retry_starts_clean(bench):
    folder = bench.folder(RUN.id)
    spoil(folder)
    with pytest.raises(RunFailedError):
        steps.check(bench, RUN, "1.2.3")
    folder.clear()
    assert [path.name for path in folder.path.iterdir()] == ["instances.json"]
    assert RunFolder(folder.path).quarantine_reasons() == ()
