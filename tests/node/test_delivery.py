"""Results on their way: retried, recorded, never dropped in silence."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pydicom import dcmread
from pynetdicom import AE, evt

from node import delivery
from node.catalogue import Catalogue
from node.outbox import Outbox
from node.store_scu import PeerError, echo
from node.tables import DeliveryState, RunState
from sr_writer.kinds import Kind
from sr_writer.results import Result
from tests.node.checked_runs import RUN, checked_run
from tests.node.configuration import free_ports
from tests.slices import grid_affine, write_slices


@pytest.fixture
def bench(tmp_path):
    (image,) = write_slices(tmp_path / "x", np.zeros((1, 8, 8), np.int16), grid_affine())
    # Any instance will do: what is sent is not looked into.
    results = [Result(Kind.REPORT, dcmread(image))]
    bench = checked_run(tmp_path, free_ports(1)[0], results=results)
    yield bench
    bench.catalogue.close()


@pytest.fixture
def pacs(bench):
    """A peer that answers each C-STORE with the next status of a list, and 0000 after."""
    statuses, received = [], []

    def store(event):
        received.append(event.request.AffectedSOPInstanceUID)
        return statuses.pop(0) if statuses else 0x0000

    entity = AE(ae_title="PACS")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    port = bench.settings.peers[0].port
    entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    yield statuses, received
    entity.shutdown()


def the_delivery(bench):
    return bench.catalogue.run(RUN).deliveries[0]


def deliver(bench):
    delivery.attempt(bench, the_delivery(bench))
    return delivery.settle(bench.outbox, RUN), the_delivery(bench)


def test_what_a_peer_takes_is_delivered_and_recorded(bench, pacs):
    state, sent = deliver(bench)
    assert state is RunState.DELIVERED
    assert [(one.kind, one.status) for one in sent.objects] == [("CT Image Storage", "0000")]
    assert "delivered" in {one.name for one in bench.catalogue.run(RUN).milestones}


@pytest.mark.parametrize("status", [0xB000, 0x0111])
def test_a_warning_or_a_duplicate_means_taken_and_is_recorded(bench, pacs, status):
    pacs[0].append(status)
    state, sent = deliver(bench)
    assert state is RunState.DELIVERED
    assert sent.objects[0].status == f"{status:04X}"


@pytest.mark.parametrize("status", [0xA700, 0xC000, 0xA900])
def test_a_refusal_waits_longer_each_time_and_then_succeeds(bench, pacs, status):
    pacs[0].extend([status, status])
    state, sent = deliver(bench)
    assert state is RunState.DELIVERING
    assert f"{status:04X}" in sent.error
    assert "overread check" in sent.remedy
    assert sent.next_attempt_at - datetime.now(UTC) <= timedelta(seconds=0.6)
    before = datetime.now(UTC)
    _, sent = deliver(bench)
    assert sent.next_attempt_at - before >= timedelta(seconds=0.8)
    state, sent = deliver(bench)
    assert state is RunState.DELIVERED
    assert (sent.attempts, sent.error) == (3, "")


def test_a_peer_that_is_down_is_named_with_what_to_do(bench):
    state, sent = deliver(bench)
    assert state is RunState.DELIVERING
    assert sent.state is DeliveryState.WAITING
    assert "pacs (PACS at 127.0.0.1" in sent.error
    assert "does not answer" in sent.error
    assert "firewall" in sent.remedy


def test_after_the_configured_time_it_is_given_up_loudly(bench):
    old = datetime.now(UTC) - timedelta(hours=bench.settings.delivery.give_up_hours + 1)
    bench.outbox.record(the_delivery(bench), [], tried_since=old)
    state, sent = deliver(bench)
    assert state is RunState.UNDELIVERABLE
    assert sent.state is DeliveryState.GIVEN_UP
    assert sent.error


def test_two_processes_do_not_claim_one_delivery(bench):
    other = Catalogue(bench.settings.database_url)
    others = Outbox(other, bench.settings.delivery)
    assert bench.outbox.claim_next("pacs") is not None
    assert others.claim_next("pacs") is None
    bench.outbox.record(the_delivery(bench), [], next_attempt_at=datetime.now(UTC))
    assert others.claim_next("pacs") is not None
    assert bench.outbox.claim_next("pacs") is None
    bench.outbox.resume()  # that process is gone, and this is the worker that follows it
    assert bench.outbox.claim_next("pacs") is not None
    other.close()


def test_a_peer_that_rejects_us_says_how_to_be_let_in(bench):
    entity = AE(ae_title="PACS")
    entity.add_supported_context("1.2.840.10008.1.1")
    entity.require_calling_aet = ["SOMEONE"]
    peer = bench.settings.peers[0]
    entity.start_server(("127.0.0.1", peer.port), block=False)
    try:
        with pytest.raises(PeerError, match="rejected") as refused:
            echo(peer, "OVERREAD")
        assert "let it know AE title OVERREAD" in refused.value.remedy
    finally:
        entity.shutdown()
