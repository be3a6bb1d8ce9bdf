"""Real associations, damaged on their way: the listener drops them, and serves the next."""

import os
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import CTImageStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import Verification

from node.listener import Listener
from node.settings import load_settings
from tests.node.configuration import write_config
from tests.node.test_listener import associate
from tests.node.test_storage_commitment import ask
from tests.slices import grid_affine, write_slices

EXAMPLES = int(os.environ.get("OVERREAD_FUZZ_EXAMPLES", "60"))


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    listener = Listener(load_settings(write_config(folder, accept_unknown_peers=True)))
    listener.start()
    yield listener._settings
    listener.stop()


@pytest.fixture(scope="module")
def captured(node, tmp_path_factory):
    """What two peers sent, PDU by PDU: one stores, one echoes."""
    pixels = np.zeros((2, 16, 16), np.int16)
    images = write_slices(tmp_path_factory.mktemp("scan"), pixels, grid_affine())
    streams = []
    for context in (CTImageStorage, Verification):
        sent = []
        entity = AE(ae_title="PACS")
        association = entity.associate(
            "127.0.0.1",
            node.node.port,
            contexts=[build_context(context)],
            ae_title="OVERREAD",
            evt_handlers=[(evt.EVT_DATA_SENT, lambda event, sent=sent: sent.append(event.data))],
        )
        if context == Verification:
            association.send_c_echo()
        else:
            for image in images:
                association.send_c_store(dcmread(image))
        association.release()
        streams.append(sent)
    return streams


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
    return b"".join(pdus)


def send(node, stream, piece):
    with socket.create_connection(("127.0.0.1", node.node.port), timeout=5) as connection:
        try:
            for start in range(0, len(stream), piece):
                connection.sendall(stream[start : start + piece])
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            return  # ended by the listener, as it should be


def test_damaged_associations_are_dropped_and_the_next_is_served(node, captured):
    before = threading.active_count()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.sampled_from(range(len(captured))),
        EDITS,
        st.sampled_from([7, 1000, 1 << 20]),
    )
    def damage(which, edits, piece):
        send(node, damaged(captured[which], edits), piece)

    damage()
    deadline = time.monotonic() + 45  # a peer that stays silent after connecting has 30 s
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert threading.active_count() <= before
    assert not list((node.spool_dir / ".incoming").iterdir())
    for path in node.spool_dir.glob("[0-9]*/*/*.dcm"):
        assert dcmread(path).pixel_array.shape == (16, 16)
    association = associate(node, contexts=[build_context(Verification)])
    assert association.send_c_echo().Status == 0
    association.release()
    assert ask(node, [(CTImageStorage, "1.2.3")]) == 0
