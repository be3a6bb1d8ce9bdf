"""What a peer may take of the node: associations, speed, memory, threads and time."""

import socket
import struct
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification

from node import reception
from node.listener import Listener
from node.settings import load_settings
from tests.node.configuration import write_config
from tests.node.listener_process import ListenerProcess
from tests.node.test_listener import associate
from tests.node.test_upper_layer import command, pdu, pieces, raw, running
from tests.slices import grid_affine, write_slices
from tests.system.peers import await_true


def limited(folder, *of_the_peer, **node):
    """A node whose first peer has these lines in its section."""
    config = write_config(folder, accept_unknown_peers=True, **node)
    lines = "\n".join([*of_the_peer, "[[routes]]"])
    config.write_text(config.read_text().replace("[[routes]]", lines))
    listener = Listener(load_settings(config))
    listener.start()
    return listener


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(1).integers(-1000, 1000, (4, 512, 512), np.int16)
    return [dcmread(path) for path in write_slices(tmp_path / "scan", pixels, grid_affine())]


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A listener of its own process, with short timeouts."""
    folder = tmp_path_factory.mktemp("node")
    node = ListenerProcess(write_config(folder, acse_timeout_seconds=2, idle_timeout_seconds=2))
    yield node
    node.stop()


either_upper_layer = pytest.mark.parametrize("upper_layer", ["waiting", "pynetdicom"])


@either_upper_layer
def test_a_peer_has_its_own_limit_of_associations(tmp_path, upper_layer):
    listener = limited(tmp_path, "max_associations = 2", upper_layer=upper_layer)
    try:
        settings = listener._settings
        held = [associate(settings) for _ in range(2)]
        third = associate(settings)
        assert third.is_rejected
        assert (third.acceptor.primitive.result, third.acceptor.primitive.diagnostic) == (2, 2)
        other = associate(settings, calling="ANOTHER")
        assert other.is_established
        held.pop().release()
        await_true(lambda: _again(settings, held), 60, "an association after one was released")
        for association in (*held, other):
            association.release()
    finally:
        listener.stop()


def _again(settings, held):
    association = associate(settings)
    if association.is_established:
        held.append(association)
    return association.is_established


@either_upper_layer
def test_a_peer_that_is_paced_is_slowed_and_loses_nothing(tmp_path, images, upper_layer):
    listener = limited(tmp_path, "max_mb_per_second = 1", upper_layer=upper_layer)
    try:
        associations = [associate(listener._settings) for _ in range(2)]
        start = time.monotonic()
        for number, image in enumerate(images):  # 2.1 MB, of which one may come at once
            assert associations[number % 2].send_c_store(image).Status == 0
        assert time.monotonic() - start > 0.9
        for association in associations:
            association.release()
    finally:
        listener.stop()


def test_an_association_that_nothing_comes_over_is_ended(node):
    idle = associate(node.settings)
    assert idle.is_established
    await_true(lambda: idle.is_aborted, 60, "the idle association to end")


def test_a_data_set_may_take_longer_than_an_association_may_be_idle(node, images):
    contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
    association = associate(node.settings, contexts=contexts)
    encoded = encode(images[0], is_implicit_vr=False, is_little_endian=True)
    step = len(encoded) // 7
    raw(association).sendall(pdu((1, 3, command(images[0]))))
    for start in range(0, len(encoded), step):  # 0.5 s apart, where 2 s may pass in all
        value = encoded[start : start + step]
        raw(association).sendall(pdu((1, 2 if start + step >= len(encoded) else 0, value)))
        time.sleep(0.5)
    await_true(node.stored, 60, "the image to be stored")
    association.abort()
    assert [path.stem for path in node.stored()] == [images[0].SOPInstanceUID]


def held(node):
    return node.threads(), node.files()


def expect_as_before(node, before, megabytes):
    await_true(
        lambda: all(map(int.__le__, held(node), before)), 60, f"no more than {before} to be held"
    )
    assert node.megabytes() < megabytes + 24
    assert not node.partial()
    assert "association.failed" not in node.log.read_text()
    assert node.answers()


def connected(node):
    return socket.create_connection(("127.0.0.1", node.settings.node.port), timeout=30)


def is_ended(connection):
    """Whether the node has closed a connection."""
    connection.settimeout(0.01)
    try:
        return not connection.recv(65536)
    except TimeoutError:
        return False
    except OSError:
        return True


TRICKLES = {
    "a header": b"\x01\x00\x00\x00\x00\xd0",
    "an association request": struct.pack(">BxL", 1, 200) + b"\0\1" * 100,
    "nonsense": b"GET / HTTP/1.1\r\n\r\n" * 10,
}


@pytest.mark.parametrize("what", TRICKLES)
def test_a_stranger_that_sends_a_byte_now_and_then_is_ended(node, what):
    before, megabytes = held(node), node.megabytes()
    with connected(node) as connection:
        for at in range(600):
            with suppress(OSError):
                connection.send(TRICKLES[what][at % len(TRICKLES[what]) :][:1])
            if is_ended(connection):
                break
            time.sleep(0.1)
        else:
            pytest.fail("it is served for more than a minute")
    expect_as_before(node, before, megabytes)


def test_a_request_that_trickles_ends_with_the_time_for_requests(tmp_path):
    for settings in running(tmp_path, acse_timeout_seconds=1, idle_timeout_seconds=3600):
        with socket.create_connection(("127.0.0.1", settings.node.port)) as connection:
            connection.send(b"\x01")
            await_true(lambda: is_ended(connection), 30, "the connection to end")


def test_a_peer_that_trickles_within_a_pdu_is_ended(node):
    before, megabytes = held(node), node.megabytes()
    association = associate(node.settings)
    raw(association).sendall(struct.pack(">BxL", 4, 100_000))
    for _ in range(600):
        with suppress(OSError):
            raw(association).send(b"\0")
        if association.is_aborted:
            break
        time.sleep(0.1)
    assert association.is_aborted
    expect_as_before(node, before, megabytes)


def test_a_thousand_silent_connections_take_little_and_keep_nobody_out(node):
    before, megabytes = held(node), node.megabytes()
    silent = []
    for number in range(1000):
        silent.append(connected(node))
        assert number % 50 or node.threads() < before[0] + 3 * node.settings.node.max_associations
    assert node.megabytes() < megabytes + 24
    await_true(node.answers, 60, "the others to be served")
    for one in silent:
        one.close()
    expect_as_before(node, before, megabytes)


def item(kind, body):
    return struct.pack(">BxH", kind, len(body)) + body


def request(*items):
    """An A-ASSOCIATE-RQ PDU with these items (PS3.8 Section 9.3.2)."""
    titles = b"OVERREAD".ljust(16) + b"PACS".ljust(16)
    body = struct.pack(">HH", 1, 0) + titles + b"\0" * 32 + b"".join(items)
    return struct.pack(">BxL", 1, len(body)) + body


def proposed(number, syntaxes):
    names = item(0x30, CTImageStorage.encode()) + b"".join(item(0x40, one) for one in syntaxes)
    return item(0x20, struct.pack(">BBBB", number, 0, 0, 0) + names)


APPLICATION = item(0x10, b"1.2.840.10008.3.1.1.1")
USER = item(0x50, item(0x51, struct.pack(">L", 0)) + item(0x52, b"1.2.3"))
ROLES = item(0x50, item(0x54, b"\0\x051.2.3\1\1") * 4000)
NAME = item(0x50, item(0x51, struct.pack(">L", 1)) + item(0x55, b"x" * 60_000))
EXPLICIT = ExplicitVRLittleEndian.encode()
REQUESTS = {
    "128 contexts of 60 syntaxes": request(
        APPLICATION,
        *(proposed(2 * n + 1, [EXPLICIT, *[b"1.2.%d" % k for k in range(59)]]) for n in range(128)),
        USER,
    ),
    "one context again and again": request(APPLICATION, *[proposed(1, [EXPLICIT])] * 4000, USER),
    "user information of 50 KB": request(APPLICATION, proposed(1, [EXPLICIT]), ROLES),
    "a version name of 60 KB": request(APPLICATION, proposed(1, [EXPLICIT]), NAME),
    "no item at all": request(),
    "items that say they are longer": request(b"\x10\0\xff\xff", b"\x20\0\xff\xff" * 9),
    "a megabyte": struct.pack(">BxL", 1, 1 << 20) + b"\0" * (1 << 20),
    "4 GB": struct.pack(">BxL", 1, 0xFFFFFFFF) + b"\0" * 100_000,
}


@pytest.mark.parametrize("what", REQUESTS)
def test_an_absurd_association_request_takes_little(node, what):
    before, megabytes = held(node), node.megabytes()
    for _ in range(3):
        with connected(node) as connection:
            with suppress(OSError):
                connection.sendall(REQUESTS[what])
                connection.shutdown(socket.SHUT_WR)
            await_true(lambda: is_ended(connection), 60, "an answer and the end")
    expect_as_before(node, before, megabytes)


ECHO = b"".join(
    struct.pack("<HHL", 0, number, len(value)) + value
    for number, value in (
        (0x0002, b"1.2.840.10008.1.1\0"),
        (0x0100, b"\x30\0"),
        (0x0110, b"\x01\0"),
        (0x0800, b"\x01\x01"),
    )
)
REPORT = ECHO.replace(b"\x30\0", b"\x00\x01")


@pytest.mark.parametrize("message", [ECHO, REPORT], ids=["C-ECHO", "N-EVENT-REPORT"])
def test_requests_that_wait_for_no_answer_do_not_pile_up(node, message):
    before, megabytes = held(node), node.megabytes()
    association = associate(node.settings, contexts=[build_context(Verification)])
    connection = raw(association)
    many = pdu((1, 3, message)) * 20_000
    most = 0
    with suppress(OSError):
        for at in range(0, len(many), 40_000):
            connection.sendall(many[at : at + 40_000])
            most = max(most, node.threads())
    association.abort()
    assert most < before[0] + 40
    expect_as_before(node, before, megabytes)


RELEASED = struct.pack(">BxL", 6, 4) + b"\0" * 4  # A-RELEASE-RP
NONSENSE = {  # found by fuzzing
    "a command set without a command": pdu((1, 3, ECHO.replace(b"\0\0\0\1", b"\0\0\1\1"))),
    "a release that nobody asked for": RELEASED,
    "nonsense once it is aborted": pdu((1, 3, b"\0" * 40)) + b"\x04\0\x7f\xff\xff\xff" * 4000,
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_ends_its_association_and_is_logged_once(node, what):
    before, megabytes, lines = held(node), node.megabytes(), len(node.log.read_text().splitlines())
    association = associate(node.settings, contexts=[build_context(Verification)])
    with suppress(OSError):
        raw(association).sendall(NONSENSE[what])
    await_true(lambda: association.is_aborted, 60, "the end of the association")
    expect_as_before(node, before, megabytes)
    assert len(node.log.read_text().splitlines()) < lines + 6


@pytest.mark.parametrize("control", [1, 0], ids=["command set", "data set"])
def test_a_message_that_never_ends_is_not_kept(node, control):
    """Neither of a request that pynetdicom gathers in memory."""
    before, megabytes = held(node), node.megabytes()
    association = associate(node.settings, contexts=[build_context(Verification)])
    connection = raw(association)
    most = 0
    with suppress(OSError):
        if not control:
            connection.sendall(pdu((1, 3, REPORT.replace(b"\x01\x01", b"\0\0"))))
        for _ in range(800):  # 100 MB
            connection.sendall(pdu((1, control, b"\0" * 130_000)))
            most = max(most, node.megabytes())
    association.abort()
    assert most < megabytes + 100
    expect_as_before(node, before, megabytes)


def test_a_data_set_that_never_ends_is_not_kept(tmp_path, images, monkeypatch):
    monkeypatch.setattr(reception, "IN_MEMORY", 1 << 20)
    monkeypatch.setattr(reception, "MAXIMUM_INSTANCE", 4 << 20)
    for settings in running(tmp_path):
        association = associate(settings)
        raw(association).sendall(pdu((1, 3, command(images[0]))))
        for _ in range(160):
            raw(association).sendall(pdu((1, 0, b"\0" * 130_000)))
        await_true(lambda: not pieces(settings), 60, "what was written of it to go")  # noqa: B023
        association.abort()


def test_a_peer_that_is_gone_without_a_word_is_asked_for(tmp_path):
    for settings in running(tmp_path):
        association = associate(settings)
        (ours,) = [one for one in threading.enumerate() if one.name.startswith("AcceptorThread")]
        connection = ours.dul.socket.socket
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        association.release()
