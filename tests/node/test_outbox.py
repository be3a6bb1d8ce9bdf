"""The outbox: a peer that is away costs time and nothing else, and nobody else's time."""

import json
import shutil
import socket
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage
from typer.testing import CliRunner

from node import store_scu
from node.catalogue import Catalogue
from node.cli import app
from node.delivery import deliver_due
from node.lanes import Lanes
from node.outbox import Outbox
from node.received import Received
from node.replay import outages, unsettled
from node.settings import load_settings
from node.spool import InstanceKey
from node.steps import Workbench
from node.tables import DeliveryState, Outage, RunState
from node.web.health import health_of
from sr_writer.kinds import Kind
from sr_writer.results import Result
from tests.node.configuration import free_ports, write_config
from tests.slices import grid_affine, write_slices
from tests.system.peers import await_true

STUDY = "1.2"
OTHER_PEER = """
[[peers]]
name = "other"
ae_title = "OTHER"
host = "127.0.0.1"
port = {port}

[[routes]]"""


class Node:
    """A node with runs whose objects are checked, for the peers `pacs` and `other`."""

    def __init__(self, folder):
        ports = free_ports(2)
        self.ports = dict(zip(("pacs", "other"), ports, strict=True))
        self.config = write_config(folder, pacs_port=ports[0])
        text = self.config.read_text().replace("[[routes]]", OTHER_PEER.format(port=ports[1]))
        self.config.write_text(text)
        settings = load_settings(self.config)
        self.bench = Workbench(settings, Catalogue(settings.database_url))
        self._image = write_slices(folder / "x", np.zeros((1, 8, 8), np.int16), grid_affine())[0]
        self._template = None
        key = InstanceKey(STUDY, "1.2.3", "1.2.3.4")
        now = datetime.now(UTC)
        received = Received(key, "1.2.840", "1.2.840.10008.1.2.1", "PACS", now)
        self.bench.catalogue.add_received([received])
        self._runs = 0

    def queue(self, peer, count, *, with_objects=True):
        """Runs that are due for a peer, the oldest first; returns their SOP Instance UIDs."""
        uids = []
        for _ in range(count):
            self._runs += 1
            run, uid = f"{self._runs:032x}", f"1.2.3.4.{self._runs}"
            row = {
                "id": run,
                "study_uid": STUDY,
                "revision": "r",
                "route": "head",
                "opened_at": datetime.now(UTC),
                "state": RunState.DELIVERING,
                "outcome": "",
                "error": "",
                "remedy": "",
                "supersedes": None,
                "attempt": 0,
            }
            self.bench.catalogue.open_run(row, {"complete": datetime.now(UTC)})
            if with_objects:
                self._write(run, uid)
            self.bench.outbox.open(run, [peer])
            self.bench.outbox.release(run)
            uids.append(uid)
        return uids

    def _write(self, run, uid):
        folder = self.bench.folder(run)
        folder.path.mkdir(parents=True)
        dataset = dcmread(self._image)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        folder.save_results([Result(Kind.REPORT, dataset)])

    def states(self, peer="pacs"):
        runs = self.bench.catalogue.runs_in(RunState)
        found = [self.bench.catalogue.run(run.id).deliveries for run in runs]
        return [one.state for deliveries in found for one in deliveries if one.peer == peer]

    def command(self, *words):
        done = CliRunner().invoke(app, [*words, "--config", str(self.config)])
        return done.exit_code, done.output


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    node.bench.stopping.set()
    node.bench.catalogue.close()


class Pacs:
    """A peer that takes CT images; remembers which, and over how many associations."""

    def __init__(self, port, ae_title):
        self.received, self.associations = [], 0
        self.statuses = {}
        entity = AE(ae_title=ae_title)
        entity.add_supported_context(CTImageStorage)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._count)]
        self._server = entity.start_server(("127.0.0.1", port), False, evt_handlers=handlers)

    def _store(self, event):
        uid = event.request.AffectedSOPInstanceUID
        self.received.append(uid)
        return self.statuses.get(uid, 0x0000)

    def _count(self, _event):
        self.associations += 1

    def stop(self):
        self._server.shutdown()


