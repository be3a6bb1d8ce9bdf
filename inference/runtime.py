"""ONNX Runtime sessions: which execution provider runs a graph is chosen, asserted and reported."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from inference.assessment import Text
from inference.bundle import BundleError
from inference.installation import installation, lacks, load_libraries
from inference.model_errors import ModelMemoryError, RuntimeProviderError
from inference.providers import (
    CPU,
    NAMES,
    NEXT_BEST,
    SHOWN,
    Options,
    Profile,
    Provider,
    SessionSettings,
    captured,
    provider_for,
    provider_options,
    weights_of,
)

Array = npt.NDArray[np.generic]

HEAVY = frozenset(
    {
        "Attention",
        "Conv",
        "ConvTranspose",
        "DynamicQuantizeMatMul",
        "Gemm",
        "GroupQueryAttention",
        "MatMul",
        "MatMulNBits",
        "MultiHeadAttention",
    }
)
"""Operators that are the work of a graph; what reckons with shapes belongs on the CPU."""

OTHER_PROVIDER = "set inference.provider to one that takes the graph, or export the bundle again"

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}

SPIN_MICROSECONDS = "20"

_NO_MEMORY = ("bad_alloc", "Failed to allocate", "out of memory", "Cannot allocate memory")
"""How allocation failures read in the texts of ONNX Runtime and CUDA."""


class Graph:
    """One ONNX graph ready to run.

    `provider` is ONNX Runtime's name of what runs it, `device` where its memory is ("cpu", "cuda"),
    `degraded` what must be said where that is less than was asked for.

    Raises RuntimeProviderError where the provider cannot be had and `on_missing` is "refuse",
    BundleError where the graph is damaged, ModelMemoryError where memory does not suffice.
    """

    def __init__(
        self,
        path: Path,
        settings: SessionSettings,
        *,
        fused: bool = False,
        profile: Profile | None = None,
    ) -> None:
        self.path = path
        self._profile = profile
        self.degraded: Text | None = None
        wanted = provider_for(settings, fused=fused)
        usable = NEXT_BEST[wanted] if settings.on_missing == "degrade" else (wanted,)
        for provider in usable:
            try:
                self.session = _session(path, settings, provider, profile)
            except RuntimeProviderError as error:
                if provider == usable[-1]:
                    raise
                self.degraded = self.degraded or error.reason
            else:
                break
        self.provider = NAMES[provider]
        self.device = "cpu" if provider == "cpu" else "cuda"
        if self.degraded is not None:
            self.degraded = _degradation(wanted, provider, self.degraded)
        self._buffers = _Buffers(self.session, self.device) if captured(provider, profile) else None

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, npt.NDArray[np.float32]]:
        """Run the graph; outputs by name. Raises ModelMemoryError."""
        with _memory_of(self.path):
            if self._buffers is not None:
                return self._buffers.run(inputs)
            names = [output.name for output in self.session.get_outputs()]
            return dict(zip(names, self.session.run(names, dict(inputs)), strict=True))

    def warm(self) -> None:
        """Run once on zeros, so that memory is had and kernels are chosen before a study comes.

        Sizes are the profile's usual ones; without a profile, 1 wherever the graph leaves one open.
        Not for a decoder, to which zeros mean nothing: let that read something.
        """
        usual = {} if self._profile is None else self._profile.shapes
        inputs: dict[str, Array] = {}
        for declared in self.session.get_inputs():
            shape = usual[declared.name][1] if declared.name in usual else _least(declared.shape)
            inputs[declared.name] = np.zeros(shape, _DTYPES[declared.type])
        self(inputs)


class _Buffers:
    """Inputs and outputs at fixed addresses on the device, which a recorded run needs.

    Tested on the CPU; not run on a GPU.
    """

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        self._session, self._device = session, device
        self._inputs: dict[str, ort.OrtValue] = {}
        self._outputs: dict[str, ort.OrtValue] = {}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, npt.NDArray[np.float32]]:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if name not in self._inputs:
                self._inputs[name] = ort.OrtValue.ortvalue_from_numpy(value, self._device, 0)
            self._inputs[name].update_inplace(np.ascontiguousarray(value))
            binding.bind_ortvalue_input(name, self._inputs[name])
        names = [output.name for output in self._session.get_outputs()]
        for name in names:
            if name in self._outputs:
                binding.bind_ortvalue_output(name, self._outputs[name])
            else:
                binding.bind_output(name, self._device, 0)
        self._session.run_with_iobinding(binding)
        self._outputs = dict(zip(names, binding.get_outputs(), strict=True))
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}  # a copy


def _session(
    path: Path, settings: SessionSettings, provider: Provider, profile: Profile | None
) -> ort.InferenceSession:
    if provider != "cpu":
        _require(provider)
    providers = provider_options(provider, path, settings, profile)
    for _, options in providers:
        _make_cache_folders(options)
    with _memory_of(path):
        try:
            session = ort.InferenceSession(
                path, _session_options(settings), providers=providers, enable_fallback=0
            )
        except MemoryError:
            raise
        except Exception as error:
            # ONNX Runtime's exceptions share no base class below Exception.
            if is_out_of_memory(error):
                raise
            if provider != "cpu":
                _session(path, settings, "cpu", None)  # says so where the graph itself is bad
                raise RuntimeProviderError(
                    provider,
                    Text(en=f"it refused {path.name}", zh=f"无法加载 {path.name}"),
                    f"{OTHER_PROVIDER}; ONNX Runtime says: {_first_line(error)}",
                ) from error
            raise BundleError(
                f"{path}: ONNX Runtime cannot load it ({_first_line(error)}). Truncated, damaged, "
                "or made for another version: copy the whole bundle again, or export it again."
            ) from error
    session.disable_fallback()
    _assert_taken(session, provider, path)
    return session


def _session_options(settings: SessionSettings) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin burn the cores that the listener and the database need; threads that sleep
    # between two operators of a token write a fifth slower. They spin for as long as that takes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _require(provider: Provider) -> None:
    """Raise RuntimeProviderError where the machine lacks something that the provider needs."""
    load_libraries()
    for lack in lacks(provider, installation()):
        raise RuntimeProviderError(provider, lack.reason, lack.remedy)


def _make_cache_folders(options: Options) -> None:
    for key, value in options.items():
        if key.endswith("_cache_path"):
            Path(value).mkdir(parents=True, exist_ok=True)


def _assert_taken(session: ort.InferenceSession, provider: Provider, path: Path) -> None:
    """Raise RuntimeProviderError unless the graph's work really runs on `provider`."""
    if provider == "cpu":
        return
    work: dict[str, set[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            if node.op_type in HEAVY:
                work.setdefault(part.ep_name, set()).add(node.op_type)
    problem = misplaced(provider, session.get_providers(), work)
    if problem is not None:
        raise RuntimeProviderError(
            provider,
            Text(en=f"{path.name}: {problem.en}", zh=f"{path.name}:{problem.zh}"),
            OTHER_PROVIDER,
        )


def misplaced(
    provider: Provider, registered: list[str], work: Mapping[str, set[str]]
) -> Text | None:
    """Why a session does not count as running on `provider`; None where it does.

    `work` says which of the HEAVY operators each execution provider took.
    """
    if NAMES[provider] not in registered:
        return Text(en="the provider did not start", zh="执行后端未能启动")
    if CPU in work:
        left = ", ".join(sorted(work[CPU]))
        return Text(en=f"{left} stayed on the CPU", zh=f"{left} 仍在 CPU 上运行")
    if work and NAMES[provider] not in work:
        return Text(en="the provider took nothing of it", zh="执行后端未接管任何计算")
    return None


def _least(shape: list[int | str | None]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 1 for size in shape)


def _degradation(wanted: Provider, provider: Provider, reason: Text) -> Text:
    return Text(
        en=f"Computed on {SHOWN[provider]}, not on {SHOWN[wanted]} as configured: {reason.en}.",
        zh=f"在 {SHOWN[provider]} 上计算,而非所配置的 {SHOWN[wanted]}:{reason.zh}。",
    )


@contextmanager
def _memory_of(path: Path) -> Iterator[None]:
    """Say an allocation that failed in words that tell what to change."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        megabytes = sum(part.stat().st_size for part in weights_of(path)) / 1e6
        raise ModelMemoryError(
            f"{path}: out of memory. The graph alone has {megabytes:,.0f} MB, and needs as much "
            "again while it is loaded. Raise inference.memory_gb (0: no limit), or take a bundle "
            "of lower precision, or a machine or GPU with more memory."
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of Python, ONNX Runtime or CUDA says that memory did not suffice."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
