"""A model in a process of its own: its crash, hang or hunger costs one try, not the node.

The process is spawned, leads its own session, holds one model loaded and warm, and ends with its
parent. `inference.model_server` is what it runs.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from pydicom import Dataset

from inference import crossing
from inference.assessment import Assessment, ModelIdentity, Text
from inference.providers import Limits, SessionSettings
from inference.volume import Volume

START_SECONDS = 1800.0
"""A large bundle's checksums take a minute, TensorRT's first build of its engines many."""

_LOOK_INTERVAL = 0.1  # seconds between looks for a cancellation or the time limit
_LOAD_MODEL = "inference.model:load_model"

_SIGNALS = {
    signal.SIGABRT: "it aborted itself; a library found its memory damaged, or had none left",
    signal.SIGBUS: "its files or its memory went away under it",
    signal.SIGFPE: "an arithmetic fault in native code",
    signal.SIGILL: "an instruction that this processor does not have",
    signal.SIGKILL: "killed from outside, most likely because the machine had no memory left",
    signal.SIGSEGV: "a memory fault in native code",
}


class ModelProcessError(Exception):
    """The model's process did not answer; the next call starts it anew."""


class ModelCrashedError(ModelProcessError):
    """The model's process ended while it was at work."""


class ModelTimeoutError(ModelProcessError):
    """The model did not answer within its time and was killed."""


class ModelFailedError(ModelProcessError):
    """The model's code raised; the text has the type and the place, never values."""


class ModelCancelledError(Exception):
    """The caller does not want the answer any more; the process was killed."""


@dataclass(frozen=True)
class Task:
    """What the process is for; `factory` is "module:function" of what loads the model."""

    bundle_dir: Path
    settings: SessionSettings
    memory_gb: float
    factory: str


@dataclass(frozen=True)
class Loaded:
    """What a model that is ready says of itself."""

    identity: ModelIdentity
    provider: str
    degraded: tuple[Text, ...]


class ModelProcess:
    """A loaded model. One call of `assess` at a time; after a failure the next call starts anew.

    Making one raises what loading the model raises: BundleError, RuntimeProviderError,
    ModelMemoryError, ModelFailedError; ModelCrashedError or ModelTimeoutError where it ended there.
    """

    def __init__(
        self,
        bundle_dir: Path,
        settings: SessionSettings,
        limits: Limits,
        *,
        cancelled: Callable[[], bool] | None = None,
        factory: str = _LOAD_MODEL,
    ) -> None:
        self._limits = limits
        self._task = Task(bundle_dir, settings, limits.memory_gb, factory)
        self._child: _Child | None = None
        self._loaded = self._start(cancelled)

    @property
    def identity(self) -> ModelIdentity:
        """Who speaks."""
        return self._loaded.identity

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what runs the model."""
        return self._loaded.provider

    @property
    def degraded(self) -> tuple[Text, ...]:
        """What must be said where the model runs on less than was asked for."""
        return self._loaded.degraded

    def assess(
        self,
        volume: Volume,
        *,
        at: datetime,
        context: str = "",
        priors: Sequence[Volume] = (),
        with_probabilities: bool = False,
        progress: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Assessment:
        """What the model says of `volume`, as Model.assess does; its arrays are read-only.

        Raises ModelCrashedError, ModelTimeoutError, ModelCancelledError, ModelFailedError,
        ModelMemoryError, and what loading raises where the process had to be started again.
        """
        if self._child is None:
            self._loaded = self._start(cancelled)
        earlier = tuple(_without_headers(prior) for prior in priors)
        keywords = {"at": at, "context": context, "priors": earlier}
        keywords["with_probabilities"] = with_probabilities
        request = (_without_headers(volume), keywords)
        answer = self._ask(request, self._limits.seconds, progress, cancelled)
        if not isinstance(answer, Assessment):
            raise ModelFailedError(f"the model answered with {type(answer).__name__}")
        return answer

    def close(self) -> None:
        """End the process; a later `assess` would start it again."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _start(self, cancelled: Callable[[], bool] | None) -> Loaded:
        loaded = self._ask(self._task, START_SECONDS, None, cancelled)
        if not isinstance(loaded, Loaded):
            raise ModelFailedError(f"the model came up with {type(loaded).__name__}")
        return loaded

    def _ask(
        self,
        request: object,
        seconds: float,
        progress: Callable[[str], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> object:
        """The answer to `request`; whatever is raised, a process that may be broken is gone."""
        child = self._child = self._child or _Child()
        try:
            outcome, answer = child.ask(request, seconds, progress, cancelled)
        except BaseException:
            self.close()
            raise
        if outcome == "failed":
            self.close()
            raise answer
        return answer


def _without_headers(volume: Volume) -> Volume:
    """No model reads the headers: patient data stays here, and sending them takes a second."""
    return replace(volume, sources=(Dataset(),) * len(volume.sources))


class _Child:
    """The process and the connection to it; it ends when `_lifeline` closes, however that came."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        watched, self._lifeline = Pipe(duplex=False)
        files = [theirs.fileno(), watched.fileno()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "inference.model_server", *map(str, files)],
            pass_fds=files,
            # What a library prints may hold values of the study: nothing of it is kept.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # the parent's code
            start_new_session=True,
        )
        theirs.close()
        watched.close()

    def ask(
        self,
        request: object,
        seconds: float,
        progress: Callable[[str], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> tuple[str, Any]:
        """("done", answer) or ("failed", exception)."""
        deadline = time.monotonic() + seconds
        try:
            crossing.send(self._connection, request)
            while True:
                if cancelled is not None and cancelled():
                    raise ModelCancelledError("the assessment was given up")
                if self._connection.poll(_LOOK_INTERVAL):
                    kind, content = crossing.receive(self._connection)
                    if kind != "progress":
                        return kind, content
                    if progress is not None:
                        progress(content)
                elif time.monotonic() > deadline:
                    raise ModelTimeoutError(
                        f"the model did not answer within {seconds:g} s and was killed"
                    )
        except (EOFError, ConnectionError) as error:
            raise ModelCrashedError(self._death()) from error

    def end(self) -> None:
        """Kill the process with all that it started; does nothing to one that is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()
        self._lifeline.close()

    def _death(self) -> str:
        try:
            status = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "the model's process closed its connection"
        if status >= 0:
            return f"the model's process ended with exit status {status}"
        number = signal.Signals(-status)
        why = _SIGNALS.get(number, "sent from outside")
        return f"the model's process was ended by {number.name} ({why})"
