"""A listener in a process of its own, and what that process holds; several under a supervisor."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from node import store_scu
from node.settings import Peer, load_settings
from tests.system.peers import REPOSITORY, await_true


class ListenerProcess:
    def __init__(self, config):
        self.settings = load_settings(config)
        port = self.settings.node.port
        self.peer = Peer(name="node", ae_title="OVERREAD", host="127.0.0.1", port=port)
        self.log = config.parent / "log"
        command = [sys.executable, "-m", "node", "serve", "--role", "listener"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--config", str(config)], cwd=REPOSITORY, stderr=log
            )
        await_true(self.answers, 120, "the listener")

    def answers(self):
        """Whether it answers C-ECHO."""
        try:
            store_scu.echo(self.peer, "PACS")
        except (store_scu.PeerError, RuntimeError):
            return False
        return True

    def threads(self):
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def files(self):
        """How many are open, sockets too; not those of the database, which keeps five for later."""
        found = []
        for each in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(each.readlink().name)
        return sum(not name.startswith("overread.sqlite") for name in found)

    def megabytes(self):
        """What it has in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stored(self):
        return list(self.settings.spool_dir.glob("[0-9]*/*/*.dcm"))

    def partial(self):
        return list((self.settings.spool_dir / ".incoming").iterdir())

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


SUPERVISOR = """
import sys
from pathlib import Path
from node.supervisor import supervise
supervise(Path(sys.argv[1]), ["listener"] * int(sys.argv[2]))
"""


class SupervisedListeners:
    """As many listener processes as the configuration says, started again when they die."""

    def __init__(self, config, count=0):
        """`count` is instead of the number that the configuration says."""
        self.config = config
        self.settings = load_settings(config)
        port = self.settings.node.port
        self.peer = Peer(name="node", ae_title="OVERREAD", host="127.0.0.1", port=port)
        self.log = config.parent / "log"
        self.start(count or self.settings.node.listener_processes)

    def start(self, count):
        self.count = count
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, str(self.config), str(count)],
                cwd=REPOSITORY,
                stderr=log,
                env={**os.environ, "OVERREAD_NODE__LISTENER_PROCESSES": str(count)},
            )
        await_true(self.are_up, 300, "the listeners")

    def pids(self):
        pid = self.process.pid
        try:
            return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            return []

    def listening(self):
        """The processes that listen on the port."""
        return self._with_socket("0A")

    def serving(self):
        """The processes that have a connection."""
        return self._with_socket("01")

    def _with_socket(self, state):
        port = f":{self.settings.node.port:04X}"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        sockets = {
            f"socket:[{fields[9]}]"
            for fields in lines
            if fields[1].endswith(port) and fields[3] == state
        }
        return [pid for pid in self.pids() if sockets & _open_files(pid)]

    def are_up(self):
        return len(self.listening()) == self.count

    def kill(self):
        """End all at once, the supervisor first so that it starts none again."""
        pids = self.pids()
        self.process.kill()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.process.wait(60)
        await_true(lambda: not any(map(_runs, pids)), 60, "the listeners to be gone")

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def _open_files(pid):
    found = set()
    with suppress(FileNotFoundError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(str(each.readlink()))
    return found


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
