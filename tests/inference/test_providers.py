from pathlib import Path

import pytest

from inference.installation import (
    CUDA_LIBRARIES,
    ONLY_CPU,
    TENSORRT_LIBRARIES,
    WITH_GPU,
    Installation,
    installation,
    lacks,
)
from inference.providers import (
    CPU,
    CUDA,
    TENSORRT,
    Profile,
    SessionSettings,
    captured,
    provider_for,
    provider_options,
)
from inference.runtime import misplaced

VOLUME = (1, 1, 32, 256, 256)
STATIC = Profile({"volume": (VOLUME, VOLUME, VOLUME)})
DYNAMIC = Profile(
    {
        "pictures": ((1, 3, 336, 336), (8, 3, 336, 336), (16, 3, 336, 336)),
        "mask": ((1, 2), (8, 2), (16, 2)),
    },
    fp16=True,
)
COMPLETE = Installation(
    packages=frozenset({WITH_GPU}),
    providers=frozenset({CPU, CUDA, TENSORRT}),
    driver=13010,
    devices=1,
    missing=frozenset(),
)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "vision.onnx"
    path.write_bytes(b"graph")
    return path


def tensorrt(graph, profile, cache_dir):
    settings = SessionSettings(provider="tensorrt", cache_dir=cache_dir)
    (name, options), *rest = provider_options("tensorrt", graph, settings, profile)
    assert name == TENSORRT
    return options, rest


@pytest.mark.parametrize(
    ("provider", "names"),
    [("cpu", [CPU]), ("cuda", [CUDA, CPU]), ("tensorrt", [TENSORRT, CUDA, CPU])],
)
def test_what_a_provider_does_not_take_goes_to_the_next(graph, provider, names):
    chosen = provider_options(provider, graph, SessionSettings(provider=provider), None)
    assert [name for name, _ in chosen] == names


def test_fused_graphs_go_on_cuda_where_tensorrt_was_asked_for():
    asked = {one: SessionSettings(provider=one) for one in ("cpu", "cuda", "tensorrt")}
    assert [provider_for(one, fused=True) for one in asked.values()] == ["cpu", "cuda", "cuda"]
    assert [provider_for(one, fused=False) for one in asked.values()] == list(asked)


def test_log_odds_are_not_rounded_to_tf32(graph):
    chosen = provider_options("cuda", graph, SessionSettings(provider="cuda"), None)
    assert dict(chosen)[CUDA]["use_tf32"] == "0"


def test_shapes_of_a_profile_are_written_as_tensorrt_reads_them(graph):
    options, _ = tensorrt(graph, DYNAMIC, None)
    assert options["trt_profile_min_shapes"] == "mask:1x2,pictures:1x3x336x336"
    assert options["trt_profile_opt_shapes"] == "mask:8x2,pictures:8x3x336x336"
    assert options["trt_profile_max_shapes"] == "mask:16x2,pictures:16x3x336x336"
    assert (options["trt_fp16_enable"], options["trt_cuda_graph_enable"]) == ("True", "False")


def test_only_static_shapes_are_recorded_as_a_cuda_graph(graph):
    options, _ = tensorrt(graph, STATIC, None)
    assert (options["trt_fp16_enable"], options["trt_cuda_graph_enable"]) == ("False", "True")
    assert captured("tensorrt", STATIC)
    assert not captured("tensorrt", DYNAMIC)
    assert not captured("tensorrt", None)
    assert not captured("cuda", STATIC)


def test_nothing_is_cached_where_there_is_no_place_for_it(graph):
    options, _ = tensorrt(graph, None, None)
    assert not [key for key in options if "cache" in key]


def test_engines_are_of_exactly_one_graph_and_profile(graph, tmp_path):
    cache = tmp_path / "cache"

    def engines(profile):
        options, _ = tensorrt(graph, profile, cache)
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
        assert options["trt_timing_cache_path"] == str(cache / "tensorrt")
        return Path(options["trt_engine_cache_path"])

    first = engines(STATIC)
    assert first == engines(STATIC)
    assert first.is_relative_to(cache / "tensorrt")
    others = {first, engines(DYNAMIC)}
    graph.write_bytes(b"graph of the same structure, other weights")
    others.add(engines(STATIC))
    Path(f"{graph}.data").write_bytes(b"weights")
    others.add(engines(STATIC))
    Path(f"{graph}.data").write_bytes(b"other weights")
    others.add(engines(STATIC))
    assert len(others) == 5


def test_a_complete_installation_lacks_nothing():
    assert [lacks(one, COMPLETE) for one in ("cpu", "cuda", "tensorrt")] == [(), (), ()]


@pytest.mark.parametrize(
    ("change", "provider", "reason", "remedy"),
    [
        (
            {"packages": frozenset({ONLY_CPU}), "providers": frozenset({CPU})},
            "cuda",
            "has no CUDA provider",
            "pip install 'overread[gpu]'",
        ),
        (
            {"packages": frozenset({ONLY_CPU, WITH_GPU}), "providers": frozenset({CPU})},
            "cuda",
            "overwrite each other",
            "pip uninstall",
        ),
        ({"driver": 0, "devices": 0}, "cuda", "no NVIDIA driver", "driver 580"),
        ({"devices": 0}, "tensorrt", "no NVIDIA driver with a GPU", "hand the GPU through"),
        ({"driver": 12080}, "cuda", "CUDA up to 12.8, not 13.0", "driver 580"),
        (
            {"missing": frozenset(CUDA_LIBRARIES[-1:])},
            "cuda",
            "libraries of CUDA cannot be loaded: libcudnn.so.9",
            "overread[gpu]",
        ),
        (
            {"missing": frozenset(TENSORRT_LIBRARIES)},
            "tensorrt",
            "libraries of TensorRT cannot be loaded: libnvinfer.so.10",
            "overread[gpu]",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_to_install(change, provider, reason, remedy):
    found = Installation(**{**vars(COMPLETE), **change})
    (lack,) = lacks(provider, found)
    assert reason in lack.reason.en
    assert remedy in lack.remedy
    assert lacks("cpu", found) == ()


def test_cuda_does_not_need_tensorrt():
    found = Installation(**{**vars(COMPLETE), "missing": frozenset(TENSORRT_LIBRARIES)})
    assert lacks("cuda", found) == ()


def test_this_machine_is_described():
    found = installation()
    assert found.packages & {ONLY_CPU, WITH_GPU}
    assert CPU in found.providers
    assert (found.driver == 0) == (found.devices == 0)


@pytest.mark.parametrize(
    ("registered", "work", "problem"),
    [
        ([CUDA, CPU], {CUDA: {"MatMul"}}, None),
        ([CUDA, CPU], {}, None),  # an embedding table has no heavy operator
        ([TENSORRT, CUDA, CPU], {TENSORRT: {"Conv"}, CUDA: {"MatMul"}}, None),
        ([CPU], {CPU: {"MatMul"}}, "did not start"),
        ([CUDA, CPU], {CUDA: {"MatMul"}, CPU: {"MatMulNBits", "Conv"}}, "Conv, MatMulNBits stayed"),
    ],
)
def test_work_that_is_left_on_the_cpu_is_noticed(registered, work, problem):
    provider = "tensorrt" if TENSORRT in registered else "cuda"
    found = misplaced(provider, registered, work)
    assert (found and problem in found.en) or (found is problem is None)


def test_a_tensorrt_that_took_nothing_is_noticed():
    found = misplaced("tensorrt", [TENSORRT, CUDA, CPU], {CUDA: {"Conv"}})
    assert "took nothing" in found.en
