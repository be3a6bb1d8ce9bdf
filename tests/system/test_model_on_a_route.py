"""A converted checkpoint, live on a route: its findings reach the PACS, with slices as evidence."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from node.cli import app
from node.store_scu import read_instance, send
from node.tables import RunState
from tests.node.configuration import free_ports, write_config
from tests.system.documents import reports
from tests.system.peers import Node, Storescp, needs_dcmtk, running

pytestmark = [pytest.mark.peers, needs_dcmtk]

CARD = Path(__file__).parents[2] / "config" / "models" / "ct_chest.toml"


def test_a_checkpoint_answers_on_a_route(tmp_path, head):
    pytest.importorskip("torch", reason="the extra 'export' is not installed")
    from tests.inference.export.llava_checkpoints import llava_checkpoint  # noqa: PLC0415

    pacs_port = free_ports(1)[0]
    config = write_config(tmp_path, pacs_port=pacs_port, quiet_seconds=3)
    checkpoint = llava_checkpoint(tmp_path / "published", "llava_qwen2")
    words = ["models", "add", "chest", "--from", checkpoint, "--card", CARD, "--config", config]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    config.write_text(config.read_text().replace("builtin/head_ct", "chest"))
    node, pacs = Node(config), Storescp(tmp_path / "pacs", pacs_port)
    with running(pacs, node):
        node.start()
        send([read_instance(path) for path in head.paths], node.peer, "PACS")
        (run,) = node.await_runs(head.study_uid)
        assert run.state is RunState.DELIVERED, run.error
    (report,) = reports(pacs.received("SR"))
    assert not pacs.received("SEG")
    items = [one for one in report.iterall() if one.keyword in {"TextValue", "CodeMeaning"}]
    said = "\n".join(str(item.value) for item in items)
    for finding in ("Pleural effusion", "Pneumothorax", "Pericardial effusion", "Cardiomegaly"):
        assert finding in said
    assert "have not been calibrated" in said
    assert "as pictures" in said
