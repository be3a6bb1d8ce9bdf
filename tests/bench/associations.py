"""What associations cost before and between images: opening one, a hundred at once, idle ones.

    python tests/bench/associations.py

The requests are made once and sent as bytes, so that the time is the receiver's. Orthanc is given
as many threads for DICOM as it lets have, for it serves no more associations at once.
"""

import selectors
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pynetdicom import AE, build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.sop_class import CTImageStorage

from tests.bench.receivers import RECEIVERS, cpu_seconds, receiver, touch_memory

COMPARED = (
    "Orthanc",
    "overread",
    "overread on pynetdicom's upper layer",
    "dicom-ai-router (no fsync)",
)
BURST, SINGLE, IDLE, IDLE_SECONDS = 100, 50, 20, 10
PATIENCE = 20  # seconds for a burst
ACCEPTED = 0x02
RELEASE = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"


def request():
    """An A-ASSOCIATE-RQ for CT images, encoded."""
    entity = AE(ae_title="BENCH")
    asked = A_ASSOCIATE()
    asked.application_context_name = "1.2.840.10008.3.1.1.1"
    asked.calling_ae_title, asked.called_ae_title = "BENCH", "OVERREAD"
    context = build_context(CTImageStorage)
    context.context_id = 1
    asked.presentation_context_definition_list = [context]
    length = MaximumLengthNotification()
    length.maximum_length_received = 16382
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = entity.implementation_class_uid
    asked.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(asked)
    return pdu.encode()


def connected(port, encoded):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(encoded)
    return connection


def open_one(port, encoded):
    """Milliseconds until an association is open."""
    started = time.perf_counter()
    connection = connected(port, encoded)
    assert connection.recv(4096)[0] == ACCEPTED
    took = time.perf_counter() - started
    connection.sendall(RELEASE)
    connection.recv(64)
    connection.close()
    return 1000 * took


def open_burst(port, encoded):
    """Seconds until the last of a hundred is answered, and how many were accepted."""
    started = time.perf_counter()
    selector = selectors.DefaultSelector()
    waiting = [connected(port, encoded) for _ in range(BURST)]
    for connection in waiting:
        selector.register(connection, selectors.EVENT_READ)
    accepted, answered = 0, 0
    while answered < BURST and time.perf_counter() - started < PATIENCE:
        for key, _ in selector.select(1):
            said = key.fileobj.recv(4096)
            accepted += said[:1] == bytes([ACCEPTED])
            answered += 1
            selector.unregister(key.fileobj)
    took = time.perf_counter() - started
    for connection in waiting:
        connection.close()
    return took, accepted


def idle_share(process, port, encoded, count):
    """Percent of a core that a receiver takes with open associations while nothing is sent."""
    held = [connected(port, encoded) for _ in range(count)]
    time.sleep(1)
    before = cpu_seconds(process.pid)
    time.sleep(IDLE_SECONDS)
    spent = cpu_seconds(process.pid) - before
    for connection in held:
        connection.close()
    return 100 * spent / IDLE_SECONDS


def main():
    encoded = request()
    touch_memory()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        for name in COMPARED:
            assert name in RECEIVERS
            with receiver(name, scratch) as (process, port):
                one = statistics.median(open_one(port, encoded) for _ in range(SINGLE))
                burst, accepted = open_burst(port, encoded)
            with receiver(name, scratch) as (process, port):
                none, idle = (idle_share(process, port, encoded, count) for count in (0, IDLE))
            print(
                f"{name:38s} opens in {one:5.1f} ms; {BURST} at once: {accepted} in {burst:5.2f} s;"
                f" {IDLE} idle: {idle:5.1f} % of a core, none: {none:5.1f} %"
            )


if __name__ == "__main__":
    main()
