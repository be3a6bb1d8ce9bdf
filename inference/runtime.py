"""ONNX Runtime sessions: which execution provider runs a graph is chosen, asserted and reported."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from inference.bundle import BundleError

Array = npt.NDArray[np.generic]
CPU = "CPUExecutionProvider"


class RuntimeProviderError(Exception):
    """The execution provider that was asked for is not there or did not take the graph."""


class Graph:
    """One ONNX graph ready to run."""

    def __init__(self, path: Path, *, threads: int, providers: Sequence[str]) -> None:
        self.path = path
        missing = [name for name in providers if name not in ort.get_available_providers()]
        if missing or not providers:
            raise RuntimeProviderError(
                f"execution provider {', '.join(missing) or '(none)'} is not available; "
                f"this ONNX Runtime has {', '.join(ort.get_available_providers())}"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads burn the cores that the listener and the database need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(path, options, providers=list(providers))
        except Exception as error:
            # ONNX Runtime's exceptions share no base class below Exception.
            raise BundleError(
                f"{path}: ONNX Runtime cannot load it ({error}). Export the bundle again."
            ) from error
        self.provider: str = self._session.get_providers()[0]
        if self.provider != providers[0]:
            raise RuntimeProviderError(
                f"{path.name} runs on {self.provider}, not on {providers[0]} as configured"
            )

    def __call__(self, inputs: Mapping[str, Array]) -> list[npt.NDArray[np.float32]]:
        """Run the graph; outputs in the order in which it declares them."""
        outputs: list[npt.NDArray[np.float32]] = self._session.run(None, dict(inputs))
        return outputs
