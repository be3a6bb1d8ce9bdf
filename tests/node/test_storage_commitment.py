"""Storage commitment: what was received is confirmed, what was not is named, whatever happens."""

import time
from datetime import timedelta

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)
from sqlalchemy import delete

from node import storage_commitment, store_scu
from node.catalogue import Catalogue
from node.kept_requests import KeptRequests, read_request
from node.listener import Listener
from node.settings import load_settings
from node.tables import Instance
from node.web import health
from tests.node.configuration import free_ports, write_config
from tests.node.test_listener import as_peer
from tests.slices import grid_affine, write_slices
from tests.system.peers import await_true


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(storage_commitment, "LOOK_AGAIN", (timedelta(seconds=2),))


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, pacs_port=free_ports(1)[0])


@pytest.fixture
def node(config):
    listener = Listener(load_settings(config))
    listener.start()
    yield listener._settings
    listener.stop()


@pytest.fixture
def sent(node, tmp_path):
    pixels = np.zeros((3, 16, 16), np.int16)
    paths = write_slices(tmp_path / "scan", pixels, grid_affine())
    store_scu.send([store_scu.read_instance(path) for path in paths], as_peer(node), "PACS")
    return [dcmread(path).SOPInstanceUID for path in paths]


class Sender:
    """The peer PACS: asks for commitment, and takes the reports; `statuses` answers them."""

    def __init__(self, settings, statuses=()):
        self.reports, self._statuses = [], list(statuses)
        peer = settings.peers[0]
        entity = AE(ae_title=peer.ae_title)
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._take)]
        self._server = entity.start_server(("127.0.0.1", peer.port), False, evt_handlers=handlers)

    def _take(self, event):
        self.reports.append((event.event_type, event.event_information))
        return (self._statuses.pop(0) if self._statuses else 0x0000), None

    def await_reports(self, count=1):
        deadline = time.monotonic() + 20
        while len(self.reports) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(self.reports) == count
        return self.reports[-1]

    def stop(self):
        self._server.shutdown()


@pytest.fixture
def sender(node):
    sender = Sender(node)
    yield sender
    sender.stop()


def test_a_request_that_cannot_be_read_holds_up_no_other(node, sender, sent):
    kept = node.node.state_dir / "commitment"
    (kept / "0000.json").write_bytes(b"{")
    (kept / "0001.json").mkdir()
    assert ask(node, [(CTImageStorage, sent[0])]) == 0
    sender.await_reports()


