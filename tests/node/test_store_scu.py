"""The C-STORE SCU on a machine so busy that any thread may stand still at any point."""

import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import CTImageStorage, Verification

from node import reactor_checkpoint, store_scu
from node.settings import Peer
from tests.slices import grid_affine, write_slices

PREEMPTED = 0.1  # seconds, longer than a response takes with delayed acknowledgements


@pytest.fixture
def peer():
    entity = AE(ae_title="PACS")
    entity.add_supported_context(CTImageStorage)
    entity.add_supported_context(Verification)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _event: 0x0000)]
    )
    yield Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.server_address[1])
    server.shutdown()


@pytest.fixture
def instances(tmp_path):
    paths = write_slices(tmp_path / "ct", np.zeros((5, 8, 8), np.int16), grid_affine())
    return [store_scu.read_instance(path) for path in paths]


def preempted(checkpoint):
    """Let the reactor stand still behind its checkpoint, and the sender for longer still."""

    class Preempted(checkpoint):
        def wait(self, *args):
            super().wait(*args)
            time.sleep(PREEMPTED)

    return Preempted


@pytest.fixture
def busy(monkeypatch):
    """A machine that lets a sender stand still between its request and its look for the answer."""
    look = DIMSEServiceProvider.get_msg

    def look_late(self, block=False):
        if block:
            time.sleep(2 * PREEMPTED)
        return look(self, block)

    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", look_late)
    monkeypatch.setattr(store_scu, "_RESPONSE_TIMEOUT", 1.0)


def asked_of(peer, count):
    """Ask so many times by pynetdicom's own requests; returns what came for answers."""
    with store_scu.associated(
        peer, "OVERREAD", [build_context(Verification)], tls=None
    ) as association:
        answers = []
        while len(answers) < count and association.is_established:
            answers.append(association.send_c_echo().get("Status"))
        return answers


@pytest.mark.usefixtures("busy")
def test_no_response_is_lost_on_a_busy_machine(peer, instances, monkeypatch):
    slow = preempted(reactor_checkpoint.ReactorCheckpoint)
    monkeypatch.setattr(reactor_checkpoint, "ReactorCheckpoint", slow)

    answers = store_scu.send(instances, peer, "OVERREAD")

    assert [answer.status for answer in answers] == [0x0000] * len(instances)
    assert asked_of(peer, 3) == [0x0000] * 3


@pytest.mark.usefixtures("busy")
def test_pynetdicom_itself_loses_responses_still(peer, monkeypatch):
    """Where this fails, pynetdicom was mended, and `node.reactor_checkpoint` can go."""

    def original(association):
        association._reactor_checkpoint = preempted(threading.Event)()
        association._reactor_checkpoint.set()

    monkeypatch.setattr(store_scu, "hold_connection", original)
    assert asked_of(peer, 3) != [0x0000] * 3


def test_small_objects_are_not_held_back_by_nagles_algorithm(peer):
    with store_scu.associated(
        peer, "OVERREAD", [build_context(CTImageStorage)], tls=None
    ) as association:
        connection = association.dul.socket.socket
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_peer_that_aborts_between_two_instances_is_an_error_at_once(instances):
    entity = AE(ae_title="PACS")
    entity.add_supported_context(CTImageStorage)

    def store_and_abort(event):
        event.assoc.abort()
        return 0x0000

    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store_and_abort)]
    )
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.server_address[1])
    start = time.monotonic()
    with pytest.raises(store_scu.PeerError):
        store_scu.send(instances, peer, "OVERREAD")
    server.shutdown()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("change", ["nothing", "another instance", "no identity", "a long header"])
def test_a_file_is_walked_to_what_pydicom_reads_in_it(tmp_path, syntax, change):
    pixels = np.zeros((1, 16, 16), np.int16)
    (path,) = write_slices(tmp_path, pixels, grid_affine(), transfer_syntax=syntax)
    dataset = dcmread(path)
    if change == "another instance":
        dataset.SOPInstanceUID = generate_uid()
    elif change == "no identity":
        del dataset.SOPClassUID, dataset.SOPInstanceUID
    elif change == "a long header":
        dataset.ImageType = ["ORIGINAL"] * 600
    dataset.save_as(path, enforce_file_format=False)
    walked = store_scu.read_instance(path)
    assert replace(walked, offset=None) == store_scu._read(path)
    assert (walked.offset is None) == (change == "a long header")
    assert walked.offset in (None, split_dataset(path)[1])
