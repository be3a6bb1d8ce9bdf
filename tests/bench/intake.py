"""How fast images are received and durable, as ratios against Orthanc in the same run.

    python tests/bench/intake.py [ROUNDS [IMAGES]]

DCMTK's storescu sends CT slices of 525 KB to each receiver in turn, over one association and over
four at once. Each receiver starts empty in a process of its own. `floor` is a socket that writes
and fsyncs each image and answers a byte, without any DICOM. CPU is that of the receiver alone.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from node.settings import Peer
from node.store_scu import PeerError, echo
from tests.bench.assembly import phantom
from tests.node.configuration import free_ports, write_config
from tests.slices import grid_affine, write_slices

ASSOCIATIONS = (1, 4)
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}  # else Debian's DCMTK waits 40 ms an image
TICKS = os.sysconf("SC_CLK_TCK")

LISTENER = """
import sys
from pathlib import Path
from node.listener import run_listener
from node.settings import load_settings
run_listener(load_settings(Path(sys.argv[1])))
"""
FLOOR = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[2])), backlog=16)
folder = sys.argv[1]
def serve(connection, name):
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    count = 0
    while header := connection.recv(8, socket.MSG_WAITALL):
        length = int.from_bytes(header, "big")
        connection.recv_into(view[:length], 0, socket.MSG_WAITALL)
        file = os.open(f"{folder}/{name}-{count}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(file, view[:length])
        os.fsync(file)
        os.close(file)
        count += 1
        connection.sendall(b"\\0")
import threading
name = 0
while True:
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=serve, args=(connection, name), daemon=True).start()
    name += 1
"""


def overread(folder, port, upper_layer):
    config = write_config(folder, port=port, accept_unknown_peers=True, upper_layer=upper_layer)
    return [sys.executable, "-c", LISTENER, str(config)]


def orthanc(folder, port):
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomAet": "OVERREAD",
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return ["/usr/sbin/Orthanc", str(folder / "orthanc.json")]


def storescp(folder, port):
    (folder / "out").mkdir()
    out = str(folder / "out")
    return ["/usr/bin/storescp", "-aet", "OVERREAD", "--fork", "-od", out, str(port)]


def floor(folder, port):
    return [sys.executable, "-c", FLOOR, str(folder), str(port)]


RECEIVERS = {
    "Orthanc": orthanc,
    "overread": lambda folder, port: overread(folder, port, "waiting"),
    "overread on pynetdicom's upper layer": lambda folder, port: overread(
        folder, port, "pynetdicom"
    ),
    "DCMTK storescp (no fsync)": storescp,
    "floor: socket, write, fsync": floor,
}


def cpu_seconds(pid):
    """User and system time of a process and of the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / TICKS


def peak_memory_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000


def await_start(name, port):
    peer = Peer(name="node", ae_title="OVERREAD", host="127.0.0.1", port=port)
    for _ in range(300):
        try:
            if name.startswith("floor"):
                socket.create_connection(("127.0.0.1", port)).close()
            else:
                echo(peer, "BENCH")
        except (OSError, PeerError):
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{name} did not start")


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


def measure(name, folders):
    """Images a second, CPU seconds and peak memory in MB of one receiver."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        place = Path(scratch)
        process = subprocess.Popen(
            RECEIVERS[name](place, port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            env=ENVIRONMENT,
        )
        try:
            await_start(name, port)
            before = cpu_seconds(process.pid)
            sender = send_raw if name.startswith("floor") else send
            seconds = sender(folders, port)
            spent = cpu_seconds(process.pid) - before
            return seconds, spent, peak_memory_mb(process.pid)
        finally:
            process.terminate()
            process.wait(30)


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
                    results.append(measure(name, folders))
            report(associations, count, size, found)
            for folder in folders:
                shutil.rmtree(folder)


def report(associations, count, size, found):
    print(f"{associations} association(s), {count} images of {size / count / 1000:.0f} KB")
    base = [seconds for seconds, _, _ in found["Orthanc"]]
    for name, results in found.items():
        rate = statistics.median(count / seconds for seconds, _, _ in results)
        faster = statistics.median(
            mine / seconds for mine, (seconds, _, _) in zip(base, results, strict=True)
        )
        cpu = statistics.median(spent for _, spent, _ in results) / (size / 1e9)
        memory = max(peak for _, _, peak in results)
        print(
            f"  {name:38s} {rate:6.0f} images/s, {faster:5.2f} of Orthanc's, "
            f"{cpu:5.1f} CPU s/GB, {memory:5.0f} MB"
        )


if __name__ == "__main__":
    main()
