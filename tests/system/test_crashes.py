"""kill -9, anywhere: every acknowledged instance is there, one SR and one SEG reach the PACS."""

import random
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from node.store_scu import PeerError, read_instance, send
from node.tables import RunState
from tests.node.configuration import free_ports, write_config
from tests.system.documents import reports
from tests.system.peers import REPOSITORY, Node, Storescp, await_true, needs_dcmtk, running

pytestmark = [pytest.mark.peers, needs_dcmtk]

CRASH_AT = Path(__file__).parent / "crash_at.py"
HANGING_MODEL = Path(__file__).parent / "hanging_model.py"
STEPS = ("select", "assemble", "assess", "write", "check", "deliver", "settle")


def check_everything_arrived_once(node, pacs, study):
    (run,) = node.await_runs(study.study_uid)
    assert run.state is RunState.DELIVERED, run.error
    spooled = {path.stem for path in (node.settings.spool_dir / study.study_uid).rglob("*.dcm")}
    assert spooled == {read_instance(path).instance_uid for path in study.paths}
    for received in (reports(pacs.received("SR")), pacs.received("SEG")):
        assert len({one.SOPInstanceUID for one in received}) == 1


# "before" takes the worker down, which the supervisor starts again; "after" takes the whole node.
@pytest.mark.parametrize(
    ("step", "moment"),
    [*((step, "after") for step in STEPS), *((step, "before") for step in STEPS[::2])],
)
def test_the_node_killed_at_a_step_resumes_and_nothing_is_doubled(tmp_path, head, step, moment):
    pacs_port, flag = free_ports(1)[0], tmp_path / "crashed"
    node = Node(
        write_config(tmp_path, pacs_port=pacs_port, quiet_seconds=3),
        command=[sys.executable, str(CRASH_AT), str(flag), step, moment],
    )
    pacs = Storescp(tmp_path / "pacs", pacs_port)
    with running(pacs, node):
        node.start()
        send([read_instance(path) for path in head.paths], node.peer, "PACS")
        await_true(flag.exists, 60, "the node to be killed")
        if moment == "after":
            node.kill()
            node.start()
        check_everything_arrived_once(node, pacs, head)


def test_a_node_stopped_while_the_model_hangs_stops_soon_and_takes_the_study_up_again(
    tmp_path, head
):
    pacs_port = free_ports(1)[0]
    config = write_config(tmp_path, pacs_port=pacs_port, quiet_seconds=3)
    hanging = Node(config, command=[sys.executable, str(HANGING_MODEL)])
    pacs = Storescp(tmp_path / "pacs", pacs_port)
    with running(pacs):
        with running(hanging):
            hanging.start()
            send([read_instance(path) for path in head.paths], hanging.peer, "PACS")
            await_true(lambda: '"looking"' in hanging.log(), 60, "the assessment")
            began = time.monotonic()
            hanging.stop()
            assert time.monotonic() - began < 15
            assert "role.killed" not in hanging.log()
        node = Node(config)
        with running(node):
            node.start()
            check_everything_arrived_once(node, pacs, head)


def test_a_study_that_always_takes_its_worker_down_is_failed_and_not_for_ever_tried(tmp_path, head):
    node = Node(
        write_config(tmp_path, quiet_seconds=3),
        command=[sys.executable, str(CRASH_AT), "-", "assess", "always"],
    )
    with running(node):
        node.start()
        send([read_instance(path) for path in head.paths], node.peer, "PACS")
        (run,) = node.await_runs(head.study_uid, timeout=240)
    assert run.state is RunState.FAILED
    assert "did not survive this study" in run.error
    assert "overread retry" in run.remedy


def test_the_whole_node_killed_while_receiving_loses_nothing_acknowledged(tmp_path, head):
    pacs_port = free_ports(1)[0]
    config = write_config(tmp_path, pacs_port=pacs_port, quiet_seconds=3)
    node, pacs = Node(config), Storescp(tmp_path / "pacs", pacs_port)
    chance = random.Random(1)
    acknowledged, missing = set(), {path: read_instance(path) for path in head.paths}
    with running(pacs, node):
        for _ in range(3):
            node.start()
            killer = threading.Timer(chance.uniform(0.02, 0.25), node.kill)

            def note(answer):
                if answer.taken:
                    acknowledged.add(answer.instance.instance_uid)

            killer.start()
            with suppress(PeerError):
                send(list(missing.values()), node.peer, "PACS", note)
            killer.join()
            spooled = {path.stem for path in node.settings.spool_dir.glob("[0-9]*/*/*.dcm")}
            assert acknowledged <= spooled
        node.start()
        send(list(missing.values()), node.peer, "PACS")
        check_everything_arrived_once(node, pacs, head)


def test_an_upgrade_with_a_study_in_flight_loses_none(tmp_path, head):
    """The old code is killed in the middle; changed code, in another place, finishes the study."""
    for name in ("old", "new"):
        shutil.copytree(
            REPOSITORY,
            tmp_path / name,
            ignore=lambda _folder, names: [
                one for one in names if one.startswith(".") or one in ("demo", "docs", "build")
            ],
        )
    changed = tmp_path / "new" / "node" / "workflow.py"
    source = changed.read_text()
    assert "    try:\n        candidates = select(run_id)" in source
    changed.write_text(
        source.replace(
            "    try:\n        candidates = select(run_id)",
            '    log.info("upgraded", run=run_id)\n    try:\n        candidates = select(run_id)',
        )
    )
    pacs_port, flag = free_ports(1)[0], tmp_path / "crashed"
    config = write_config(tmp_path, pacs_port=pacs_port)
    old = Node(
        config,
        cwd=tmp_path / "old",
        command=[sys.executable, "tests/system/crash_at.py", str(flag), "write", "before"],
    )
    pacs = Storescp(tmp_path / "pacs", pacs_port)
    with running(pacs):
        with running(old):
            old.start()
            send([read_instance(path) for path in head.paths], old.peer, "PACS")
            await_true(flag.exists, 60, "the old node to die")
            old.kill()
        new = Node(config, cwd=tmp_path / "new")
        with running(new):
            new.start()
            check_everything_arrived_once(new, pacs, head)
            assert '"upgraded"' in new.log()


def test_a_role_that_dies_is_started_again_and_all_die_with_the_supervisor(tmp_path):
    node = Node(write_config(tmp_path))
    with running(node):
        node.start()
        node.kill_role("listener")
        await_true(lambda: "role.died" in node.log(), 10, "the death to be noticed")
        await_true(lambda: node.log().count("listener.started") == 2, 30, "its return")
        node.kill_supervisor()
        await_true(lambda: not node.answers(), 10, "its roles to end")
