"""How fast objects are sent, as ratios against DCMTK's storescu in the same run.

    python tests/bench/sending.py [ROUNDS]

One object of 210 MB and 400 CT slices of 525 KB, over one association each, to a socket that reads
PDUs and answers each C-STORE (`sink`, with PDUs of 16 KB and of 128 KB), and to DCMTK's storescp,
which writes files. Senders take turns. `stock` is pynetdicom's own way to send a file. Time is that
of the association with its objects; storescu's includes its start, a few milliseconds.
"""

import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pynetdicom import _config

sys.path.insert(0, str(Path(__file__).parents[2]))

from node import store_scu
from node.settings import Peer
from tests.bench.assembly import phantom
from tests.node.configuration import free_ports
from tests.slices import grid_affine, write_slices
from tests.system.peers import Storescp, await_true

_config.STORE_SEND_CHUNKED_DATASET = True  # `stock` at its best
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}  # else Debian's DCMTK waits 40 ms an image
SINK = """
import socket, struct, sys
from pynetdicom import AE, evt
sys.path.insert(0, sys.argv[3])
from node.upper_layer import MAXIMUM_PDU
import node.upper_layer as upper_layer
from node.association_listener import listen
from node.store_request import StoreAnswer
class Sink:
    def __init__(self, _request): pass
    def add(self, _piece): pass
    def finish(self): return StoreAnswer(0)
    def drop(self): pass
entity = AE(ae_title="PACS")
entity.maximum_pdu_size = int(sys.argv[2])
entity.add_supported_context("1.2.840.10008.1.1")
for sop_class in ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"):
    entity.add_supported_context(sop_class, ["1.2.840.10008.1.2.1"])
listen(entity, ("127.0.0.1", int(sys.argv[1])), [], Sink, most_associations=10)
import threading; threading.Event().wait()
"""


class Sink:
    """A receiver that keeps nothing, in a process of its own."""

    def __init__(self, port, pdu):
        command = [sys.executable, "-c", SINK, str(port), str(pdu), str(Path(__file__).parents[2])]
        self._process = subprocess.Popen(command)
        await_true(lambda: answers(port), 60, "the sink to start")

    def stop(self):
        self._process.terminate()
        self._process.wait(10)


def peer_at(port):
    return Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)


def answers(port):
    try:
        store_scu.echo(peer_at(port), "BENCH")
    except store_scu.PeerError:
        return False
    return True


def by_overread(paths, port):
    instances = [store_scu.read_instance(path) for path in paths]
    answered = store_scu.send(instances, peer_at(port), "BENCH")
    assert all(answer.taken for answer in answered)


def by_pynetdicom(paths, port):
    instances = [store_scu.read_instance(path) for path in paths]
    contexts = store_scu._contexts(instances)
    with store_scu.associated(peer_at(port), "BENCH", contexts, tls=None) as association:
        for instance in instances:
            assert association.send_c_store(instance.path).Status == 0


def by_storescu(paths, port):
    command = ["/usr/bin/storescu", "-aec", "PACS", "127.0.0.1", str(port)]
    subprocess.run([*command, *map(str, paths)], check=True, env=ENVIRONMENT)


SENDERS = {"storescu": by_storescu, "overread": by_overread, "stock": by_pynetdicom}


def cpu():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(receivers, paths, rounds):
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    print(f"{len(paths)} object(s), {megabytes:.0f} MB")
    for name, port in receivers.items():
        found = {sender: [] for sender in SENDERS}
        for _ in range(rounds):
            for sender, send in SENDERS.items():
                started, before = time.perf_counter(), cpu()
                send(paths, port)
                found[sender].append((time.perf_counter() - started, cpu() - before))
        for sender, results in found.items():
            ratios = [
                base / mine for (mine, _), (base, _) in zip(results, found["storescu"], strict=True)
            ]
            seconds = statistics.median(one for one, _ in results)
            spent = statistics.median(one for _, one in results)
            print(
                f"  to {name:22s} {sender:9s} {seconds:6.2f} s {megabytes / seconds:6.0f} MB/s "
                f"{statistics.median(ratios):5.2f} of storescu's, {spent / megabytes * 1e3:5.2f} "
                "CPU s/GB"
            )


def large_object(folder, template):
    """An object of 210 MB: 400 slices' worth of pixels in one file."""
    content = template.read_bytes()
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 0)[:8]
    at = content.rindex(pixels)
    size = 210_000_000
    path = folder / "large.dcm"
    path.write_bytes(content[: at + 8] + struct.pack("<L", size) + bytes(size))
    return path


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        root = Path(scratch)
        stored = np.concatenate([phantom(8)] * 50)
        slices = write_slices(root / "series", stored, grid_affine())
        large = [large_object(root, slices[0])]
        ports = free_ports(3)
        storescp = Storescp(root / "out", ports[2], options=["--ignore"])
        running = [Sink(ports[0], 131072), Sink(ports[1], 16384), storescp]
        receivers = dict(
            zip(("sink, PDUs of 128 KB", "sink, PDUs of 16 KB", "storescp"), ports, strict=True)
        )
        try:
            for paths in (large, slices):
                measure(receivers, paths, rounds)
        finally:
            for one in running:
                one.stop()


if __name__ == "__main__":
    main()
