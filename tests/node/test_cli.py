"""`overread send` and `overread status`, as their users type them."""

import json

import numpy as np
import pytest
from pynetdicom import AE, evt
from typer.testing import CliRunner

from node.cli import app
from node.settings import load_settings
from tests.node.configuration import write_config
from tests.node.test_completeness import LONG_AGO, Intake
from tests.slices import grid_affine, write_slices


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def scan(tmp_path):
    write_slices(tmp_path / "scan", np.zeros((6, 8, 8), np.int16), grid_affine())
    (tmp_path / "scan" / "notes.txt").write_text("no DICOM")
    return tmp_path / "scan"


@pytest.fixture
def peer(tmp_path):
    config, received = write_config(tmp_path), []

    def store(event):
        received.append(event.assoc.requestor.ae_title)
        return 0x0000

    entity = AE(ae_title="PACS")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    port = load_settings(config).peers[0].port
    entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    yield config, port, received
    entity.shutdown()


def test_a_folder_is_sent_to_a_configured_peer_and_what_is_no_dicom_is_named(peer, scan):
    config, _, received = peer
    done = run("send", scan, "--to", "pacs", "--config", config)
    assert done.exit_code == 0, done.output
    assert received == ["OVERREAD"] * 6
    assert "6 of 6 taken by pacs" in done.output
    assert "notes.txt" in done.output.replace("\n", "")


def test_a_peer_can_be_written_out_and_the_calling_title_given(peer, scan):
    _, port, received = peer
    done = run("send", scan, "--to", f"PACS@127.0.0.1:{port}", "--calling", "CT1")
    assert done.exit_code == 0, done.output
    assert received == ["CT1"] * 6


@pytest.mark.parametrize("to", ["nobody", "PACS@127.0.0.1:1"])
def test_a_peer_that_is_not_there_is_an_error(peer, scan, to):
    done = run("send", scan, "--to", to, "--config", peer[0])
    assert done.exit_code == 1
    assert "taken" not in done.output


def test_nothing_to_send_is_an_error(peer, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run("send", tmp_path / "empty", "--to", "pacs", "--config", peer[0]).exit_code == 1


def test_status_shows_where_each_study_stands(tmp_path, scan):
    intake = Intake(tmp_path)
    study = intake.receive(sorted(scan.glob("*.dcm")), LONG_AGO)
    intake.look()
    done = run("status", "--json", "--config", tmp_path / "overread.toml")
    (row,) = json.loads(done.output)
    assert row["study_uid"] == study
    assert row["state"] == "queued"
    assert run("status", "--config", tmp_path / "overread.toml").exit_code == 0


def test_a_bad_configuration_ends_every_command_with_its_mistakes(tmp_path):
    config = write_config(tmp_path, quite_seconds=1)
    for command in ("serve", "status"):
        done = run(command, "--config", config)
        assert done.exit_code == 1
        assert "did you mean 'quiet_seconds'" in done.output
