"""A listener in a process of its own, and what that process holds."""

import os
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
