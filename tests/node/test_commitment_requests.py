"""Storage commitment of what was delivered: confirmed, sent again, or given up; never assumed."""

import threading
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from node.delivery import attempt, deliver_due
from node.listener import Listener
from node.tables import CommitmentRequest, DeliveryState, RunState
from sr_writer.kinds import Kind
from sr_writer.results import Result
from tests.node.checked_runs import RUN, checked_run
from tests.node.configuration import free_ports
from tests.slices import grid_affine, write_slices
from tests.system.peers import await_true

ASKED = "commitment = true"


class Archive:
    """The peer PACS: stores, and commits what `keeps` says; reports when and where it is told."""

    def __init__(self, settings, *, on_same=False, accepts=True):
        self.received, self.asked = [], []
        self.action_status, self.report_status = 0x0000, None
        self.keeps = lambda _uid: True
        self._on_same = on_same
        self._port = settings.node.port
        entity = AE(ae_title="PACS")
        entity.add_supported_context(CTImageStorage)
        if accepts:
            entity.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._take)]
        where = ("127.0.0.1", settings.peers[0].port)
        self._server = entity.start_server(where, block=False, evt_handlers=handlers)

    def _store(self, event):
        self.received.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    def _take(self, event):
        self.asked.append(event.action_information)
        if self._on_same:
            threading.Thread(target=self._report_on, args=(event.assoc, self.asked[-1])).start()
        return self.action_status, None

    def report(self, asked=None, *, calling="PACS"):
        """Report over an association of its own; returns the answer's status."""
        association = AE(ae_title=calling).associate(
            "127.0.0.1",
            self._port,
            contexts=[build_context(StorageCommitmentPushModel)],
            ae_title="OVERREAD",
            ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
        )
        assert association.is_established
        self._report_on(association, asked or self.asked[-1], delay=0)
        association.release()
        return self.report_status

    def _report_on(self, association, asked, delay=0.2):
        time.sleep(delay)  # so that the N-ACTION is answered
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        items = list(asked.ReferencedSOPSequence)
        kept = [item for item in items if self.keeps(item.ReferencedSOPInstanceUID)]
        lost = [item for item in items if item not in kept]
        for item in lost:
            item.FailureReason = 0x0112
        if kept:
            report.ReferencedSOPSequence = kept
        if lost:
            report.FailedSOPSequence = lost
        answer, _ = association.send_n_event_report(
            report,
            2 if lost else 1,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        self.report_status = answer.get("Status")

    def stop(self):
        self._server.shutdown()


@pytest.fixture
def bench(tmp_path):
    images = write_slices(tmp_path / "x", np.zeros((2, 8, 8), np.int16), grid_affine())
    results = [Result(Kind.REPORT, dcmread(image)) for image in images]
    bench = checked_run(tmp_path, free_ports(1)[0], ASKED, results=results)
    yield bench
    bench.catalogue.close()


@pytest.fixture
def listener(bench):
    listener = Listener(bench.settings)
    listener.start()
    yield listener
    listener.stop()


@pytest.fixture
def archive(bench):
    archive = Archive(bench.settings)
    yield archive
    archive.stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Nobody reports over the association that the node asks over, unless a test says so."""
    monkeypatch.setattr("node.commitment_requests._LINGER", 0.1)


def the_delivery(bench):
    return bench.catalogue.run(RUN).deliveries[0]


def make_due(bench):
    bench.outbox.record(the_delivery(bench), [], next_attempt_at=datetime.now(UTC))


def reached(bench):
    return {one.name for one in bench.catalogue.run(RUN).milestones}


@pytest.mark.usefixtures("listener")
def test_a_delivery_ends_as_committed_when_the_peer_says_so(bench, archive):
    deliver_due(bench, "pacs")
    sent = the_delivery(bench)
    assert sent.state is DeliveryState.COMMITTING
    assert bench.catalogue.run(RUN).state is RunState.DELIVERING
    assert ("delivered" in reached(bench), "committed" in reached(bench)) == (True, False)
    assert archive.report() == 0x0000
    sent = the_delivery(bench)
    assert sent.state is DeliveryState.COMMITTED
    assert [one.is_committed for one in sent.objects] == [True, True]
    assert sent.accepted_at <= sent.committed_at
    assert bench.catalogue.run(RUN).state is RunState.DELIVERED
    assert "committed" in reached(bench)


def test_a_report_over_the_association_that_asked_is_heard(bench, monkeypatch):
    monkeypatch.setattr("node.commitment_requests._LINGER", 30)
    archive = Archive(bench.settings, on_same=True)
    started = time.monotonic()
    deliver_due(bench, "pacs")
    archive.stop()
    assert time.monotonic() - started < 20
    assert archive.report_status == 0x0000
    assert the_delivery(bench).state is DeliveryState.COMMITTED


def test_what_the_peer_did_not_keep_is_sent_again_and_then_committed(bench, archive, listener):
    deliver_due(bench, "pacs")
    lost = archive.received[0]
    archive.keeps = lambda uid: uid != lost
    assert archive.report() == 0x0000
    sent = the_delivery(bench)
    assert sent.state is DeliveryState.WAITING
    assert "CT Image Storage 0112" in sent.error
    make_due(bench)
    deliver_due(bench, "pacs")
    assert archive.received[2:] == [lost]
    archive.keeps = lambda _uid: True
    first, second = archive.asked
    assert first.TransactionUID != second.TransactionUID
    assert archive.report(second) == 0x0000
    assert the_delivery(bench).state is DeliveryState.COMMITTED
    assert the_delivery(bench).error == ""


def test_a_peer_that_never_keeps_an_object_is_not_sent_it_for_ever(bench, archive, listener):
    archive.keeps = lambda _uid: False
    for _ in range(3):
        make_due(bench)
        deliver_due(bench, "pacs")
        archive.report()
    sent = the_delivery(bench)
    assert sent.state is DeliveryState.GIVEN_UP
    assert "overread retry" in sent.remedy
    assert bench.catalogue.run(RUN).state is RunState.UNDELIVERABLE
    assert len(archive.received) == 6


def test_a_peer_that_does_not_report_is_asked_anew_and_then_given_up_with_a_remedy(
    bench, archive, listener
):
    for _ in range(4):
        make_due(bench)
        deliver_due(bench, "pacs")
    assert len({asked.TransactionUID for asked in archive.asked}) == 3
    sent = the_delivery(bench)
    assert sent.state is DeliveryState.GIVEN_UP
    assert "did not report" in sent.error
    assert f"port {bench.settings.node.port}" in sent.remedy
    assert len(archive.received) == 2  # nothing was sent again
    archive.report(archive.asked[0])  # later than anyone hoped for
    assert the_delivery(bench).state is DeliveryState.COMMITTED
    assert bench.catalogue.run(RUN).state is RunState.DELIVERED


def test_a_report_is_believed_only_from_who_was_asked_and_about_what_was_asked(
    bench, archive, listener
):
    deliver_due(bench, "pacs")
    stranger = listener._settings.peers[0].model_copy(update={"name": "b", "ae_title": "OTHER"})
    peers = {"peers": (*listener._settings.peers, stranger)}
    listener._reports._settings = listener._settings = listener._settings.model_copy(update=peers)
    assert archive.report(calling="OTHER") == 0x0124
    invented = Dataset()
    invented.TransactionUID = generate_uid()
    invented.ReferencedSOPSequence = archive.asked[0].ReferencedSOPSequence
    assert archive.report(invented) == 0x0124
    assert the_delivery(bench).state is DeliveryState.COMMITTING


@pytest.mark.usefixtures("listener")
def test_a_report_that_leaves_an_object_out_does_not_commit_it(bench, archive):
    deliver_due(bench, "pacs")
    partial = Dataset()
    partial.TransactionUID = archive.asked[0].TransactionUID
    partial.ReferencedSOPSequence = archive.asked[0].ReferencedSOPSequence[:1]
    assert archive.report(partial) == 0x0000
    assert the_delivery(bench).state is DeliveryState.WAITING


@pytest.mark.usefixtures("listener")
def test_a_report_that_is_said_twice_changes_nothing(bench, archive):
    deliver_due(bench, "pacs")
    assert [archive.report(), archive.report()] == [0x0000, 0x0000]
    archive.keeps = lambda _uid: False
    assert archive.report() == 0x0000
    assert the_delivery(bench).state is DeliveryState.COMMITTED


def test_a_report_to_another_listener_than_was_up_when_it_was_asked_for_is_heard(bench, archive):
    deliver_due(bench, "pacs")
    for _ in range(2):
        listener = Listener(bench.settings)
        listener.start()
        status = archive.report()
        listener.stop()
        assert status == 0x0000
    assert the_delivery(bench).state is DeliveryState.COMMITTED


def test_a_peer_that_refuses_to_be_asked_is_asked_again_later(bench, archive):
    archive.action_status = 0x0110
    deliver_due(bench, "pacs")
    sent = the_delivery(bench)
    assert sent.state is DeliveryState.COMMITTING
    assert sent.commitment_requests == 0
    assert "0110" in sent.error
    assert sent.next_attempt_at > datetime.now(UTC)


def test_a_peer_that_does_not_know_storage_commitment_is_named_with_a_remedy(bench):
    archive = Archive(bench.settings, accepts=False)
    deliver_due(bench, "pacs")
    archive.stop()
    sent = the_delivery(bench)
    assert sent.state is DeliveryState.COMMITTING
    assert "storage commitment" in sent.error
    assert "set its 'commitment' to false" in sent.remedy
    assert len(archive.received) == 2


def test_a_peer_that_is_gone_before_it_is_asked_is_asked_when_it_is_back(bench, listener):
    archive = Archive(bench.settings)
    delivery = bench.outbox.claim_next("pacs")
    attempt(bench, delivery)
    archive.stop()
    deliver_due(bench, "pacs")
    assert "does not answer" in the_delivery(bench).error
    archive = Archive(bench.settings)
    await_true(bench.outbox.peers_due, 60, "the next round")
    deliver_due(bench, "pacs")
    archive.report()
    archive.stop()
    assert the_delivery(bench).state is DeliveryState.COMMITTED


def test_a_study_that_is_removed_takes_its_transactions_along(bench, archive):
    deliver_due(bench, "pacs")
    bench.catalogue.remove_study("1.2")
    with bench.catalogue.session() as session:
        assert session.query(CommitmentRequest).count() == 0
