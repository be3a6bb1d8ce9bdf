"""How fast STOW-RS stores images durably, as ratios against Orthanc's DICOMweb in the same run.

    python tests/bench/stow.py [ROUNDS [IMAGES]]

A plain HTTP client sends CT slices of 525 KB to each receiver in turn: ten a request, all in one
request, and ten a request by four clients at once. Each receiver starts empty in a process of its
own, with memory settings as the supervisor gives its roles. Orthanc is as it comes, which is with
fsync (SyncStorageArea), and once without, which is less than what is asked. The floor is
what asyncio takes to read the bodies, and to store them in pieces of an image's size with the two
fsyncs of an instance. CPU is that of the receiver alone, and below that of the clients, which share
the machine with it.
"""

import http.client
import json
import statistics
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
from tests.bench.receivers import (
    ENVIRONMENT,
    cpu_seconds,
    peak_memory_mb,
    report,
    touch_memory,
)
from tests.node.configuration import free_ports
from tests.node.dicomweb_server import TOKEN, configure
from tests.slices import grid_affine, write_slices
from tests.system.peers import DICOMWEB_PLUGIN

WAYS = {  # clients at once, images a request; 0: all of them
    "1 client, 10 images a request": (1, 10),
    "1 client, all in one request": (1, 0),
    "4 clients, 10 images a request": (4, 10),
}
BOUNDARY = b"0f9e8d7c-1234-5678-9abc-1234567890ab"  # as long as clients make them
SERVER = """
import sys
from pathlib import Path
from node.dicomweb.server import run_dicomweb
from node.settings import load_settings
run_dicomweb(load_settings(Path(sys.argv[1])))
"""
FLOOR = """
import asyncio, itertools, os, sys
port, folder, names = int(sys.argv[1]), sys.argv[2], itertools.count()
def store(content):
    name = f"{folder}/{next(names)}"
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(file, content)
    os.fsync(file)
    os.link(name, name + ".dcm")
    place = os.open(folder, os.O_RDONLY)
    os.fsync(place)
    os.close(place)
    os.close(file)
    os.unlink(name)
async def serve(reader, writer):
    try:
        while True:
            headers = await reader.readuntil(b"\\r\\n\\r\\n")
            length = headers.lower().partition(b"content-length:")[2].split()
            left = int(length[0]) if length else 0
            while left:
                piece = await reader.readexactly(min(left, 526_000))
                left -= len(piece)
                if "store" in sys.argv:
                    await asyncio.to_thread(store, piece)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    except asyncio.IncompleteReadError:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20)
    await server.serve_forever()
asyncio.run(main())
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


def floor(folder, port):
    return [sys.executable, "-c", FLOOR, str(port), str(folder)]


RECEIVERS = {
    "Orthanc": orthanc,
    "overread": overread,
    "Orthanc, no fsync": lambda folder, port: orthanc(folder, port, sync=False),
    "floor: asyncio reads and stores": lambda *where: [*floor(*where), "store"],
    "floor: asyncio reads, stores nothing": floor,
}


def multipart(files):
    begin = b"--%s\r\nContent-Type: application/dicom\r\n\r\n" % BOUNDARY
    return b"".join([*(begin + file + b"\r\n" for file in files), b"--%s--\r\n" % BOUNDARY])


def post(connection, body):
    media_type = f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": media_type}
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


def measure(name, shares, folder):
    """Seconds, CPU seconds and peak memory in MB of one receiver, and the clients' CPU seconds.

    What it stored stays until all is measured: a file system that has just had thousands of files
    deleted makes new ones more slowly.
    """
    (port,) = free_ports(1)
    process = subprocess.Popen(
        RECEIVERS[name](Path(tempfile.mkdtemp(dir=folder)), port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        env={**KEEP_MEMORY, **ENVIRONMENT},
    )
    try:
        await_start(port)
        touch_memory()
        before, ours = cpu_seconds(process.pid), time.process_time()
        seconds = send(shares, port)
        ours = time.process_time() - ours
        return (seconds, cpu_seconds(process.pid) - before, peak_memory_mb(process.pid)), ours
    finally:
        process.terminate()
        process.wait(30)


def compare(way, files, scratch, rounds):
    """Print how the receivers do when the files are sent in that way."""
    clients, at_once = WAYS[way]
    count, size = len(files), sum(map(len, files))
    step = at_once or count
    bodies = [multipart(files[at : at + step]) for at in range(0, count, step)]
    shares = [bodies[first::clients] for first in range(clients)]
    found, spent = {name: [] for name in RECEIVERS}, []
    for _ in range(rounds):
        for name, results in found.items():
            result, clients_cpu = measure(name, shares, scratch)
            results.append(result)
            spent.append(clients_cpu)
    report(way, count, size, found)
    print(f"  the clients: {statistics.median(spent) / (size / 1e9):.1f} CPU s/GB")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        stored = np.concatenate([phantom(8)] * (count // 8 + 1))[:count]
        sent = Path(scratch) / "sent"
        sent.mkdir()
        files = [path.read_bytes() for path in write_slices(sent, stored, grid_affine())]
        for way in WAYS:
            compare(way, files, scratch, rounds)


if __name__ == "__main__":
    main()
