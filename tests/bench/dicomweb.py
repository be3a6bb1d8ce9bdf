"""How fast studies are searched and retrieved over HTTP, as ratios against Orthanc in the same run.

    python tests/bench/dicomweb.py [ROUNDS [IMAGES]]

Both hold the same series of CT slices of 525 KB, and 20 of them as JPEG-LS, in processes of their
own. One client asks each in turn. CPU is that of the server alone, its children included.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import imagecodecs
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

sys.path.insert(0, str(Path(__file__).parents[2]))


from node.settings import load_settings
from tests.bench.assembly import phantom
from tests.node.configuration import free_ports
from tests.node.dicomweb_server import TOKEN, configure
from tests.node.held_files import hold, key_of
from tests.slices import grid_affine, write_slices
from tests.system.peers import Orthanc, await_true

TICKS = os.sysconf("SC_CLK_TCK")
SERVER = """
import sys
from pathlib import Path
from node.dicomweb.server import run_dicomweb
from node.settings import load_settings
run_dicomweb(load_settings(Path(sys.argv[1])))
"""
DICOM = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'
REQUESTS = {
    "search of instances": ("{series}/instances", "application/dicom+json"),
    "metadata of the series": ("{series}/metadata", "application/dicom+json"),
    "series as stored": ("{series}", f"{DICOM}; transfer-syntax=*"),
    "20 JPEG-LS images, decoded": ("{compressed}", DICOM),
    "50 frames, one by one": ("{frames}", f"{OCTETS}; transfer-syntax=*"),
    "20 pictures": ("{pictures}", "image/jpeg"),
}
"""Name -> path, media type."""


def cpu_seconds(pid):
    """Processor time of a process with its threads and the children that have ended or live."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    total = 0.0
    for one in (pid, *map(int, found.stdout.split())):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / TICKS
    return total


@contextmanager
def overread(folder, paths):
    """Yield the base URL, the headers and the process number of the node's server."""
    folder.mkdir()
    config = configure(folder)
    settings = load_settings(config)
    hold(settings, paths)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(config)], stderr=subprocess.DEVNULL
    )
    base = f"http://127.0.0.1:{settings.dicomweb.port}/dicom-web"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        await_true(lambda: answers(base, headers), 60, "the server")
        yield base, headers, process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def orthanc(folder, paths):
    """Yield the base URL, the headers and the process number of Orthanc."""
    ports = free_ports(2)
    server = Orthanc(folder, node_port=ports[0], dicom_port=ports[1])
    url = f"http://127.0.0.1:{server.http_port}"
    try:
        with httpx2.Client(trust_env=False, timeout=60) as client:
            for path in paths:
                content = path.read_bytes()
                client.post(f"{url}/instances", content=content).raise_for_status()
        time.sleep(10)  # until it has dealt with the stable study
        yield f"{url}/dicom-web", {}, server._process.pid
    finally:
        server.stop()


def answers(base, headers):
    try:
        return httpx2.get(f"{base}/studies?limit=1", headers=headers, trust_env=False).is_success
    except httpx2.TransportError:
        return False


def urls(path, paths):
    """The URLs of a request, relative to the base."""
    keys = [key_of(one) for one in paths]
    series = f"/studies/{keys[0].study}/series/{keys[0].series}"
    if path == "{compressed}":
        return [f"/studies/{keys[-1].study}/series/{keys[-1].series}"]
    if path == "{frames}":
        return [f"{series}/instances/{key.instance}/frames/1" for key in keys[:50]]
    if path == "{pictures}":
        return [f"{series}/instances/{key.instance}/rendered" for key in keys[:20]]
    return [path.format(series=series)]


def ask(client, base, headers, requests, accept):
    """Ask for all of them; returns how many bytes came."""
    total = 0
    for url in requests:
        with client.stream("GET", base + url, headers={**headers, "Accept": accept}) as answer:
            answer.raise_for_status()
            total += sum(map(len, answer.iter_raw(1 << 20)))
    return total


def measure(servers, paths, rounds):
    """Print medians of wall and CPU seconds of each request, and their ratios."""
    print(
        f"{'':26} {'ours':>8} {'Orthanc':>8} {'ratio':>6}   {'CPU':>7} {'Orthanc':>8} {'ratio':>6}"
    )
    with httpx2.Client(trust_env=False, timeout=600) as client:
        for name, (path, accept) in REQUESTS.items():
            requests = urls(path, paths)
            walls, cpus = {one: [] for one in servers}, {one: [] for one in servers}
            for number in range(rounds + 1):
                for one, (base, headers, pid) in servers.items():
                    before, start = cpu_seconds(pid), time.perf_counter()
                    ask(client, base, headers, requests, accept)
                    if number:  # the first round fills caches
                        walls[one].append(time.perf_counter() - start)
                        cpus[one].append(cpu_seconds(pid) - before)
            wall = {one: statistics.median(seconds) for one, seconds in walls.items()}
            cpu = {one: statistics.median(seconds) for one, seconds in cpus.items()}
            print(
                f"{name:26} {wall['ours']:7.3f}s {wall['orthanc']:7.3f}s "
                f"{wall['orthanc'] / wall['ours']:5.1f}x   {cpu['ours']:6.2f}s "
                f"{cpu['orthanc']:7.2f}s {cpu['orthanc'] / max(cpu['ours'], 0.01):5.1f}x"
            )


def compress(header, _k):
    values = np.frombuffer(header.PixelData, np.int16).reshape(512, 512)
    header.PixelRepresentation, header.RescaleIntercept = 0, "-1024"
    header.PixelData = encapsulate([imagecodecs.jpegls_encode((values + 1024).astype(np.uint16))])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True


def main():
    rounds, images = (int(one) for one in (sys.argv[1:] + ["5", "300"][len(sys.argv) - 1 :])[:2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored = np.resize(phantom(4), (images, 512, 512)).astype(np.int16)
        paths = write_slices(folder / "series", stored, grid_affine())
        paths += write_slices(
            folder / "compressed",
            stored[:20],
            grid_affine(),
            transfer_syntax=JPEGLSLossless,
            change=compress,
        )
        with overread(folder / "ours", paths) as ours, orthanc(folder / "orthanc", paths) as theirs:
            measure({"ours": ours, "orthanc": theirs}, paths, rounds)


if __name__ == "__main__":
    main()
