"""Real associations, damaged on their way: the listener drops them, and serves the next.

OVERREAD_FUZZ_EXAMPLES says how many. The listener is a process of its own, of which what it holds
is counted.
"""

import json
import os
import socket
import struct
import subprocess
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet as StudyRootGet,
)
from pynetdicom.sop_class import Verification

from node import store_scu
from tests.node.configuration import write_config
from tests.node.encodings import write_series
from tests.node.listener_process import ListenerProcess
from tests.node.test_listener import DCMTK, ENVIRONMENT, associate
from tests.node.test_storage_commitment import ask
from tests.system.peers import await_true

EXAMPLES = int(os.environ.get("OVERREAD_FUZZ_EXAMPLES", "40"))
CAPTURED = Path(__file__).parent / "associations"
SILENCE = 45  # seconds; a peer that stays silent after connecting has 30

pytestmark = pytest.mark.timeout(300 + EXAMPLES)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    config = write_config(folder, accept_unknown_peers=True)
    config.write_text(config.read_text().replace("[[routes]]", "query = true\n[[routes]]"))
    node = ListenerProcess(config)
    yield node
    node.stop()


@contextmanager
def recorder(port):
    """A port that hands on to `port`; the list that is filled with what each sender sent."""
    streams = []

    def serve():
        while True:
            try:
                sender, _ = server.accept()
            except OSError:
                return
            sent = bytearray()
            streams.append(sent)
            receiver = socket.create_connection(("127.0.0.1", port))
            back = threading.Thread(target=hand_on, args=[receiver, sender, bytearray()])
            back.start()
            hand_on(sender, receiver, sent)
            back.join()
            sender.close()
            receiver.close()

    def hand_on(source, target, kept):
        try:
            while part := source.recv(65536):
                kept += part
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], streams
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def pdus_of(stream):
    """Return what was sent, PDU by PDU (PS3.8 Section 9.3.1)."""
    found = []
    while stream:
        end = 6 + int.from_bytes(stream[2:6], "big")
        found.append(bytes(stream[:end]))
        stream = stream[end:]
    return found


