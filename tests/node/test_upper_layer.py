"""The upper layer that waits: stores what pynetdicom's would, and ends what is no DICOM."""

import hashlib
import inspect
import os
import re
import socket
import struct
import subprocess
import threading
import time
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pynetdicom
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, transport
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.service_class import QueryRetrieveServiceClass
from pynetdicom.sop_class import Verification
from pynetdicom.timer import Timer
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

from node import reception, upper_layer
from node.association_listener import AssociationListener
from node.listener import Listener, _application_entity
from node.settings import load_settings
from tests.node.configuration import write_config
from tests.node.test_listener import associate, spooled
from tests.slices import grid_affine, write_slices
from tests.system.peers import REPOSITORY

# What the upper layer, the association listener and retrievals override, call, are called by or
# read the state of. Where pynetdicom changes one of them, read the change, see whether they still
# hold, and write the new digest here.
PYNETDICOM = {
    AE.make_server: "6569298ac5cf837c",
    AE.shutdown: "3084723b79cf471e",
    ACSE._negotiate_as_acceptor: "fffd360957c42a8e",
    Association.__init__: "eb07516b8009ad8f",
    Association._run_reactor: "f28838c5559e462a",
    Association.kill: "8f9713666a7f4cff",
    Association.run_reactor: "ed8bbbe3b3d6ddae",
    AssociationServer: "43a9a62b2c40dea4",
    AssociationSocket: "4f95b1dce6067f32",
    DIMSEServiceProvider.receive_primitive: "5f99c86b14a15cef",
    DULServiceProvider: "c0a5c6a4618efd94",
    QueryRetrieveServiceClass._get_scp: "8ca1538e3e56c4f7",
    QueryRetrieveServiceClass._move_scp: "5c14d1be3d737bef",
    RequestHandler: "e2184a069d1f8e5a",
    Timer: "77ddae7423f544b1",
    pynetdicom.fsm: "2fc1cecfa043749e",
}


# The modules that may touch its private names; `_lock` is one of ours as well.
TOUCHING = ("association_listener", "held_connection", "reactor_checkpoint", "upper_layer")
OURS = {"_lock"}
PRIVATE = re.compile(r"(?:\.|\bdef )(_[a-z]\w+)")


@pytest.mark.parametrize("reads", PYNETDICOM, ids=lambda each: each.__name__)
def test_pynetdicom_is_the_one_that_the_upper_layer_was_written_for(reads):
    found = hashlib.sha256(inspect.getsource(reads).encode()).hexdigest()[:16]
    assert found == PYNETDICOM[reads]


def private_names(found):
    """Those among `found` that are private names of pynetdicom's."""
    parts = ("ae", "association", "dimse", "dul", "transport")
    theirs = [getattr(pynetdicom, part) for part in parts]
    return {*found} & {*PRIVATE.findall("".join(map(inspect.getsource, theirs)))} - OURS


def test_private_names_are_touched_where_the_proposal_says_and_nowhere_else():
    code = {path.stem: path.read_text() for path in (REPOSITORY / "node").rglob("*.py")}
    touched = private_names(PRIVATE.findall("".join(code.pop(module) for module in TOUCHING)))
    architecture = (REPOSITORY / "docs" / "architecture.md").read_text()
    proposal = architecture.split("## What pynetdicom would have to offer")[1].split("\n## ")[0]
    assert {*re.findall(r"`(_[a-z]\w+)`", proposal)} == touched
    for module, text in code.items():
        if "pynetdicom" in text:
            assert not private_names(re.findall(r"(?<!self)\.(_[a-z]\w+)", text)), module


@pytest.fixture(params=["waiting", "pynetdicom"])
def node(tmp_path, request):
    yield from running(tmp_path, upper_layer=request.param)


@pytest.fixture
def waiting(tmp_path):
    yield from running(tmp_path)


def running(folder, **node):
    listener = Listener(load_settings(write_config(folder, quiet_seconds=1, **node)))
    listener.start()
    yield listener._settings
    listener.stop()


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(1).integers(-1000, 1000, (3, 256, 256), np.int16)
    return [dcmread(path) for path in write_slices(tmp_path / "scan", pixels, grid_affine())]


def pieces(settings):
    """What lies half-written in the spool."""
    return list((settings.spool_dir / ".incoming").iterdir())


def data_of(settings):
    return {path.stem: dcmread(path).PixelData for path in spooled(settings)}


def expect_abort(association, settings):
    deadline = time.monotonic() + 10
    while not association.is_aborted and time.monotonic() < deadline:
        time.sleep(0.02)
    assert association.is_aborted
    assert not spooled(settings)
    while pieces(settings) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not pieces(settings)
    again = associate(settings)  # and the others are served
    assert again.is_established
    again.release()