def ask(settings, references, *, calling="PACS", transaction=None):
    """The status of an N-ACTION for (SOP class, SOP instance) pairs."""
    asked = Dataset()
    asked.TransactionUID = transaction or generate_uid()
    asked.ReferencedSOPSequence = []
    for sop_class, instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        asked.ReferencedSOPSequence.append(item)
    entity = AE(ae_title=calling)
    association = entity.associate(
        "127.0.0.1",
        settings.node.port,
        contexts=[build_context(StorageCommitmentPushModel)],
        ae_title="OVERREAD",
    )
    status, _ = association.send_n_action(
        asked, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    association.release()
    return status.Status


def test_what_was_received_is_committed(node, sent, sender):
    transaction = generate_uid()
    references = [(CTImageStorage, uid) for uid in sent]
    assert ask(node, references, transaction=transaction) == 0x0000
    event, report = sender.await_reports()
    assert (event, report.TransactionUID) == (1, transaction)
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == sent
    assert "FailedSOPSequence" not in report


def test_what_the_catalogue_learns_late_is_committed(node, sent, sender):
    catalogue = Catalogue(node.database_url)
    await_true(lambda: [*catalogue.instances_called(sent[:1])], 60, "the images to be listed")
    with catalogue.session() as session:
        session.execute(delete(Instance))
    ask(node, [(CTImageStorage, uid) for uid in sent])
    kept = KeptRequests(node.node.state_dir)
    await_true(lambda: any(read_request(path).looks for path in kept.paths()), 60, "the first look")
    listener = Listener(node)  # one that starts lists what it finds
    listener._bookkeeper.start()
    event, report = sender.await_reports()
    listener._bookkeeper.stop()
    catalogue.close()
    assert event == 1
    assert len(report.ReferencedSOPSequence) == len(sent)


def test_a_report_that_is_owed_for_long_is_an_alarm(node, monkeypatch):
    monkeypatch.setattr(health, "SHORT_ABSENCE", timedelta(0))
    ask(node, [(CTImageStorage, generate_uid())])
    catalogue = Catalogue(node.database_url)

    def said():
        return [one for one in health.health_of(node, catalogue).alarms if "PACS" in one.text]

    await_true(said, 60, "the alarm")
    (alarm,) = said()
    catalogue.close()
    assert "A report of storage commitment not delivered to PACS: pacs" in alarm.text
    assert "does not answer" in alarm.text
    assert "firewall" in alarm.remedy


def test_what_is_not_held_is_named_with_the_reason(node, sent, sender):
    stranger = generate_uid()
    references = [(CTImageStorage, sent[0]), (MRImageStorage, sent[1]), (CTImageStorage, stranger)]
    ask(node, references)
    event, report = sender.await_reports()
    assert event == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == sent[:1]
    reasons = {
        item.ReferencedSOPInstanceUID: item.FailureReason for item in report.FailedSOPSequence
    }
    assert reasons == {sent[1]: 0x0119, stranger: 0x0112}


def test_an_instance_whose_file_is_gone_is_not_committed(node, sent, sender):
    next(node.spool_dir.glob(f"[0-9]*/*/{sent[0]}.dcm")).unlink()
    ask(node, [(CTImageStorage, sent[0])])
    assert sender.await_reports()[1].FailedSOPSequence[0].FailureReason == 0x0112


def test_a_report_that_is_not_taken_is_repeated_even_after_a_restart(config, monkeypatch, tmp_path):
    monkeypatch.setattr(storage_commitment, "FIRST_RETRY", timedelta(seconds=0.5))
    first = Listener(load_settings(config))
    first.start()
    assert ask(first._settings, [(CTImageStorage, generate_uid())]) == 0x0000
    time.sleep(2)  # nobody answers there
    first.stop()
    sender = Sender(first._settings, statuses=[0x0110])
    second = Listener(load_settings(config))
    second.start()
    sender.await_reports(2)
    time.sleep(1.5)
    second.stop()
    sender.stop()
    assert len(sender.reports) == 2
    assert not list((tmp_path / "state" / "commitment").iterdir())


def test_a_request_that_is_none_is_refused(node, sender):
    assert ask(node, []) != 0x0000
    assert ask(node, [(CTImageStorage, "../../etc/passwd")]) == 0x0115
    assert not list((node.node.state_dir / "commitment").iterdir())


def test_one_report_finds_out_for_all_that_a_sender_is_away(node, capsys):
    for _ in range(5):
        ask(node, [(CTImageStorage, generate_uid())])
    said = logged(capsys, "commitment.not_reported")
    time.sleep(1.5)  # longer than the desk takes to look at all of them
    said += capsys.readouterr().out
    assert said.count("commitment.not_reported") == 1
    assert len(list((node.node.state_dir / "commitment").iterdir())) == 5


def test_a_sender_that_accepts_no_reports_is_named_with_what_to_do(node, capsys):
    entity = AE(ae_title="PACS")
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", node.peers[0].port), block=False)
    ask(node, [(CTImageStorage, generate_uid())])
    said = logged(capsys, "commitment.not_reported")
    server.shutdown()
    assert "pacs accepts no reports of storage commitment" in said
    assert "have it accept Storage Commitment Push Model" in said


def logged(capsys, event):
    """What was logged until `event` was."""
    said = []

    def is_said():
        said.append(capsys.readouterr().out)
        return event in "".join(said)

    await_true(is_said, 60, event)
    return "".join(said)
