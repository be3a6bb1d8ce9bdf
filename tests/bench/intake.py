"""How fast images are received and durable, as ratios against Orthanc in the same run.

    python tests/bench/intake.py [ROUNDS [IMAGES]]

DCMTK's storescu sends CT slices of 525 KB to each receiver in turn, over one association and over
four at once. Each receiver starts empty in a process of its own. `floor` is a socket that writes
and fsyncs each image and answers a byte, without any DICOM. CPU is that of the receiver alone.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.assembly import phantom
from tests.bench.receivers import (
    ENVIRONMENT,
    RECEIVERS,
    cpu_seconds,
    peak_memory_mb,
    receiver,
    report,
    touch_memory,
)
from tests.slices import grid_affine, write_slices

ASSOCIATIONS = (1, 4)


def send(folders, port):
    """Seconds until storescu has sent each folder over an association of its own."""
    command = ["/usr/bin/storescu", "+sd", "+r", "-aec", "OVERREAD", "127.0.0.1", str(port)]
    started = time.perf_counter()
    senders = [
        subprocess.Popen([*command, str(folder)], env=ENVIRONMENT, stderr=subprocess.PIPE)
        for folder in folders
    ]
    for sender in senders:
        _, said = sender.communicate()
        if sender.returncode:
            raise SystemExit(f"storescu failed: {said.decode()[-400:]}")
    return time.perf_counter() - started


def send_raw(folders, port):
    started = time.perf_counter()
    script = """
import pathlib, socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    content = path.read_bytes()
    connection.sendall(len(content).to_bytes(8, "big") + content)
    connection.recv(1)
"""
    senders = [
        subprocess.Popen([sys.executable, "-c", script, str(folder), str(port)])
        for folder in folders
    ]
    for sender in senders:
        sender.wait()
    return time.perf_counter() - started


def measure(name, folders, scratch):
    """Seconds, CPU seconds and peak memory in MB of one receiver."""
    with receiver(name, scratch) as (process, port):
        touch_memory()
        before = cpu_seconds(process.pid)
        sender = send_raw if name.startswith("floor") else send
        seconds = sender(folders, port)
        spent = cpu_seconds(process.pid) - before
        return seconds, spent, peak_memory_mb(process.pid)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        root = Path(scratch)
        stored = np.concatenate([phantom(8)] * (count // 8 + 1))[:count]
        paths = write_slices(root / "series", stored, grid_affine())
        size = sum(path.stat().st_size for path in paths)
        for associations in ASSOCIATIONS:
            folders = [root / f"{associations}-{index}" for index in range(associations)]
            for index, path in enumerate(paths):
                place = folders[index % associations]
                place.mkdir(exist_ok=True)
                (place / path.name).hardlink_to(path)
            found = {name: [] for name in RECEIVERS}
            for _ in range(rounds):
                for name, results in found.items():
                    results.append(measure(name, folders, scratch))
            report(f"{associations} association(s)", count, size, found)


if __name__ == "__main__":
    main()
