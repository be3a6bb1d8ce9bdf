"""`overread retry`: what failed is taken up again, by the same run under another workflow."""

import numpy as np
from typer.testing import CliRunner

from node.cli import app
from node.outbox import Outbox, Trouble
from node.run_folder import RunFolder
from node.tables import RunState
from tests.node.configuration import write_config
from tests.node.test_completeness import LONG_AGO, Intake
from tests.slices import grid_affine, write_slices


def retry(folder, study):
    return CliRunner().invoke(app, ["retry", study, "--config", str(folder / "overread.toml")])


def failed_run(tmp_path):
    intake = Intake(tmp_path)
    slices = write_slices(tmp_path / "scan", np.zeros((6, 8, 8), np.int16), grid_affine())
    study = intake.receive(slices, LONG_AGO)
    (run,) = intake.look()
    return intake, study, run


def test_a_failed_run_is_queued_again_under_its_own_id(tmp_path):
    intake, study, run = failed_run(tmp_path)
    intake.catalogue.update_run(run, state=RunState.FAILED, error="e", remedy="r")
    folder = RunFolder(intake.settings.runs_dir / run)
    (folder.path / "assessment.json").write_text("{}")
    done = retry(tmp_path, study)
    assert done.exit_code == 0, done.output
    again = intake.catalogue.run(run)
    assert (again.state, again.attempt, again.error) == (RunState.QUEUED, 1, "")
    assert not folder.has_assessment()
    assert sum(map(len, folder.instances().values())) == 6
    assert intake.look() == [run]


def test_a_delivery_that_was_given_up_waits_again(tmp_path):
    intake, study, run = failed_run(tmp_path)
    outbox = Outbox(intake.catalogue, intake.settings.delivery)
    outbox.open(run, ["pacs"])
    (delivery,) = intake.catalogue.run(run).deliveries
    outbox.give_up(delivery, Trouble("no answer", "start the peer"))
    intake.catalogue.update_run(run, state=RunState.UNDELIVERABLE)
    assert retry(tmp_path, study).exit_code == 0
    again = intake.catalogue.run(run)
    assert again.state is RunState.DELIVERING
    assert outbox.claim_next("pacs") is not None


def test_a_study_that_is_not_there_is_an_error(tmp_path):
    write_config(tmp_path)
    done = retry(tmp_path, "1.2.3")
    assert done.exit_code == 1
