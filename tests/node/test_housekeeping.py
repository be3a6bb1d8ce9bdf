"""What happens by the clock: retention takes what is over, the disk is watched, runs are queued."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from node import housekeeping
from node.steps import Workbench
from node.tables import RunState, Study
from tests.node.test_completeness import Intake
from tests.slices import grid_affine, write_slices

OLD = datetime.now(UTC) - timedelta(days=40)


@pytest.fixture
def old_study(tmp_path):
    """A study past retention with one run, and the workbench."""
    intake = Intake(tmp_path, started_at=OLD)
    slices = write_slices(tmp_path / "scan", np.zeros((6, 8, 8), np.int16), grid_affine())
    study = intake.receive(slices, OLD)
    (run,) = intake.look()
    bench = Workbench(intake.settings, intake.catalogue)
    return bench, study, run


@pytest.mark.parametrize("state", [RunState.DELIVERED, RunState.FAILED, RunState.UNDELIVERABLE])
def test_a_study_past_retention_whose_runs_are_over_is_removed(old_study, state):
    bench, study, run = old_study
    bench.catalogue.update_run(run, state=state)
    forgotten = []
    housekeeping.remove_expired(bench, forgotten.append)
    assert [one.id for one in forgotten] == [run]
    assert bench.catalogue.study(study) is None
    assert not bench.spool.instances(study)
    assert not bench.folder(run).path.exists()


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.RUNNING, RunState.DELIVERING])
def test_a_study_past_retention_that_is_under_way_stays(old_study, state):
    bench, study, run = old_study
    bench.catalogue.update_run(run, state=state)
    housekeeping.remove_expired(bench, pytest.fail)
    assert bench.catalogue.study(study) is not None
    assert sum(map(len, bench.spool.instances(study).values())) == 6


def test_a_study_within_retention_stays(old_study):
    bench, study, run = old_study
    bench.catalogue.update_run(run, state=RunState.DELIVERED)
    with bench.catalogue.session() as session:
        session.get(Study, study).last_received = datetime.now(UTC)
    housekeeping.remove_expired(bench, pytest.fail)
    assert bench.catalogue.study(study) is not None