def await_association(settings):
    """An association as soon as there may be one."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        association = associate(settings)
        if association.is_established:
            return association
        time.sleep(0.2)
    pytest.fail("no association was let in")
    return None


def raw(association):
    return association.dul.socket.socket


def pdu(*values):
    body = b"".join(
        struct.pack(">LBB", len(value) + 2, context, control) + value
        for context, control, value in values
    )
    return struct.pack(">BxL", 4, len(body)) + body


def command(image, **changes):
    """A C-STORE-RQ command set, elements changed or taken away by their number."""
    elements = {
        0x0002: image.SOPClassUID.encode() + b"\0" * (len(image.SOPClassUID) % 2),
        0x0100: b"\x01\x00",
        0x0110: b"\x01\x00",
        0x0700: b"\x00\x00",
        0x0800: b"\x00\x00",
        0x1000: image.SOPInstanceUID.encode() + b"\0" * (len(image.SOPInstanceUID) % 2),
    }
    return b"".join(struct.pack("<HHL", 0, tag, len(v)) + v for tag, v in elements.items())


def test_images_arrive_whole_between_echoes(node, images):
    contexts = [build_context(CTImageStorage), build_context(Verification)]
    association = associate(node, contexts=contexts)
    for image in images:
        assert association.send_c_store(image).Status == 0
        assert association.send_c_echo().Status == 0
    association.release()
    assert association.is_released
    assert data_of(node) == {image.SOPInstanceUID: image.PixelData for image in images}
    stored = dcmread(spooled(node)[0]).file_meta
    assert stored.MediaStorageSOPClassUID == CTImageStorage
    assert stored.SourceApplicationEntityTitle == "PACS"


def test_each_presentation_context_has_its_own_transfer_syntax(node, tmp_path):
    pixels = np.zeros((1, 8, 8), np.int16)
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        place = tmp_path / syntax.name
        (image,) = write_slices(place, pixels, grid_affine(), transfer_syntax=syntax)
        association = associate(node, contexts=[build_context(CTImageStorage, syntax)])
        assert association.send_c_store(dcmread(image)).Status == 0
        association.release()
        (kept,) = spooled(node)
        assert dcmread(kept).file_meta.TransferSyntaxUID == syntax
        kept.unlink()


def test_a_large_data_set_is_written_as_it_comes(waiting, images, monkeypatch):
    monkeypatch.setattr(reception, "IN_MEMORY", 20_000)
    association = associate(waiting)
    for image in images:
        assert association.send_c_store(image).Status == 0
    association.release()
    assert data_of(waiting) == {image.SOPInstanceUID: image.PixelData for image in images}
    assert not pieces(waiting)


def test_a_large_data_set_that_is_cut_short_is_refused(waiting, images, monkeypatch):
    monkeypatch.setattr(reception, "IN_MEMORY", 20_000)
    association = associate(waiting)
    images[0].Rows = 300
    assert association.send_c_store(images[0]).Status == 0xC000
    assert association.send_c_store(images[1]).Status == 0
    association.release()
    assert not pieces(waiting)


@pytest.mark.parametrize("in_memory", [20_000, 1 << 20])
def test_an_association_that_ends_within_a_data_set_leaves_nothing(
    waiting, images, monkeypatch, in_memory
):
    monkeypatch.setattr(reception, "IN_MEMORY", in_memory)
    association = associate(waiting)
    raw(association).sendall(pdu((1, 3, command(images[0]))) + pdu((1, 0, b"\0" * 60_000)))
    raw(association).sendall(pdu((1, 0, b"\0" * 60_000)))
    time.sleep(0.2)
    association.abort()
    expect_abort(association, waiting)


def test_tiny_pieces_take_no_more_memory_than_large_ones(waiting, images, monkeypatch):
    """A piece of two bytes takes a hundred times that in memory."""
    monkeypatch.setattr(reception, "IN_MEMORY", 100_000)
    association = associate(waiting)
    raw(association).sendall(pdu((1, 3, command(images[0]))))
    raw(association).sendall(b"".join(pdu((1, 0, b"\0\0")) for _ in range(1000)))
    deadline = time.monotonic() + 10
    while not pieces(waiting) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert pieces(waiting)
    association.abort()
    expect_abort(association, waiting)


def test_nothing_is_rung_that_is_closed(waiting, monkeypatch):
    """The number of a closed bell may be an instance's file by then: it would be written to."""
    association = associate(waiting, contexts=[build_context(Verification)])
    (acceptor,) = [thread for thread in threading.enumerate() if "AcceptorThread" in thread.name]
    association.release()
    acceptor.join(10)
    acceptor.dul.join(10)
    rung = []
    monkeypatch.setattr(upper_layer.os, "eventfd_write", lambda *said: rung.append(said))
    acceptor.dul.kill_dul()
    acceptor.dul.stop_dul()
    assert rung == []


