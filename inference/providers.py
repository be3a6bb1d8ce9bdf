"""Execution providers of ONNX Runtime: which runs a graph, with which options.

ONNX Runtime only warns where a provider is not there, and runs the graph on the CPU. Here that is
an error, or a degradation that is stated in every assessment.

No GPU was at hand: the options below are tested as such, and were not run on one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Provider = Literal["cpu", "cuda", "tensorrt"]
OnMissing = Literal["refuse", "degrade"]
Shape = tuple[int, ...]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
NAMES: Mapping[Provider, str] = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
"""What ONNX Runtime calls them."""

SHOWN: Mapping[Provider, str] = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
"""What the operator calls them."""

NEXT_BEST: Mapping[Provider, tuple[Provider, ...]] = {
    "cpu": ("cpu",),
    "cuda": ("cuda", "cpu"),
    "tensorrt": ("tensorrt", "cuda", "cpu"),
}
"""What is tried in turn where a degradation is allowed."""

WEIGHTS_BESIDE = ".data"
"""Weights of `vision.onnx` that are too large for it lie in `vision.onnx.data`."""

Options = dict[str, str]


@dataclass(frozen=True)
class SessionSettings:
    """How graphs are run. `threads` 0: one a core.

    `cache_dir` keeps what TensorRT builds (minutes of work a graph) from one start to the next.
    """

    provider: Provider = "cpu"
    on_missing: OnMissing = "refuse"
    threads: int = 0
    cache_dir: Path | None = None


@dataclass(frozen=True)
class Limits:
    """What one assessment may take: `seconds` of time, `memory_gb` of memory (0: no limit)."""

    seconds: float
    memory_gb: float


@dataclass(frozen=True)
class Profile:
    """What TensorRT builds an engine for: input name -> smallest, most usual, largest shape.

    `fp16`: the graph was exported in half precision, so that the engine may compute in it.
    """

    shapes: Mapping[str, tuple[Shape, Shape, Shape]]
    fp16: bool = False

    @property
    def static(self) -> bool:
        """Whether every run has the same shapes."""
        return all(smallest == largest for smallest, _, largest in self.shapes.values())


def provider_for(settings: SessionSettings, *, fused: bool) -> Provider:
    """The provider that a graph is meant for.

    TensorRT has no GroupQueryAttention and no MatMulNBits: graphs that were `fused` to these go on
    CUDA where TensorRT was asked for.
    """
    return "cuda" if fused and settings.provider == "tensorrt" else settings.provider


def provider_options(
    provider: Provider, graph: Path, settings: SessionSettings, profile: Profile | None
) -> list[tuple[str, Options]]:
    """Providers with their options, the first one preferred, as InferenceSession takes them."""
    # ONNX Runtime puts the CPU provider behind the others by itself: naming it makes it plain.
    behind: dict[Provider, list[tuple[str, Options]]] = {
        "cpu": [],
        "cuda": [(CUDA, cuda_options())],
        "tensorrt": [(TENSORRT, tensorrt_options(graph, settings, profile)), (CUDA, cuda_options())]
        if provider == "tensorrt"
        else [],
    }
    return [*behind[provider], (CPU, {})]


def cuda_options() -> Options:
    """Options of the CUDA provider."""
    return {
        "device_id": "0",
        # TF32 rounds fp32 factors to 10 bits: log-odds would not be those that were calibrated.
        "use_tf32": "0",
        # The arena would otherwise double with each growth, beside a decoder that fills the card.
        "arena_extend_strategy": "kSameAsRequested",
        # The exhaustive search takes seconds for each new shape, and need not choose alike twice.
        "cudnn_conv_algo_search": "HEURISTIC",
    }


def tensorrt_options(graph: Path, settings: SessionSettings, profile: Profile | None) -> Options:
    """Options of the TensorRT provider."""
    options = {
        "device_id": "0",
        "trt_fp16_enable": _flag(profile is not None and profile.fp16),
        "trt_layer_norm_fp32_fallback": _flag(profile is not None and profile.fp16),
        "trt_cuda_graph_enable": _flag(captured("tensorrt", profile)),
    }
    if profile is not None:
        for place, key in enumerate(("min", "opt", "max")):
            options[f"trt_profile_{key}_shapes"] = ",".join(
                f"{name}:{'x'.join(map(str, shapes[place]))}"
                for name, shapes in sorted(profile.shapes.items())
            )
    if settings.cache_dir is not None:
        engines = settings.cache_dir / "tensorrt" / _engine_key(graph, profile)
        options |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(engines),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(settings.cache_dir / "tensorrt"),
        }
    return options


def captured(provider: Provider, profile: Profile | None) -> bool:
    """Whether the graph's launches are recorded once and replayed, as a CUDA graph.

    A replay reads and writes the addresses of the first run: such a graph needs fixed buffers.
    """
    return provider == "tensorrt" and profile is not None and profile.static


def weights_of(graph: Path) -> list[Path]:
    """The files that a graph consists of."""
    beside = graph.with_name(graph.name + WEIGHTS_BESIDE)
    return [graph, beside] if beside.is_file() else [graph]


def _engine_key(graph: Path, profile: Profile | None) -> str:
    """A folder's name for the engines of exactly this graph.

    ONNX Runtime names an engine by its graph's structure, and would take the engine of another
    model that differs in weights only.
    """
    digest = hashlib.sha256(repr(profile).encode())
    for path in weights_of(graph):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _flag(value: bool) -> str:
    return "True" if value else "False"
