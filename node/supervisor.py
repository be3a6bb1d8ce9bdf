"""All roles of one machine as child processes: started, restarted when one dies, stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from node.side_by_side import SHARE, make_share

log = structlog.get_logger()

PARENT_PIPE = "OVERREAD_PARENT_PIPE"
"""Environment variable with the number of a pipe's reading end that closes when the parent dies."""

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
"""What has glibc use memory again that images passed through; given back to the kernel after each
piece and taken anew, it would cost a receiver a fifth of its time."""

_RECEIVERS = ("listener", "dicomweb")
_RESTART_DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds, the last one from then on
_STABLE_AFTER = 60.0  # seconds that a role must live for its restarts to be forgotten
_STOP_TIMEOUT = 20.0


@dataclass
class _Child:
    role: str
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    restarts: int = 0
    due: float | None = None  # when to start it again, while it is down


def supervise(config: Path, roles: Iterable[str]) -> None:
    """Run these roles, some perhaps several times, until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    reading, writing = os.pipe()  # `writing` lives as long as this process
    inherited = {PARENT_PIPE: reading, SHARE: make_share()}
    children = [_Child(role, _start(role, config, inherited)) for role in roles]
    while not stop.wait(0.2):
        for child in children:
            _look_after(child, config, inherited)
    for child in children:
        child.process.terminate()
    for child in children:
        _await(child)
    os.close(writing)


def die_with_parent() -> None:
    """End this process when its supervisor is gone, however that ended."""
    pipe = os.environ.get(PARENT_PIPE)
    if pipe is None:
        return

    def watch() -> None:
        os.read(int(pipe), 1)  # returns at end of file only: nobody writes
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _start(role: str, config: Path, inherited: Mapping[str, int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "node", "serve", "--config", str(config), "--role", role]
    return subprocess.Popen(
        command,
        pass_fds=[*inherited.values()],
        env={
            "OPENBLAS_NUM_THREADS": "1",  # more make the small products of resampling slower
            **(KEEP_MEMORY if role in _RECEIVERS else {}),
            **os.environ,
            **{name: str(descriptor) for name, descriptor in inherited.items()},
        },
        start_new_session=True,  # Ctrl-C reaches the supervisor, which stops them in order
    )


def _look_after(child: _Child, config: Path, inherited: Mapping[str, int]) -> None:
    now = time.monotonic()
    if child.due is not None:
        if now >= child.due:
            child.process = _start(child.role, config, inherited)
            child.started, child.due = now, None
        return
    status = child.process.poll()
    if status is None:
        return
    if now - child.started > _STABLE_AFTER:
        child.restarts = 0
    delay = _RESTART_DELAYS[min(child.restarts, len(_RESTART_DELAYS) - 1)]
    child.restarts += 1
    child.due = now + delay
    log.error(
        "role.died",
        died=child.role,
        status=status,
        restart_in_seconds=delay,
        remedy="see what it logged last; if it goes on, run 'overread check'",
    )


def _await(child: _Child) -> None:
    try:
        child.process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        log.error(  # noqa: TRY400
            "role.killed",
            killed=child.role,
            reason="it did not stop in time",
            remedy="none is needed: what it was at is taken up again at the next start",
        )
        child.process.kill()
