"""Objects arrive as they lie in their files, whatever PDUs a peer takes and however it fails."""

import os
import socket
import struct
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from pydicom import dcmread
from pynetdicom import AE, build_context, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.dul import DULServiceProvider
from pynetdicom.sop_class import CTImageStorage

from node import held_connection, store_scu, store_transfer
from node.settings import Peer
from node.store_request import C_STORE_RSP, COMMAND_FIELD, RESPONDED_TO, STATUS
from tests.node.configuration import free_ports
from tests.slices import grid_affine, write_slices
from tests.system.peers import Storescp, await_true, needs_dcmtk, running

P_DATA, ABORT = b"\x04\x00", b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"


@contextmanager
def pacs(*, store=lambda _event: 0x0000, pdu=16384, handlers=()):
    """A peer that takes CT images; yields it and what it received."""
    received = []

    def take(event):
        received.append(event.encoded_dataset(include_meta=False))
        return store(event)

    entity = AE(ae_title="PACS")
    entity.maximum_pdu_size = pdu
    entity.add_supported_context(CTImageStorage, "1.2.840.10008.1.2.1")
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take), *handlers]
    )
    port = server.server_address[1]
    try:
        yield Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=port), received
    finally:
        server.shutdown()


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(1)
    stored = rng.integers(-1000, 2000, (3, 64, 64), np.int16)
    return write_slices(tmp_path / "ct", stored, grid_affine())


def datasets(paths):
    return [path.read_bytes()[split_dataset(path)[1] :] for path in paths]


def send(paths, peer):
    return store_scu.send([store_scu.read_instance(path) for path in paths], peer, "OVERREAD")


@pytest.mark.parametrize("pdu", [0, 20, 101, 1000, 4102, 16384, 131072, 1 << 24])
def test_whatever_pdus_a_peer_takes_the_bytes_arrive(images, pdu):
    with pacs(pdu=pdu) as (peer, received):
        answers = send(images, peer)
    assert [answer.status for answer in answers] == [0, 0, 0]
    assert received == datasets(images)


@pytest.mark.parametrize("excess", [-2, 0, 2])
@pytest.mark.parametrize("batches", [1, 3])
def test_an_object_that_just_fills_its_pdus_arrives(images, monkeypatch, excess, batches):
    monkeypatch.setattr(store_transfer, "_BATCH", 4 * (1000 + 12))
    (image, *_) = images
    offset = split_dataset(image)[1]
    content = image.read_bytes()
    content = content[: content.rindex(b"\xe0\x7f\x10\x00OW\0\0") + 8]
    length = batches * 4000 + excess - (len(content) + 4 - offset)
    image.write_bytes(content + struct.pack("<L", length) + os.urandom(length))
    with pacs(pdu=1006) as (peer, received):
        assert [answer.status for answer in send([image] * 2, peer)] == [0, 0]
    assert received == datasets([image] * 2)
    assert len(received[0]) == batches * 4000 + excess


def test_a_peer_that_takes_no_pdu_of_any_use_is_an_error(images):
    with (
        pacs(pdu=7) as (peer, _),
        pytest.raises(store_scu.PeerError, match="PDUs of 7 bytes"),
    ):
        send(images, peer)


def test_no_pdu_is_longer_than_the_peer_takes(images):
    lengths = []
    seen = [(evt.EVT_DATA_RECV, lambda event: lengths.append(len(event.data) - 6))]
    with pacs(pdu=2000, handlers=seen) as (peer, _):
        send(images, peer)
    assert max(lengths) == 2000


@pytest.mark.parametrize("status", [0xA700, 0xB000, 0x0000])
def test_the_answer_is_what_the_peer_says(images, status):
    with pacs(store=lambda _event: status) as (peer, _):
        assert [answer.status for answer in send(images, peer)] == [status] * 3


def test_an_object_that_names_itself_otherwise_in_its_meta_goes_by_its_data_set(images):
    dataset = dcmread(images[0])
    own = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.save_as(images[0])
    asked = []

    def store(event):
        asked.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    with pacs(store=store) as (peer, received):
        send(images[:1], peer)
    assert asked == [own]
    assert received == datasets(images[:1])