MALFORMED = {
    "a PDU longer than negotiated": lambda _: struct.pack(">BxL", 4, 131073),
    "a PDU of 4 GB": lambda _: struct.pack(">BxL", 4, 0xFFFFFFFF),
    "an A-ASSOCIATE-RQ of 4 GB": lambda _: struct.pack(">BxL", 1, 0xFFFFFFFF),
    "a PDU of no known type": lambda _: struct.pack(">BxL", 9, 4) + b"\0\0\0\0",
    "a value longer than its PDU": lambda image: (
        pdu((1, 3, command(image))) + struct.pack(">BxLLBB", 4, 6, 900, 1, 0)
    ),
    "a value of no length": lambda image: (
        pdu((1, 3, command(image))) + struct.pack(">BxLLBB", 4, 6, 0, 1, 0)
    ),
    "another context within a data set": lambda image: (
        pdu((1, 3, command(image)), (1, 0, b"\0\0")) + pdu((3, 2, b"\0\0"))
    ),
    "a command within a data set": lambda image: (
        pdu((1, 3, command(image)), (1, 0, b"\0\0")) + pdu((1, 3, command(image)))
    ),
    "a context that was not accepted": lambda image: pdu((77, 3, command(image)), (77, 2, b"\0\0")),
    "a message behind the end of a data set": lambda image: pdu(
        (1, 3, command(image)), (1, 2, b"\0\0"), (1, 3, command(image))
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_no_peer_may_send_ends_its_association_alone(waiting, images, what):
    association = associate(waiting)
    raw(association).sendall(MALFORMED[what](images[0]))
    expect_abort(association, waiting)


def test_a_burst_of_associations_is_served(waiting):
    opened, failed = [], []

    def open_one():
        association = associate(waiting)
        (opened if association.is_established else failed).append(association)

    threads = [threading.Thread(target=open_one) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(opened), failed) == (40, [])
    for association in opened:
        association.release()
    assert all(association.is_released for association in opened)


def test_connections_that_say_nothing_keep_nobody_out_and_are_bounded(tmp_path):
    for settings in running(tmp_path, max_associations=10):
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", settings.node.port)) for _ in range(9)]
        await_association(settings).release()
        silent += [socket.create_connection(("127.0.0.1", settings.node.port)) for _ in range(40)]
        time.sleep(0.5)
        assert threading.active_count() < before + 3 * 10
        for one in silent:
            one.close()
        again = await_association(settings)
        again.release()


def test_garbage_is_looked_for_after_connections_alone(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(transport, "gc", SimpleNamespace(collect=lambda: looked.append(1)))
    listener = Listener(load_settings(write_config(tmp_path)))
    listener.start()
    (server,) = listener._entity._servers
    for _ in range(200):  # as it does by itself, twice a second
        server.service_actions()
    assert not looked
    associate(listener._settings, contexts=[build_context(Verification)]).release()
    for _ in range(200):
        server.service_actions()
    listener.stop()
    assert len(looked) == 1


def test_one_association_too_many_is_rejected_for_now(tmp_path):
    for settings in running(tmp_path, max_associations=2):
        held = [associate(settings) for _ in range(2)]
        third = associate(settings)
        assert third.is_rejected
        assert (third.acceptor.primitive.result, third.acceptor.primitive.diagnostic) == (2, 2)
        held.pop().release()
        held.append(await_association(settings))
        for association in held:
            association.release()


def test_negotiation_changes_no_context_of_the_server(waiting, images):
    entity = _application_entity(waiting)
    contexts = entity.supported_contexts
    before = deepcopy(contexts)
    server = entity.make_server(
        ("127.0.0.1", 0),
        server_class=AssociationListener,
        begin=lambda _: None,
        most_associations=10,
        secured_by=None,
        shares_port=False,
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proposed = [build_context(CTImageStorage, ImplicitVRLittleEndian), build_context(Verification)]
    association = AE(ae_title="PACS").associate(
        *server.server_address, contexts=proposed, ae_title="OVERREAD"
    )
    assert association.is_established
    association.release()
    assert server.contexts == before
    entity._servers.append(server)
    entity.shutdown()


def test_a_peer_that_trickles_is_given_up():
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 100_000))

    class Owner:
        network_timeout = 0.3

        class dul:
            class event_queue:
                put = staticmethod(lambda _event: None)

    reader = upper_layer.WaitingSocket(Owner, client_socket=ours)
    stop = threading.Event()

    def trickle():
        while not stop.wait(0.05):
            theirs.send(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    with pytest.raises(OSError, match=r".*"):
        reader.recv(1000)
    stop.set()
    thread.join()


def test_a_peer_that_takes_no_answers_is_given_up():
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200_000))
    events = []

    class Owner:
        class dul:
            class event_queue:
                put = staticmethod(events.append)

    writer = upper_layer.WaitingSocket(Owner, client_socket=ours)
    writer.send(b"\0" * (8 << 20))  # more than any buffer between the two
    assert events[-1] == upper_layer.CONNECTION_CLOSED
    theirs.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_refuses_keeps_the_association_and_recovers(tmp_path, images):
    small = tmp_path / "state"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let a test mount a file system")
    try:
        for settings in running(tmp_path, min_free_gb=0):
            ballast = small / "ballast"
            free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
            ballast.write_bytes(b"\0" * max(0, free - 60_000))
            association = associate(settings)
            assert association.send_c_store(images[0]).Status == 0xA700
            assert not pieces(settings)
            assert not spooled(settings)
            ballast.unlink()
            assert association.send_c_store(images[0]).Status == 0
            association.release()
            assert data_of(settings) == {images[0].SOPInstanceUID: images[0].PixelData}
    finally:
        subprocess.run(["umount", "-l", small], check=True)
