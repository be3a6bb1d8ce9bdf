"""The worker's model: one is resident at a time, in a process of its own."""

from collections.abc import Callable
from pathlib import Path

from inference.bundle import BundleError
from inference.model_errors import ModelMemoryError, RuntimeProviderError
from inference.process import ModelProcess, ModelProcessError
from inference.providers import Limits, SessionSettings

MODEL_ERRORS = (BundleError, RuntimeProviderError, ModelMemoryError, ModelProcessError)
"""What there is to say where a model cannot be had, or gives no answer."""


class ResidentModel:
    """Keeps the process of the model that was asked for last."""

    def __init__(self) -> None:
        self._asked: tuple[Path, SessionSettings, Limits] | None = None
        self._process: ModelProcess | None = None

    def of(
        self,
        bundle_dir: Path,
        settings: SessionSettings,
        limits: Limits,
        cancelled: Callable[[], bool],
    ) -> ModelProcess:
        """The bundle's model; another one makes room first. Raises as ModelProcess does."""
        asked = (bundle_dir, settings, limits)
        if self._process is None or self._asked != asked:
            self.close()
            self._process = ModelProcess(bundle_dir, settings, limits, cancelled=cancelled)
            self._asked = asked
        return self._process

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process = None
