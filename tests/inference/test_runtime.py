import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from inference import runtime
from inference.bundle import BUILTIN, BundleError, find_bundle
from inference.model import Model, load_model
from inference.model_errors import RuntimeProviderError
from inference.providers import CPU, Profile, SessionSettings
from inference.runtime import Graph, is_out_of_memory
from tests.inference.conftest import AT, Scan

ONE_THREAD = SessionSettings(threads=1)
WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """`y = x @ WEIGHTS`, `twice = 2 x`."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in (("y", 2), ("twice", 3))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["y"]),
        helper.make_node("Add", ["x", "x"], ["twice"]),
    ]
    weights = onnx.numpy_helper.from_array(WEIGHTS, "weights")
    graph = helper.make_graph(nodes, "product", inputs, outputs, [weights])
    path = tmp_path / "product.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def test_the_provider_in_use_is_reported(model: Model) -> None:
    assert model.provider == CPU


def test_outputs_come_by_name(product: Path) -> None:
    x = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    found = Graph(product, ONE_THREAD)({"x": x})
    np.testing.assert_allclose(found["y"], x @ WEIGHTS, rtol=1e-6)
    np.testing.assert_array_equal(found["twice"], x + x)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_refused(provider) -> None:
    with pytest.raises(RuntimeProviderError, match=r"cannot be used: .*Do this: pip"):
        load_model(find_bundle(BUILTIN), replace(ONE_THREAD, provider=provider))


@pytest.mark.parametrize(("provider", "shown"), [("cuda", "CUDA"), ("tensorrt", "TensorRT")])
def test_a_degradation_is_stated(product: Path, provider, shown) -> None:
    graph = Graph(product, replace(ONE_THREAD, provider=provider, on_missing="degrade"))
    assert (graph.provider, graph.device) == (CPU, "cpu")
    assert graph.degraded is not None
    assert graph.degraded.en.startswith(f"Computed on CPU, not on {shown} as configured: the inst")
    assert shown in graph.degraded.zh
    assert Graph(product, ONE_THREAD).degraded is None


def test_a_degradation_stands_in_the_assessment(clear: Scan) -> None:
    settings = replace(ONE_THREAD, provider="cuda", on_missing="degrade")
    model = load_model(find_bundle(BUILTIN), settings)
    record = model.assess(clear.volume, at=AT).record
    assert record.provider == CPU
    assert [text for text in record.limitations if "not on CUDA as configured" in text.en]


def test_onnx_runtime_does_not_fall_back_by_itself(product: Path, monkeypatch) -> None:
    """A provider that is listed but does not start: it would go on with the CPU."""
    monkeypatch.setattr(runtime, "_require", lambda provider: None)
    monkeypatch.setattr(runtime, "provider_options", lambda *_: [(CPU, {})])
    with pytest.raises(RuntimeProviderError, match="did not start"):
        Graph(product, replace(ONE_THREAD, provider="cuda"))


def test_a_provider_that_fails_is_not_taken_for_a_damaged_graph(product: Path, monkeypatch) -> None:
    def options(provider, *_):
        return [(CPU, {"unknown": "option"} if provider == "cuda" else {})]

    def session(path, *arguments, providers, **keywords):
        if providers[0][1]:
            raise RuntimeError("Please install the libraries\nand more")
        return original(path, *arguments, providers=providers, **keywords)

    original = runtime.ort.InferenceSession
    monkeypatch.setattr(runtime, "_require", lambda provider: None)
    monkeypatch.setattr(runtime, "provider_options", options)
    monkeypatch.setattr(runtime.ort, "InferenceSession", session)
    cuda = replace(ONE_THREAD, provider="cuda")
    with pytest.raises(RuntimeProviderError, match=r"it refused product\.onnx\. .* Please install"):
        Graph(product, cuda)
    degraded = Graph(product, replace(cuda, on_missing="degrade")).degraded
    assert degraded.en == "Computed on CPU, not on CUDA as configured: it refused product.onnx."
    product.write_bytes(b"no graph")
    with pytest.raises(BundleError, match="cannot load it"):
        Graph(product, cuda)


@pytest.mark.parametrize("size", [0, 1, 60, 150])
def test_a_truncated_graph_is_named(product: Path, size) -> None:
    product.write_bytes(product.read_bytes()[:size])
    with pytest.raises(BundleError, match=r"product\.onnx: ONNX Runtime cannot load it .*again"):
        Graph(product, ONE_THREAD)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_weights_beside_the_graph_that_are_damaged_are_named(product: Path, damage) -> None:
    model = onnx.load(product)
    onnx.save(
        model,
        product,
        save_as_external_data=True,
        location=f"{product.name}.data",
        size_threshold=0,
        convert_attribute=False,
    )
    weights = product.with_name(f"{product.name}.data")
    assert Graph(product, ONE_THREAD)({"x": np.eye(3, dtype=np.float32)})["y"].shape == (3, 2)
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:10])
    with pytest.raises(BundleError, match=r"product\.onnx: ONNX Runtime cannot load it"):
        Graph(product, ONE_THREAD)


HUNGRY = """
import resource, sys
from pathlib import Path
import numpy as np
from inference.model_errors import ModelMemoryError
from inference.providers import SessionSettings
from inference.runtime import Graph
x = np.ones((10_000_000, 3), np.float32)
graph = Graph(Path(sys.argv[1]), SessionSettings(threads=1))
used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used, used))
try:
    graph({"x": x})
except ModelMemoryError as error:
    print(error)
"""


def test_running_out_of_memory_says_what_to_change(product: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HUNGRY, str(product)], check=False, capture_output=True, text=True
    )
    assert "product.onnx: out of memory. The graph alone has 0 MB" in done.stdout, done.stderr
    assert "inference.memory_gb" in done.stdout


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 7"), True),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), True),
        (RuntimeError("Protobuf parsing failed."), False),
    ],
)
def test_allocation_failures_are_told_from_others(error, memory) -> None:
    assert is_out_of_memory(error) is memory


def test_a_run_at_fixed_addresses_gives_what_a_plain_one_gives(product: Path) -> None:
    plain = Graph(product, ONE_THREAD)
    fixed = runtime._Buffers(plain.session, "cpu")
    rng = np.random.default_rng(2)
    kept = []
    for _ in range(3):
        x = rng.standard_normal((5, 3)).astype(np.float32)
        found = fixed.run({"x": x})
        expected = plain({"x": x})
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
        kept.append((found["y"].copy(), found["y"]))
    for then, now in kept:
        np.testing.assert_array_equal(then, now)  # a later run does not change what was returned


def test_warming_runs_the_graph_at_its_usual_size(product: Path, monkeypatch) -> None:
    seen = []
    for profile in (None, Profile({"x": ((1, 3), (8, 3), (16, 3))})):
        graph = Graph(product, ONE_THREAD, profile=profile)
        monkeypatch.setattr(Graph, "__call__", lambda _, inputs: seen.append(inputs["x"].shape))
        graph.warm()
    assert seen == [(1, 3), (8, 3)]


def test_the_model_is_warmed_with_every_graph(model: Model) -> None:
    model.warm()
