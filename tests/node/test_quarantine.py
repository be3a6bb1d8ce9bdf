"""What the gate refuses is put aside with the reasons, never sent, and made anew by a retry."""

import os
from types import SimpleNamespace

import pytest
from pydicom import Dataset, dcmread
from structlog.testing import capture_logs

from node import run_folder, steps
from node.catalogue import Catalogue
from node.holdings import Holdings, Level
from node.run_folder import RunFolder
from node.settings import load_settings
from node.steps import RunFailedError, Workbench
from node.tables import RunState
from tests.node.configuration import write_config
from tests.node.studies import open_run, receive, save_everything
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
    settings = load_settings(write_config(tmp_path))
    bench = Workbench(settings, Catalogue(settings.database_url))
    study = volume.sources[0].StudyInstanceUID
    receive(bench.catalogue, study, instances=3)
    open_run(bench.catalogue, study, RUN.id, RunState.RUNNING)
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


def test_what_the_gate_passes_is_held_once_its_delivery_begins(bench, volume):
    study = volume.sources[0].StudyInstanceUID
    holdings = Holdings(bench.settings, bench.catalogue)
    for _ in range(2):  # a step may run twice
        steps.check(bench, RUN, "1.2.3")
    assert len(holdings.instances(study)) == 3
    bench.catalogue.update_run(RUN.id, state=RunState.DELIVERING)
    held = holdings.instances(study)
    folder = bench.folder(RUN.id)
    richest = folder.richest()
    objects = [folder.path / one.name for one in folder.results() if one.instance_uid in richest]
    assert {one.path for one in held} >= set(objects)
    assert len(held) == 3 + len(objects)
    for one in held:
        if one.path in objects:
            written = dcmread(one.path, stop_before_pixels=True)
            assert one.key.series == written.SeriesInstanceUID
            assert one.transfer_syntax == written.file_meta.TransferSyntaxUID
    (listed,) = bench.catalogue.worklist()
    assert len(listed.series) == 1  # as received; what the run made is no part of its content
    (answer,) = holdings.find(Level.STUDY, Dataset())
    assert {"CT", "SEG", "SR"} <= set(answer.ModalitiesInStudy)
    assert answer.NumberOfStudyRelatedInstances == len(held)
    bench.catalogue.remove_study(study)
    assert holdings.instances(study) == []
    assert list(holdings.find(Level.STUDY, Dataset())) == []


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
