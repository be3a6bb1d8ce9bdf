"""Whether the disk takes what is received, and what to do where it does not.

A listener that could not write leaves word of it in the state folder, for the status page to show:
a probe of its own does not meet a fault that comes and goes.
"""

import errno
import os
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from node.durable import fsync_folder, write_new
from node.intake import OUT_OF_RESOURCES, IntakeError
from node.settings import Settings
from node.spool import INCOMING

log = structlog.get_logger()

WORD = "spool.trouble"
WORD_LASTS = 300.0  # seconds without a further failure; a success ends it at once
_PROBE_BYTES = 4096

_REMEDIES = {
    errno.EROFS: "mount it for writing; the kernel's log says why it is read-only now",
    errno.EIO: "the disk fails: see the kernel's log, and replace it",
    errno.EDQUOT: "raise the quota of the user that the node runs as, or make room",
    errno.ENOSPC: "make room, or lower node.retention_days",
    errno.EACCES: "give it to the user that the node runs as",
    errno.ENOENT: "mount the disk, or correct node.state_dir, and restart",
}
_OTHER_REMEDY = "see the kernel's log"


@dataclass(frozen=True)
class Trouble:
    """Why nothing can be stored, and what to do about it; both for an operator."""

    reason: str
    remedy: str


def trouble_of(error: OSError) -> Trouble:
    """Put an error into words that name no file of a study."""
    remedy = _REMEDIES.get(error.errno or 0, _OTHER_REMEDY)
    return Trouble(error.strerror or type(error).__name__, remedy)


class Disk:
    """The disk that a node receives to, for one of its processes."""

    def __init__(self, settings: Settings) -> None:
        self._spool = settings.spool_dir
        self._state = settings.node.state_dir
        self._word = self._state / WORD
        self._least = settings.node.min_free_gb * 1e9
        self._lock = threading.Lock()
        self._fails = False

    def free_bytes(self) -> int:
        """What is free where instances go; OSError where the disk cannot be asked."""
        return shutil.disk_usage(self._spool if self._spool.is_dir() else self._state).free

    def check_space(self) -> None:
        """Raise IntakeError below the watermark, OSError where the disk cannot be asked."""
        if self.free_bytes() < self._least:
            raise IntakeError(OUT_OF_RESOURCES, "disk nearly full: below node.min_free_gb")

    def begin(self) -> None:
        """Say at the start where nothing can be stored."""
        with suppress(OSError):
            self._word.unlink(missing_ok=True)
        trouble = self.trouble()
        if trouble is not None:
            self._fail(trouble)

    def failed(self, error: OSError) -> None:
        """Take note that an instance could not be stored."""
        with self._lock:
            self._fail(trouble_of(error))
            with suppress(OSError):  # it may be the same disk; then the probe fails as well
                self._word.write_text(str(error.errno))

    def worked(self) -> None:
        """Take note that an instance was stored."""
        if not self._fails:
            return
        with self._lock:
            self._fails = False
            with suppress(OSError):
                self._word.unlink(missing_ok=True)
            log.info("spool.can_write")

    def _fail(self, trouble: Trouble) -> None:
        if not self._fails:
            log.error("spool.cannot_write", reason=trouble.reason, remedy=trouble.remedy)
        self._fails = True

    def trouble(self) -> Trouble | None:
        """Try what storing an instance needs; returns what is in the way, or was a moment ago."""
        try:
            _probe(self._spool / INCOMING)
        except OSError as error:
            return trouble_of(error)
        try:
            if time.time() - self._word.stat().st_mtime > WORD_LASTS:
                return None
            number = int(self._word.read_text() or "0")
        except (OSError, ValueError):
            return None
        return trouble_of(OSError(number, os.strerror(number)))


def _probe(incoming: Path) -> None:
    """Make a folder, and write and name a file in it, each durably; OSError if that fails."""
    if not incoming.is_dir():
        return  # no listener has been here yet
    folder = Path(tempfile.mkdtemp(dir=incoming))
    try:
        write_new(folder / "written", b"\0" * _PROBE_BYTES)
        os.link(folder / "written", folder / "named")
        fsync_folder(folder)
        fsync_folder(incoming)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
