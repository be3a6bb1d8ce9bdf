"""What a start costs: of the node until all its roles work, and of commands that need little.

    python tests/bench/start.py

Processor time of all processes, in seconds; memory that they share counts once.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.receivers import cpu_seconds, family
from tests.node.dicomweb_server import configure
from tests.system.peers import Node, await_true, running

TIMES = 5
STARTED = ("listener.started", "worker.started", "web.started", "dicomweb.started")
COMMANDS = (["--help"], ["token", "viewer"], ["status"], ["models", "list"])


def memory_mb(pid):
    """Proportional set size of a process and its children."""
    rollups = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in family(pid)]
    return sum(int(each.split("\nPss:")[1].split()[0]) for each in rollups) / 1000


def node_start(config):
    """Processor time and memory when every role has said that it has started."""
    with running(Node(config).start()) as (node,):
        await_true(lambda: all(one in node.log() for one in STARTED), 60, "all roles")
        return cpu_seconds(node.pid), memory_mb(node.pid)


def command(arguments, config):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = [] if arguments[0] in ("--help", "token") else ["--config", str(config)]
    subprocess.run(
        [sys.executable, "-m", "node", *arguments, *taken], check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    with tempfile.TemporaryDirectory() as scratch:
        starts = []
        for number in range(TIMES):
            folder = Path(scratch, str(number))
            folder.mkdir()
            starts.append(node_start(configure(folder)))
        seconds, megabytes = map(statistics.median, zip(*starts, strict=True))
        print(f"{'serve':14s} {seconds:5.2f} s, {megabytes:4.0f} MB")
        for arguments in COMMANDS:
            took = statistics.median(
                command(arguments, folder / "overread.toml") for _ in range(TIMES)
            )
            print(f"{' '.join(arguments):14s} {took:5.2f} s")


if __name__ == "__main__":
    main()
