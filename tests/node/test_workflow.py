"""The workflow engine, for real, on SQLite: retried, forgotten, and failed where it must be."""

import threading
import time

import numpy as np
import pytest
from dbos import DBOS

from node import steps, workflow
from node.steps import RunFailedError, Workbench, WorkerStoppingError
from node.tables import RunState
from tests.node.test_completeness import LONG_AGO, Intake
from tests.slices import grid_affine, write_slices


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A study with one run queued, steps that do nothing, and the engine running."""
    intake = Intake(tmp_path, started_at=LONG_AGO)
    slices = write_slices(tmp_path / "scan", np.zeros((6, 8, 8), np.int16), grid_affine())
    intake.receive(slices, LONG_AGO)
    done = []
    monkeypatch.setattr(steps, "assemble_first", lambda _bench, _run, series: series[0])
    monkeypatch.setattr(steps, "assess", lambda *_: "nothing")
    monkeypatch.setattr(steps, "write", lambda _bench, run, _series: done.append(run.id))
    monkeypatch.setattr(steps, "check", lambda *_: None)
    monkeypatch.setattr(workflow.delivery, "attempt", lambda *_: None)
    bench = Workbench(intake.settings, intake.catalogue)
    workflow.launch(bench)
    (run,) = intake.look()
    yield intake.catalogue, run, done
    workflow.stop()


def wait_for(catalogue, run, state):
    deadline = time.monotonic() + 20
    while catalogue.run(run).state is not state:
        assert time.monotonic() < deadline, catalogue.run(run).state
        time.sleep(0.05)


def test_a_run_goes_through_once_however_often_it_is_queued(engine):
    catalogue, run, done = engine
    for _ in range(3):
        workflow.enqueue(run)
    wait_for(catalogue, run, RunState.DELIVERING)
    time.sleep(1)
    assert done == [run]
    reached = {milestone.name for milestone in catalogue.run(run).milestones}
    assert {"assembled", "assessed", "written", "checked"} <= reached


def test_a_run_that_fails_says_why_and_a_retry_takes_it_through(engine, monkeypatch):
    catalogue, run, done = engine

    def refuse(*_):
        raise RunFailedError("held back", "report it")

    monkeypatch.setattr(steps, "check", refuse)
    workflow.enqueue(run)
    wait_for(catalogue, run, RunState.FAILED)
    assert (catalogue.run(run).error, catalogue.run(run).remedy) == ("held back", "report it")
    monkeypatch.setattr(steps, "check", lambda *_: None)
    catalogue.retry(catalogue.run(run).study_uid)
    workflow.look_after_open_runs()
    wait_for(catalogue, run, RunState.DELIVERING)
    assert len(done) == 2


def test_a_defect_fails_the_run_and_not_the_worker(engine, monkeypatch):
    catalogue, run, _ = engine
    monkeypatch.setattr(steps, "write", lambda *_: 1 / 0)
    workflow.enqueue(run)
    wait_for(catalogue, run, RunState.FAILED)
    assert "ZeroDivisionError" in catalogue.run(run).error
    assert "overread retry" in catalogue.run(run).remedy


def test_a_passing_trouble_is_tried_again(engine, monkeypatch):
    catalogue, run, _ = engine
    tries = []

    def once_unwell(*_):
        tries.append(1)
        if len(tries) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(steps, "write", once_unwell)
    workflow.enqueue(run)
    wait_for(catalogue, run, RunState.DELIVERING)
    assert len(tries) == 2


def test_a_run_that_is_forgotten_can_be_made_anew(engine):
    catalogue, run, done = engine
    workflow.enqueue(run)
    wait_for(catalogue, run, RunState.DELIVERING)
    workflow.forget(catalogue.run(run))
    assert DBOS.get_workflow_status(f"{run}.0") is None
    workflow.enqueue(run)
    deadline = time.monotonic() + 20
    while len(done) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_that_stops_during_a_step_repeats_it_at_the_next_start(engine, monkeypatch):
    catalogue, run, done = engine
    reached = threading.Event()

    def stopped(*_):
        reached.set()
        raise WorkerStoppingError

    monkeypatch.setattr(steps, "assess", stopped)
    workflow.enqueue(run)
    assert reached.wait(20)
    bench = workflow._bench
    workflow.stop()
    assert catalogue.run(run).state is RunState.RUNNING
    monkeypatch.setattr(steps, "assess", lambda *_: "nothing")
    workflow.launch(bench)
    wait_for(catalogue, run, RunState.DELIVERING)
    assert done == [run]