def query(settings, study):
    """Ask for the series of a study, and get it."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "SERIES", study
    wanted.SeriesInstanceUID = wanted.Modality = ""
    association = AE(ae_title="PACS").associate(
        "127.0.0.1",
        settings.node.port,
        contexts=[build_context(one) for one in (StudyRootFind, StudyRootGet, CTImageStorage)],
        ae_title="OVERREAD",
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, lambda _event: 0x0000)],
    )

    def found():
        return [status.Status for status, _ in association.send_c_find(wanted, StudyRootFind)]

    await_true(lambda: found() == [0xFF00, 0x0000], 60, "the series to be listed")
    wanted.QueryRetrieveLevel = "STUDY"
    del wanted.SeriesInstanceUID, wanted.Modality
    got = [status.Status for status, _ in association.send_c_get(wanted, StudyRootGet)]
    assert got[-1] == 0x0000
    association.release()


@pytest.fixture(scope="module")
def captured(node, tmp_path_factory):
    """What peers sent, PDU by PDU: they store, echo, query, retrieve, and ask for commitment."""
    images = write_series(tmp_path_factory.mktemp("scan"), ExplicitVRLittleEndian)
    with recorder(node.settings.node.port) as (port, streams):
        there = node.peer.model_copy(update={"port": port})
        store_scu.send([store_scu.read_instance(path) for path in images], there, "PACS")
        store_scu.echo(there, "PACS")
        through = node.settings.model_copy(
            update={"node": node.settings.node.model_copy(update={"port": port})}
        )
        ask(through, [(CTImageStorage, "1.2.3")])
        query(through, dcmread(images[0]).StudyInstanceUID)
        if not DCMTK.args[0]:
            who = ["-aet", "PACS", "-aec", "OVERREAD", "127.0.0.1", str(port)]
            for command in (["storescu", *who, *map(str, images)], ["echoscu", *who]):
                subprocess.run(command, check=True, env=ENVIRONMENT)
    kept = [path.read_bytes() for path in sorted(CAPTURED.glob("*.bin"))]
    assert kept
    assert len(node.stored()) == len(images)
    return [pdus_of(stream) for stream in (*map(bytes, streams), *kept)]


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "drop", "swap", "length"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=5,
)


def damaged(stream, edits):
    """The PDUs of a stream with some of them changed."""
    pdus = [bytearray(pdu) for pdu in stream]
    for what, where, value in edits:
        which = int(where * len(pdus))
        pdu = pdus[which]
        at = value % max(1, len(pdu))
        if what == "flip" and pdu:
            pdu[at] ^= 1 << value % 8
        elif what == "cut":
            del pdu[at:]
        elif what == "insert":
            pdu[at:at] = value.to_bytes(4, "big")
        elif what == "repeat":
            pdus.insert(which, bytearray(pdu))
        elif what == "drop" and len(pdus) > 1:
            del pdus[which]
        elif what == "swap":
            pdus.append(pdus.pop(which))
        elif what == "length" and len(pdu) >= 6:
            pdu[2:6] = value.to_bytes(4, "big")
    return pdus


def replay(node, pdus, piece):
    """Send PDUs; the association is given time to be negotiated, as a sender gives it."""
    where = ("127.0.0.1", node.settings.node.port)
    with socket.create_connection(where, timeout=5) as connection:
        try:
            connection.sendall(pdus[0])
            connection.settimeout(0.2)
            with suppress(TimeoutError):
                connection.recv(65536)
            connection.settimeout(5)
            rest = b"".join(pdus[1:])
            for start in range(0, len(rest), piece):
                connection.sendall(rest[start : start + piece])
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            return  # ended by the listener, as it should be


def expect_well(node, before):
    """The listener holds what it held before, has no defect in its log, and serves the next."""
    now = held(node)
    await_true(
        lambda: node.threads() <= before[0] and node.files() <= before[1],
        SILENCE,
        f"threads and files to be {before} again that were {now}",
    )
    assert node.process.poll() is None
    assert node.megabytes() < before[2] + 24
    defects = [
        json.loads(line) for line in node.log.read_text().splitlines() if "exception" in line
    ]
    assert not defects
    assert not node.partial()
    for path in node.stored():
        assert dcmread(path).pixel_array.shape == (16, 16)
    association = associate(node.settings, contexts=[build_context(Verification)])
    assert association.send_c_echo().Status == 0
    association.release()
    assert ask(node.settings, [(CTImageStorage, "1.2.3")]) == 0


def held(node):
    return node.threads(), node.files(), node.megabytes()


FUZZED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_damaged_associations_are_dropped_and_the_next_is_served(node, captured):
    for stream in captured * 3:
        replay(node, stream, 1 << 20)
    before = held(node)

    @FUZZED
    @given(st.sampled_from(captured), EDITS, st.sampled_from([7, 1000, 1 << 20]))
    def damage(stream, edits, piece):
        replay(node, damaged(stream, edits), piece)

    damage()
    expect_well(node, before)


NUMBERS = st.one_of(
    st.sampled_from([0x0001, 0x8001, 0x0020, 0x0021, 0x0010, 0x0030, 0x0FFF, 0x0100, 0x0110]),
    st.sampled_from([0x0120, 0x0130, 0x0140, 0x0150, 0x0101, 0x0102, 0x0000, 0xFFFF]),
    st.integers(0, 0xFFFF),
).map(lambda value: struct.pack("<H", value))
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from([b"", b"1.2.840.10008.1.1\0", CTImageStorage.encode() + b"\0", b"1" * 200]),
    st.sampled_from([b"../../etc/passwd", b"\xff" * 16, b"1.2.3.4", b"\0" * 4]),
    st.binary(max_size=24),
)
ELEMENTS = st.tuples(
    st.sampled_from([0x0000, 0x0000, 0x0000, 0x0002, 0x0008]),
    st.sampled_from(
        (
            *(0x0000, 0x0002, 0x0003, 0x0100, 0x0110, 0x0120, 0x0600, 0x0700, 0x0800, 0x0900),
            *(0x0902, 0x1000, 0x1001, 0x1002, 0x1005, 0x1008, 0x1020, 0x1030),
        )
    ),
    VALUES,
    st.sampled_from([0, 0, 0, 0, 0, 1, -2, 1 << 16, 0xFFFFFF00]),
)
VALUE = st.tuples(  # context, message control header, its elements and what follows them
    st.sampled_from([1, 1, 1, 1, 3, 0, 255]),
    st.sampled_from([3, 3, 3, 2, 0, 1, 4, 255]),
    NUMBERS,
    st.lists(ELEMENTS, max_size=6),
    st.binary(max_size=12),
)


def command_value(context, control, kind, elements, tail):
    """A presentation data value with a command set as hostile as drawn."""
    elements = [(0, 0x0100, kind, 0), (0, 0x0110, b"\1\0", 0), *elements]
    body = b"".join(
        struct.pack("<HHL", group, number, (len(value) + more) & 0xFFFFFFFF) + value
        for group, number, value, more in sorted(elements, key=lambda each: each[:2])
    )
    body += tail
    return struct.pack(">LBB", len(body) + 2, context, control) + body


def test_hostile_command_sets_are_answered_or_end_their_association(node, captured):
    request = captured[0][0]
    for stream in captured * 3:
        replay(node, stream, 1 << 20)
    before = held(node)

    @FUZZED
    @given(st.lists(st.lists(VALUE, min_size=1, max_size=3), min_size=1, max_size=5))
    def command(messages):
        pdus = [request]
        for values in messages:
            body = b"".join(command_value(*value) for value in values)
            pdus.append(struct.pack(">BxL", 4, len(body)) + body)
        replay(node, pdus, 1 << 20)

    command()
    expect_well(node, before)