def raw(event, content):
    event.assoc.dul.socket.socket.sendall(content)


def response(*, message_id=1, field=C_STORE_RSP, context=1, control=3):
    elements = ((COMMAND_FIELD, field), (RESPONDED_TO, message_id), (STATUS, 0))
    body = b"".join(struct.pack("<HHLH", 0, element, 2, value) for element, value in elements)
    value = struct.pack(">LBB", len(body) + 2, context, control) + body
    return P_DATA + struct.pack(">L", len(value)) + value


NO_ANSWERS = {
    "an abort": (ABORT, "aborted the association"),
    "a release": (b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00", "without an answer"),
    "another protocol": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no DICOM response"),
    "a PDU of 4 GB": (P_DATA + b"\xff\xff\xff\xff", "no DICOM response"),
    "the answer to another request": (response(message_id=7), "another request"),
    "the answer of another service": (response(field=0x8030), "no C-STORE response"),
    "another context": (response(context=3), "cannot be understood"),
    "a data set": (response(control=2), "cannot be understood"),
    "half a value": (P_DATA + b"\0\0\0\x03abc", "cannot be understood"),
    "a value longer than its PDU": (
        P_DATA + b"\0\0\0\x06\0\0\xff\xff\x01\x03",
        "cannot be understood",
    ),
}


@pytest.mark.parametrize("what", NO_ANSWERS)
def test_an_answer_that_is_none_ends_the_association_with_what_was_said(images, what):
    said, reported = NO_ANSWERS[what]

    def store(event):
        raw(event, said)
        time.sleep(0.2)
        return 0x0000

    with pacs(store=store) as (peer, _), pytest.raises(store_scu.PeerError, match=reported):
        send(images, peer)


def test_an_answer_in_pieces_is_put_together(images):
    def store(event):
        whole = response()
        body = whole[12:]
        for number, at in enumerate(range(0, len(body), 10)):
            piece = body[at : at + 10]
            control = 3 if at + 10 >= len(body) else 1
            value = struct.pack(">LBB", len(piece) + 2, 1, control) + piece
            raw(event, P_DATA + struct.pack(">L", len(value)) + value)
            time.sleep(0.01 * (number < 2))
        event.assoc.dul.socket.socket.recv(1)  # pynetdicom's own answer would be a second one
        event.assoc.abort()
        return 0x0000

    with pacs(store=store) as (peer, _):
        entity = store_scu.read_instance(images[0])
        contexts = [build_context(CTImageStorage, "1.2.840.10008.1.2.1")]
        with store_scu.associated(peer, "OVERREAD", contexts, tls=None) as association:
            assert store_scu.store(association, entity, peer).status == 0
            association.abort()


def large(path, megabytes=20):
    content = path.read_bytes()
    at = content.rindex(b"\xe0\x7f\x10\x00OW\0\0") + 8
    size = megabytes * 1_000_000
    path.write_bytes(content[:at] + struct.pack("<L", size) + bytes(size))
    return path


def test_a_peer_that_dies_within_an_object_is_an_error_at_once(images):
    seen = []

    def die(event):
        seen.append(len(event.data))
        if sum(seen) > 1_000_000:
            connection = event.assoc.dul.socket.socket
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()  # as the kernel does for a process that was killed

    started = time.monotonic()
    with (
        pacs(handlers=[(evt.EVT_DATA_RECV, die)]) as (peer, _),
        pytest.raises(store_scu.PeerError, match="broke off"),
    ):
        send([large(images[0])], peer)
    assert time.monotonic() - started < 30


def test_a_peer_that_stops_reading_within_an_object_is_an_error_in_time(images, monkeypatch):
    monkeypatch.setattr(store_scu, "_RESPONSE_TIMEOUT", 1.0)
    go_on = threading.Event()
    stop = [(evt.EVT_DATA_RECV, lambda event: len(event.data) > 10_000 and go_on.wait(20))]
    with pacs(handlers=stop) as (peer, _):
        started = time.monotonic()
        with pytest.raises(store_scu.PeerError, match="took nothing more"):
            send([large(images[0])], peer)
        assert time.monotonic() - started < 10
        go_on.set()


def test_a_peer_that_does_not_answer_is_told_that_nobody_waits_any_more(images, monkeypatch):
    monkeypatch.setattr(store_scu, "_RESPONSE_TIMEOUT", 1.0)
    aborted, go_on = threading.Event(), threading.Event()

    def store(_event):
        go_on.wait(30)
        return 0x0000

    handlers = [(evt.EVT_ABORTED, lambda _event: aborted.set())]
    with pacs(store=store, handlers=handlers) as (peer, _):
        with pytest.raises(store_scu.PeerError, match="did not answer"):
            send(images, peer)
        go_on.set()
        assert aborted.wait(30)


def test_a_file_that_has_become_shorter_is_not_padded(images, monkeypatch):
    original = os.fstat

    def longer(descriptor):
        found = original(descriptor)
        return os.stat_result([*found[:6], found.st_size + 1000, *found[7:]])

    monkeypatch.setattr(store_transfer.os, "fstat", longer)
    with pacs() as (peer, received), pytest.raises(store_scu.PeerError, match="sh") as refused:
        send(images, peer)
    assert "disk" in refused.value.remedy
    assert received == []


def test_pynetdicoms_threads_leave_the_connection_alone_during_a_transfer(images):
    """Where this fails, an update of pynetdicom reads connections by another way."""
    with pacs() as (peer, _):
        contexts = [build_context(CTImageStorage, "1.2.840.10008.1.2.1")]
        with store_scu.associated(peer, "OVERREAD", contexts, tls=None) as association:
            with held_connection.holding(association).held() as connection:
                server = association.acceptor.primitive is not None
                assert server
                ours = connection.getsockname()
                theirs = [
                    one
                    for one in threading.enumerate()
                    if getattr(one, "is_acceptor", False) and one.requestor.port == ours[1]
                ]
                theirs[0].dul.socket.socket.sendall(ABORT)
                time.sleep(0.5)
                assert connection.recv(100, socket.MSG_PEEK) == ABORT
                assert association.is_established
            await_true(lambda: not association.is_established, 30, "the abort to be heard")


@needs_dcmtk
@pytest.mark.peers
def test_dcmtk_receives_what_lies_in_the_files(images, tmp_path):
    (port,) = free_ports(1)
    with running(Storescp(tmp_path / "out", port, options=["--bit-preserving"])) as (storescp,):
        peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)
        assert [answer.status for answer in send(images, peer)] == [0, 0, 0]
        got = sorted(storescp.folder.iterdir(), key=lambda path: dcmread(path).InstanceNumber)
        assert datasets(got) == datasets(images)


def test_a_thread_that_was_about_to_read_when_a_transfer_began_takes_no_answer(images, monkeypatch):
    look = DULServiceProvider._is_transport_event

    def look_late(self):
        if self.assoc.is_requestor and self.state_machine.current_state == "Sta6":
            time.sleep(0.3)  # as a busy machine has threads stand still anywhere
        return look(self)

    def prepare_late(association):
        time.sleep(0.1)  # so that it is asleep in there already
        held_connection.hold_connection(association)

    answer = store_transfer._response

    def answer_late(*arguments):
        time.sleep(0.5)  # so that it wakes up before the answer is read
        return answer(*arguments)

    monkeypatch.setattr(DULServiceProvider, "_is_transport_event", look_late)
    monkeypatch.setattr(store_scu, "hold_connection", prepare_late)
    monkeypatch.setattr(store_transfer, "_response", answer_late)
    monkeypatch.setattr(store_scu, "_RESPONSE_TIMEOUT", 2.0)
    with pacs() as (peer, _):
        assert [answer.status for answer in send(images[:1], peer)] == [0]