class Silent:
    """A peer that takes connections and says nothing; counts them."""

    def __init__(self, port):
        self.connections = []
        self._socket = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                self.connections.append(self._socket.accept()[0])
            except OSError:
                return

    def stop(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self.connections:
            connection.close()


def test_one_delivery_finds_a_dead_peer_for_all_and_delays_nobody_else(node, monkeypatch):
    monkeypatch.setattr(store_scu, "_CONNECTION_TIMEOUT", 3.0)
    node.queue("pacs", 300, with_objects=False)
    node._write(f"{1:032x}", "1.2.3.4.1")
    sent = node.queue("other", 5)
    dead, alive = Silent(node.ports["pacs"]), Pacs(node.ports["other"], "OTHER")
    lanes = Lanes(node.bench)
    lanes.look()
    await_true(lambda: len(alive.received) == 5, 60, "what the healthy peer gets")
    assert outages(node.bench.catalogue) == []  # the dead one is still being waited for
    await_true(lambda: outages(node.bench.catalogue), 60, "the dead peer to be found")
    lanes.look()
    lanes.close()
    assert (alive.received, len(dead.connections)) == (sent, 1)
    (outage,) = outages(node.bench.catalogue)
    assert "does not answer" in outage.error
    waiting = unsettled(node.bench.catalogue, "pacs")
    assert len(waiting) == 300
    assert {one.error for one, _ in waiting} == {outage.error}
    assert sum(one.attempts for one, _ in waiting) == 1
    assert node.bench.outbox.peers_due() == []
    dead.stop()
    alive.stop()


def test_a_new_result_for_a_peer_that_is_away_waits_for_its_next_round(node):
    node.queue("pacs", 1)
    deliver_due(node.bench, "pacs")
    node.queue("pacs", 1)
    assert node.bench.outbox.claim_next("pacs") is None


def test_when_the_peer_comes_back_everything_is_there_once_and_in_order(node):
    expected = node.queue("pacs", 12)
    for _ in range(2):
        deliver_due(node.bench, "pacs")
    pacs = Pacs(node.ports["pacs"], "PACS")
    await_true(lambda: node.bench.outbox.peers_due() == ["pacs"], 60, "the next round")
    deliver_due(node.bench, "pacs")
    pacs.stop()
    assert pacs.received == expected
    assert pacs.associations == len(expected)
    assert set(node.states()) == {DeliveryState.DELIVERED}
    assert outages(node.bench.catalogue) == []


def test_an_object_that_a_peer_refuses_holds_up_no_other(node):
    refused, *others = node.queue("pacs", 4)
    pacs = Pacs(node.ports["pacs"], "PACS")
    pacs.statuses[refused] = 0xA700
    deliver_due(node.bench, "pacs")
    pacs.stop()
    assert pacs.received == [refused, *others]
    ((waits, _),) = unsettled(node.bench.catalogue)
    assert "A700" in waits.error
    assert outages(node.bench.catalogue) == []


def test_what_waited_too_long_for_a_peer_that_is_away_is_given_up_without_being_tried(node):
    node.queue("pacs", 3)
    long_ago = datetime.now(UTC) - timedelta(hours=100)
    for one, _ in unsettled(node.bench.catalogue)[1:]:
        node.bench.outbox.record(one, [], tried_since=long_ago)
    deliver_due(node.bench, "pacs")
    given_up = DeliveryState.GIVEN_UP
    assert sorted(node.states()) == sorted([DeliveryState.WAITING, given_up, given_up])
    undeliverable = node.bench.catalogue.runs_in([RunState.UNDELIVERABLE])
    assert len(undeliverable) == 2
    shown = json.loads(node.command("deliveries", "--json")[1])
    assert [one["state"] for one in shown["deliveries"]].count("given up") == 2
    assert all("does not answer" in one["error"] for one in shown["deliveries"])
    assert all("firewall" in one["remedy"] for one in shown["deliveries"])


@pytest.mark.parametrize("words", [["--all"], ["--peer", "pacs"], [STUDY]])
def test_dead_letters_are_replayed_by_command(node, words):
    (uid,) = node.queue("pacs", 1)
    ((one, _),) = unsettled(node.bench.catalogue)
    node.bench.outbox.record(one, [], tried_since=datetime.now(UTC) - timedelta(hours=100))
    deliver_due(node.bench, "pacs")
    assert node.states() == [DeliveryState.GIVEN_UP]
    assert "given up" in node.command("deliveries")[1]
    code, said = node.command("retry", *words)
    assert (code, "1 delivery is due now" in said) == (0, True), said
    pacs = Pacs(node.ports["pacs"], "PACS")
    deliver_due(node.bench, "pacs")
    pacs.stop()
    assert pacs.received == [uid]
    assert len(node.bench.catalogue.runs_in([RunState.DELIVERED])) == 1
    assert node.command("retry", *words)[0] == 0  # there is nothing left: nothing is sent twice
    assert node.bench.outbox.peers_due() == []


def test_a_peer_that_lost_what_it_had_gets_it_again(node):
    (uid,) = node.queue("pacs", 1)
    pacs = Pacs(node.ports["pacs"], "PACS")
    deliver_due(node.bench, "pacs")
    assert node.command("retry", "--peer", "pacs", "--again")[0] == 0
    deliver_due(node.bench, "pacs")
    pacs.stop()
    assert pacs.received == [uid, uid]
    assert node.states() == [DeliveryState.DELIVERED]


@pytest.mark.parametrize("words", [[], ["--peer", "nobody"], ["--again"], ["--all", "--again"]])
def test_a_replay_of_who_knows_what_is_refused(node, words):
    assert node.command("retry", *words)[0] == 1


def test_a_defect_in_one_delivery_does_not_end_the_lane(node):
    _, whole = node.queue("pacs", 2)
    shutil.rmtree(node.bench.folder(f"{1:032x}").path)
    (node.bench.settings.runs_dir / f"{1:032x}").write_text("a file where the folder was")
    pacs = Pacs(node.ports["pacs"], "PACS")
    lanes = Lanes(node.bench)

    def has_arrived():
        lanes.look()
        return pacs.received

    assert await_true(has_arrived, 60, "the other delivery") == [whole]
    lanes.close()
    pacs.stop()


def test_two_who_settle_one_run_agree(node):
    node.queue("pacs", 1)
    node.bench.outbox.open(f"{1:032x}", ["other"])
    other = Catalogue(node.bench.settings.database_url)
    boxes = [node.bench.outbox, Outbox(other, node.bench.settings.delivery)]
    deliveries = node.bench.catalogue.run(f"{1:032x}").deliveries

    def finish(box, one):
        box.accept(one, [], note="", commits=False)
        box.settle(one.run_id)

    threads = [
        threading.Thread(target=finish, args=pair) for pair in zip(boxes, deliveries, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert node.bench.catalogue.run(f"{1:032x}").state is RunState.DELIVERED


def test_a_peer_that_is_away_for_long_is_an_alarm_that_says_how_much_waits(node):
    node.queue("pacs", 2)
    deliver_due(node.bench, "pacs")
    health = health_of(node.bench.settings, node.bench.catalogue)
    assert (health.alarms, health.peers_away, health.deliveries_waiting) == ((), ("pacs",), 2)
    with node.bench.catalogue.session() as session:
        session.get(Outage, "pacs").since -= timedelta(hours=1)
    (alarm,) = health_of(node.bench.settings, node.bench.catalogue).alarms
    assert "does not answer, since" in alarm.text
    assert "2 deliveries wait for it" in alarm.text
    assert "firewall" in alarm.remedy
