"""Orthanc confirms that it keeps what the node delivered, and says so when it does not."""

import urllib.request
from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom import dcmread

from node.delivery import deliver_due
from node.listener import Listener
from node.replay import replay
from node.tables import DeliveryState, RunState
from sr_writer.kinds import Kind
from sr_writer.results import Result
from tests.node.checked_runs import RUN, checked_run
from tests.node.configuration import free_ports
from tests.node.test_commitment_requests import Archive
from tests.slices import grid_affine, write_slices
from tests.system.peers import (
    Orthanc,
    await_true,
    needs_orthanc,
    needs_postgresql,
    postgresql,
    running,
)

pytestmark = pytest.mark.peers


@pytest.fixture
def results(tmp_path):
    images = write_slices(tmp_path / "x", np.zeros((2, 16, 16), np.int16), grid_affine())
    return [Result(Kind.REPORT, dcmread(image)) for image in images]


def the_delivery(bench):
    return bench.catalogue.run(RUN).deliveries[0]


def deliver_and_await(bench, state):
    def has_come():
        one = the_delivery(bench)
        if one.state is not state:
            deliver_due(bench, "pacs")
        return the_delivery(bench).state is state and the_delivery(bench)

    return await_true(has_come, 60, f"the delivery to be {state}")


@needs_orthanc
def test_what_orthanc_keeps_is_committed_and_what_it_lost_is_sent_again(tmp_path, results):
    (port,) = free_ports(1)
    bench = checked_run(tmp_path, port, "commitment = true", results=results)
    listener = Listener(bench.settings)
    listener.start()
    pacs = Orthanc(tmp_path / "orthanc", node_port=bench.settings.node.port, dicom_port=port)
    with running(listener, pacs):
        sent = deliver_and_await(bench, DeliveryState.COMMITTED)
        assert [one.is_committed for one in sent.objects] == [True, True]
        # As if it were asked once more, after it lost one.
        (first, *_) = pacs.rest("/instances")
        url = f"http://127.0.0.1:{pacs.http_port}/instances/{first}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30).close()
        bench.outbox.record(
            sent, [], state=DeliveryState.COMMITTING, next_attempt_at=datetime.now(UTC)
        )
        deliver_and_await(bench, DeliveryState.WAITING)
        assert "CT Image Storage 0112" in the_delivery(bench).error
        deliver_and_await(bench, DeliveryState.COMMITTED)
        assert len(pacs.rest("/instances")) == 2
    bench.catalogue.close()


@needs_postgresql
def test_the_outbox_is_the_same_on_postgresql(tmp_path, results):
    (port,) = free_ports(1)
    with postgresql(tmp_path / "cluster") as url:
        bench = checked_run(tmp_path, port, "commitment = true", results=results, database_url=url)
        deliver_due(bench, "pacs")  # nobody is there
        assert the_delivery(bench).attempts == 1
        assert bench.outbox.peers_due() == []
        assert replay(bench.catalogue, peer="pacs") == 1
        listener, archive = Listener(bench.settings), Archive(bench.settings)
        listener.start()
        with running(listener, archive):
            deliver_due(bench, "pacs")
            lost = archive.received[0]
            archive.keeps = lambda uid: uid != lost
            assert archive.report() == 0x0000
            assert the_delivery(bench).state is DeliveryState.WAITING
            assert replay(bench.catalogue, peer="pacs") == 1
            deliver_due(bench, "pacs")
            archive.keeps = lambda _uid: True
            assert [archive.report(), archive.report()] == [0x0000, 0x0000]
        assert archive.received[2:] == [lost]
        assert the_delivery(bench).state is DeliveryState.COMMITTED
        assert bench.catalogue.run(RUN).state is RunState.DELIVERED
        assert bench.outbox.unsettled_runs() == []
        bench.catalogue.remove_study("1.2")
        bench.catalogue.close()
