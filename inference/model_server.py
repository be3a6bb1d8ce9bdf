"""What the process of `inference.process` does: load one model, warm it, answer for it.

    python -m inference.model_server CONNECTION LIFELINE

Both are numbers of open files. When the lifeline closes the parent is gone, and this process ends.
"""

import fcntl
import importlib
import os
import resource
import select
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from inference import crossing
from inference.assessment import Assessment, ModelIdentity, Text
from inference.bundle import BundleError
from inference.decoder import SequenceTooLongError
from inference.model_errors import ModelMemoryError, RuntimeProviderError
from inference.process import Loaded, ModelFailedError, Task
from inference.runtime import is_out_of_memory

_PLAIN = (BundleError, RuntimeProviderError, ModelMemoryError)
"""Errors whose texts are ours, and hold no values of a study."""

_GIGABYTE = 1_000_000_000


class ServedModel(Protocol):
    """What the task's factory returns."""

    identity: ModelIdentity
    provider: str
    degraded: tuple[Text, ...]

    def warm(self) -> None:
        """Run every graph once, so that what it needs is had before a study comes."""

    def assess(self, *arguments: Any, **keywords: Any) -> Assessment:
        """See `inference.model.Model.assess`."""


def serve(connection: Connection) -> None:
    """Answer the task and then each request, until one fails or the other end is gone."""

    def progress(doing: str) -> None:
        crossing.send(connection, ("progress", doing))

    try:
        model = _load(crossing.receive(connection))
        loaded = Loaded(model.identity, model.provider, model.degraded)
        crossing.send(connection, ("done", loaded))
        while True:
            volume, keywords = crossing.receive(connection)
            answer = model.assess(volume, progress=progress, **keywords)
            del volume, keywords  # the memory that they lie in
            crossing.send(connection, ("done", answer))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
        crossing.send(connection, ("failed", _as_told(error)))


def _load(task: Task) -> ServedModel:
    module, _, name = task.factory.partition(":")
    load_model = getattr(importlib.import_module(module), name)
    if task.memory_gb:  # from here on: OpenBLAS waits for memory for ever while it is imported
        bound = int(task.memory_gb * _GIGABYTE)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    model: ServedModel = load_model(task.bundle_dir, task.settings)
    model.warm()
    return model


def die_with_parent(lifeline: int) -> None:
    """Have the kernel end this process when the pipe's other end closes.

    No thread watches it: one would not be heard while native code hangs and keeps the interpreter.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)  # by SIGIO, which ends a process
    if select.select([lifeline], [], [], 0)[0]:  # it was closed before
        sys.exit(1)


def _as_told(error: Exception) -> Exception:
    """The error as the parent may log it: our own as they are, others without their values."""
    if isinstance(error, _PLAIN):
        return error
    if isinstance(error, SequenceTooLongError):
        return ModelFailedError(str(error))
    if is_out_of_memory(error):
        return ModelMemoryError(
            f"out of memory {_place(error)}. Raise inference.memory_gb (0: no limit), or take a "
            "machine with more memory or a smaller model."
        )
    return ModelFailedError(f"the model's code raised {type(error).__name__} {_place(error)}")


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"at {Path(frame.filename).name}:{frame.lineno} in {frame.name}"


def _offer_to_the_oom_killer() -> None:
    """Where the machine runs out of memory, this process is the one that can be spared."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to end
    die_with_parent(int(sys.argv[2]))
    _offer_to_the_oom_killer()
    serve(Connection(int(sys.argv[1])))
