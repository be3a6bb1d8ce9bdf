"""Receivers that benches compare, each in a process of its own; CPU and memory are its alone."""

import json
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import contextmanager
from pathlib import Path

from node.settings import Peer
from node.store_scu import PeerError, echo
from tests.node.configuration import free_ports, write_config
from tests.node.listener_process import SUPERVISOR

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}  # else Debian's DCMTK waits 40 ms an image
_TO_TOUCH = 1500 << 20  # bytes
TICKS = os.sysconf("SC_CLK_TCK")

LISTENER = """
import sys
from pathlib import Path
from node.listener import run_listener
from node.settings import load_settings
run_listener(load_settings(Path(sys.argv[1])))
"""
ROUTER = """
import sys, time
from pathlib import Path
from airouter.config import Config, PacsCfg
from airouter.router import Router
folder = Path(sys.argv[1])
for name in ("inbox", "results"):
    (folder / name).mkdir()
Router(
    Config(
        ae_title="OVERREAD",
        port=int(sys.argv[2]),
        study_quiet_seconds=3600,
        workers=1,
        workdir=folder,
        pacs=PacsCfg("PACS", "127.0.0.1", 1),
        endpoints={},
        rules=[],
        deid_salt="none is needed",
    )
).start()
time.sleep(3600)
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


def two_listeners(folder, port):
    config = write_config(folder, port=port, accept_unknown_peers=True, listener_processes=2)
    return [sys.executable, "-c", SUPERVISOR, str(config), "2"]


def orthanc(folder, port, **more):
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomAet": "OVERREAD",
        "DicomThreadsCount": 100,
        "Plugins": [],
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return ["/usr/sbin/Orthanc", str(folder / "orthanc.json")]


def storescp(folder, port):
    (folder / "out").mkdir()
    out = str(folder / "out")
    return ["/usr/bin/storescp", "-aet", "OVERREAD", "--fork", "-od", out, str(port)]


def floor(folder, port):
    return [sys.executable, "-c", FLOOR, str(folder), str(port)]


def dicom_ai_router(folder, port):
    """The nearest peer in Python, in an environment of its own, which the first use installs."""
    place = REPOSITORY / ".peers" / "dicom-ai-router"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        install = ["-m", "pip", "install", "--quiet", "dicom_ai_router==0.3.0"]
        subprocess.run([str(python), *install], check=True)
    return [str(python), "-c", ROUTER, str(folder), str(port)]


RECEIVERS = {
    "Orthanc": orthanc,
    "overread": lambda folder, port: overread(folder, port, "waiting"),
    "overread, two listener processes": two_listeners,
    "overread on pynetdicom's upper layer": lambda folder, port: overread(
        folder, port, "pynetdicom"
    ),
    "dicom-ai-router (no fsync)": dicom_ai_router,
    "DCMTK storescp (no fsync)": storescp,
    "floor: socket, write, fsync": floor,
}


WITHOUT_ECHO = ("dicom-ai-router (no fsync)", "floor: socket, write, fsync")


def family(pid):
    """A process and its children."""
    return [pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pid):
    """User and system time of a process and of its children, those it has waited for too."""
    ticks = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def peak_memory_mb(pid):
    status = [Path(f"/proc/{one}/status").read_text() for one in family(pid)]
    peaks = [each.split("VmHWM:")[1].split()[0] for each in status if "VmHWM:" in each]
    return sum(map(int, peaks)) / 1000  # what has ended has none


def await_start(name, port):
    peer = Peer(name="node", ae_title="OVERREAD", host="127.0.0.1", port=port)
    for _ in range(300):
        try:
            if name in WITHOUT_ECHO:
                socket.create_connection(("127.0.0.1", port)).close()
            else:
                echo(peer, "BENCH")
        except (OSError, PeerError):
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{name} did not start")


@contextmanager
def receiver(name, scratch):
    """A receiver that has started, and its port. What it stored stays until all is measured.

    A file system that has just had thousands of files deleted makes new ones more slowly.
    """
    (port,) = free_ports(1)
    process = subprocess.Popen(
        RECEIVERS[name](Path(tempfile.mkdtemp(dir=scratch)), port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env=ENVIRONMENT,
    )
    try:
        await_start(name, port)
        yield process, port
    finally:
        process.terminate()
        process.wait(30)


def report(way, count, size, found):
    """Print what came of `count` images of `size` bytes in all, as ratios to Orthanc."""
    print(f"{way}, {count} images of {size / count / 1000:.0f} KB")
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


def touch_memory():
    """Have the machine own the memory of what is measured next.

    A virtual one gets each page when it is first used, and gives it back soon after it is free;
    writing a new file takes three times the processor time in between, whoever writes it.
    """
    with mmap.mmap(-1, _TO_TOUCH) as memory:
        for at in range(0, _TO_TOUCH, mmap.PAGESIZE):
            memory[at] = 1
