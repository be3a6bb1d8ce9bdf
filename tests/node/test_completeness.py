"""When a study is complete, and that its runs are opened once per content."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pydicom import dcmread

from node.catalogue import Catalogue
from node.completeness import Completeness
from node.received import Received
from node.settings import load_settings
from node.spool import InstanceKey, Spool
from node.steps import Workbench, select
from tests.node.configuration import write_config
from tests.slices import grid_affine, write_slices

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


class Intake:
    """A node's spool and catalogue, filled by hand."""

    def __init__(self, folder, started_at=LONG_AGO, **node):
        self.settings = load_settings(write_config(folder, **node))
        self.spool = Spool(self.settings.spool_dir)
        self.spool.prepare()
        self.catalogue = Catalogue(self.settings.database_url)
        self.completeness = Completeness(self.settings, self.spool, self.catalogue, started_at)
        self.enqueued = []

    def receive(self, paths, at):
        for path in paths:
            header = dcmread(path, stop_before_pixels=True)
            key = InstanceKey(
                header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID
            )
            self.spool.store(key, path.read_bytes())
            self.catalogue.add_received(
                [Received(key, header.SOPClassUID, "1.2.840.10008.1.2.1", "PACS", at)]
            )
        return key.study

    def look(self):
        self.enqueued.clear()
        self.completeness.open_runs(self.enqueued.append)
        return list(self.enqueued)


@pytest.fixture
def slices(tmp_path):
    return write_slices(tmp_path / "scan", np.zeros((6, 8, 8), np.int16), grid_affine())


def test_a_study_that_still_receives_is_left_alone(tmp_path, slices):
    intake = Intake(tmp_path, quiet_seconds=30)
    intake.receive(slices, datetime.now(UTC))
    assert intake.look() == []


def test_a_quiet_study_gets_one_run_however_often_one_looks(tmp_path, slices):
    intake = Intake(tmp_path)
    study = intake.receive(slices, datetime.now(UTC) - timedelta(seconds=10))
    assert len(intake.look()) == 1
    assert intake.look() == []
    (run,) = intake.catalogue.study(study).runs
    assert {one.name for one in run.milestones} == {"first received", "received", "complete"}


def test_duplicates_open_no_run_and_late_instances_open_one_that_supersedes(tmp_path, slices):
    intake = Intake(tmp_path)
    study = intake.receive(slices[:4], datetime.now(UTC) - timedelta(seconds=30))
    (first,) = intake.look()
    intake.receive(slices[:4], datetime.now(UTC) - timedelta(seconds=20))
    assert intake.look() == []
    intake.receive(slices[4:], datetime.now(UTC) - timedelta(seconds=10))
    (second,) = intake.look()
    runs = {run.id: run for run in intake.catalogue.study(study).runs}
    assert runs[second].supersedes == first
    assert runs[first].supersedes is None


def test_a_run_is_about_its_own_revision_whatever_comes_while_it_waits(tmp_path, slices):
    intake = Intake(tmp_path)
    study = intake.receive(slices[:4], datetime.now(UTC) - timedelta(seconds=30))
    (first,) = intake.look()
    intake.receive(slices[4:], datetime.now(UTC) - timedelta(seconds=10))
    (second,) = intake.look()
    bench = Workbench(intake.settings, intake.catalogue)
    for run_id, instances in ((first, 4), (second, 6), (first, 4)):
        run = intake.catalogue.run(run_id)
        (series,) = select(bench, run)
        assert len(bench.series(run, series).headers) == instances
    assert sum(map(len, intake.spool.instances(study).values())) == 6


def test_after_a_start_the_quiet_time_begins_anew(tmp_path, slices):
    intake = Intake(tmp_path, started_at=datetime.now(UTC), quiet_seconds=30)
    intake.receive(slices, LONG_AGO)
    assert intake.look() == []


def test_a_study_that_no_route_takes_says_so(tmp_path, slices):
    intake = Intake(tmp_path, rule='Modality == "MR"')
    study = intake.receive(slices, LONG_AGO)
    assert intake.look() == []
    assert "no route matches" in intake.catalogue.study(study).note


def test_a_crash_between_opening_and_considering_opens_the_same_run_again(tmp_path, slices):
    intake = Intake(tmp_path)
    study = intake.receive(slices, LONG_AGO)
    (run,) = intake.look()
    intake.catalogue.consider(study, at=LONG_AGO - timedelta(1), revision="", note="")
    assert intake.look() == [run]
    assert len(intake.catalogue.study(study).runs) == 1
