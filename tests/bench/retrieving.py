"""How fast C-GET brings what is held, as ratios against Orthanc's in the same run.

    python tests/bench/retrieving.py [ROUNDS]

One object of 210 MB and 400 CT slices of 525 KB, got by DCMTK's getscu, which throws them away,
from each in turn: Orthanc, and the node on its own and on pynetdicom's upper layer. Memory is the
peak of the process, and what C-GET added to it.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from pydicom import dcmread

from node import store_scu
from node.settings import Peer
from tests.bench.assembly import phantom
from tests.bench.receivers import LISTENER, await_start, cpu_seconds, orthanc, peak_memory_mb
from tests.bench.sending import ENVIRONMENT, large_object
from tests.node.configuration import free_ports, write_config
from tests.slices import grid_affine, write_slices

ASKER = """[[peers]]
name = "asker"
ae_title = "ASKER"
host = "127.0.0.1"
port = 104
query = true
[[routes]]"""


def overread(folder, port, upper_layer):
    config = write_config(folder, port=port, accept_unknown_peers=True, upper_layer=upper_layer)
    config.write_text(config.read_text().replace("[[routes]]", ASKER))
    return [sys.executable, "-c", LISTENER, str(config)]


HOLDERS = {
    "Orthanc": lambda folder, port: orthanc(folder, port, DicomAlwaysAllowGet=True),
    "overread": lambda folder, port: overread(folder, port, "waiting"),
    "overread on pynetdicom's upper layer": lambda folder, port: overread(
        folder, port, "pynetdicom"
    ),
}


@contextmanager
def holder(name, scratch, paths):
    """One of them that has received files, its process and its port."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        HOLDERS[name](Path(tempfile.mkdtemp(dir=scratch)), port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        env=ENVIRONMENT,
    )
    try:
        await_start(name, port)
        peer = Peer(name="node", ae_title="OVERREAD", host="127.0.0.1", port=port)
        sent = store_scu.send([store_scu.read_instance(path) for path in paths], peer, "ASKER")
        assert all(answer.status == 0 for answer in sent)
        yield process, port
    finally:
        process.terminate()
        process.wait(30)


def get(port, study, count):
    """Seconds of one C-GET of a study."""
    command = ["/usr/bin/getscu", "-v", "-S", "--ignore", "-pdu", "131072"]
    command += ["-aet", "ASKER", "-aec", "OVERREAD", "-k", "QueryRetrieveLevel=STUDY"]
    command += ["-k", f"StudyInstanceUID={study}", "127.0.0.1", str(port)]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    said = done.stdout + done.stderr
    assert f"Number of Completed Suboperations : {count}" in said, said[-2000:]
    return seconds


def measure(scratch, paths, rounds):
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    print(f"{len(paths)} object(s), {megabytes:.0f} MB", flush=True)
    study = dcmread(paths[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID
    with ExitStack() as running:
        holders = {name: running.enter_context(holder(name, scratch, paths)) for name in HOLDERS}
        time.sleep(5)  # until what came is listed
        had = {name: peak_memory_mb(process.pid) for name, (process, _) in holders.items()}
        found = {name: [] for name in HOLDERS}
        for _ in range(rounds):
            for name, (process, port) in holders.items():
                before = cpu_seconds(process.pid)
                seconds = get(port, study, len(paths))
                found[name].append((seconds, cpu_seconds(process.pid) - before))
        base = [seconds for seconds, _ in found["Orthanc"]]
        for name, (process, _) in holders.items():
            peak = peak_memory_mb(process.pid)
            ratios = [one / mine for one, (mine, _) in zip(base, found[name], strict=True)]
            seconds = statistics.median(one for one, _ in found[name])
            spent = statistics.median(one for _, one in found[name])
            print(
                f"  {name:38s} {seconds:6.2f} s, {statistics.median(ratios):5.2f} of Orthanc's "
                f"rate, {spent / megabytes * 1e3:5.2f} CPU s/GB, "
                f"{peak:5.0f} MB, {peak - had[name]:+5.0f}",
                flush=True,
            )


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        root = Path(scratch)
        stored = np.concatenate([phantom(8)] * 50)
        slices = write_slices(root / "series", stored, grid_affine())
        for paths in ([large_object(root, slices[0])], slices):
            measure(root, paths, rounds)


if __name__ == "__main__":
    main()
