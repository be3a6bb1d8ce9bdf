"""How fast STOW-RS stores images durably, as ratios against Orthanc's DICOMweb in the same run.

    python tests/bench/stow.py [ROUNDS [IMAGES]]

A plain HTTP client sends CT slices of 525 KB to each receiver in turn: ten a request, all in one
request, and ten a request by four clients at once. Each receiver starts empty in a process of its
own, with memory settings as the supervisor gives its roles. Orthanc is as it comes, which is with
fsync (SyncStorageArea), and once without, which is less than what is asked. CPU is that of the
receiver alone.
"""

import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from node.supervisor import KEEP_MEMORY
from tests.bench.assembly import phantom
from tests.bench.receivers import ENVIRONMENT, cpu_seconds, peak_memory_mb, report
from tests.node.configuration import free_ports
from tests.node.dicomweb_server import MULTIPART, TOKEN, configure, multipart
from tests.slices import grid_affine, write_slices
from tests.system.peers import DICOMWEB_PLUGIN

WAYS = {  # clients at once, images a request; 0: all of them
    "1 client, 10 images a request": (1, 10),
    "1 client, all in one request": (1, 0),
    "4 clients, 10 images a request": (4, 10),
}
SERVER = """
import sys
from pathlib import Path
from node.dicomweb.server import run_dicomweb
from node.settings import load_settings
run_dicomweb(load_settings(Path(sys.argv[1])))
"""


def overread(folder, port):
    config = configure(folder)
    text = config.read_text()
    before, after = text.split("[dicomweb]\nport = ")
    config.write_text(f"{before}[dicomweb]\nport = {port}\n{after.split(chr(10), 1)[1]}")
    return [sys.executable, "-c", SERVER, str(config)]


def orthanc(folder, port, *, sync=True):
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "SyncStorageArea": sync,
        "Plugins": [str(DICOMWEB_PLUGIN)],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return ["/usr/sbin/Orthanc", str(folder / "orthanc.json")]


RECEIVERS = {
    "Orthanc": orthanc,
    "overread": overread,
    "Orthanc, no fsync": lambda folder, port: orthanc(folder, port, sync=False),
}


def post(connection, body):
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": MULTIPART}
    headers["Accept"] = "application/dicom+json"
    connection.request("POST", "/dicom-web/studies", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {content[:400]!r}")


def await_start(port):
    for _ in range(300):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/dicom-web/studies?limit=1")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.1)
        else:
            return
        finally:
            connection.close()
    raise SystemExit("the receiver did not start")


def send(shares, port):
    """Seconds until each client has sent its bodies over a connection of its own."""

    def client(bodies):
        connection = http.client.HTTPConnection("127.0.0.1", port, blocksize=1 << 18)
        for body in bodies:
            post(connection, body)
        connection.close()

    clients = [threading.Thread(target=client, args=[bodies]) for bodies in shares]
    started = time.perf_counter()
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    return time.perf_counter() - started


def measure(name, shares):
    """Seconds, CPU seconds and peak memory in MB of one receiver."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        process = subprocess.Popen(
            RECEIVERS[name](Path(scratch), port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            env={**KEEP_MEMORY, **ENVIRONMENT},
        )
        try:
            await_start(port)
            before = cpu_seconds(process.pid)
            seconds = send(shares, port)
            spent = cpu_seconds(process.pid) - before
            return seconds, spent, peak_memory_mb(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        stored = np.concatenate([phantom(8)] * (count // 8 + 1))[:count]
        paths = write_slices(Path(scratch), stored, grid_affine())
        files = [path.read_bytes() for path in paths]
    size = sum(map(len, files))
    for way, (clients, at_once) in WAYS.items():
        step = at_once or count
        bodies = [multipart(files[at : at + step]) for at in range(0, count, step)]
        shares = [bodies[first::clients] for first in range(clients)]
        found = {name: [] for name in RECEIVERS}
        for _ in range(rounds):
            for name, results in found.items():
                results.append(measure(name, shares))
        report(way, count, size, found)


if __name__ == "__main__":
    main()
