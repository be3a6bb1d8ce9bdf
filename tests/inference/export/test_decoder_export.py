import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `export`")
for needed in ("transformers", "onnx_ir", "onnxruntime_genai"):
    pytest.importorskip(needed, reason="needs the extra `export`")

import onnx  # noqa: E402
import onnx_ir as ir  # noqa: E402
import onnxruntime as ort  # noqa: E402

from inference.export import decoder as exporter  # noqa: E402
from inference.export import storage  # noqa: E402
from inference.export.decoder import MAX_INTEGER_ERROR, DecoderExport, export_decoder  # noqa: E402
from inference.export.decoder_graph import to_contract  # noqa: E402
from inference.export.graphs import ExportError  # noqa: E402
from inference.export.quantise import BLOCK, dequantised, quantise  # noqa: E402
from inference.export.storage import save_graph, store_weights  # noqa: E402
from tests.inference.export.checkpoints import KINDS, SIZES, text_checkpoint  # noqa: E402

LENGTH = 96
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")


def export(text_model: Path, out: Path, precision: str = "fp32", **options) -> DecoderExport:
    out.mkdir(exist_ok=True)
    options = {"max_length": LENGTH, "tell": lambda _: None, **options}
    return export_decoder(text_model, out, precision, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_every_precision_says_what_torch_says(kind: str, tmp_path: Path) -> None:
    text_model = text_checkpoint(tmp_path / "text", kind)
    for precision in PRECISIONS:
        made = export(text_model, tmp_path / precision, precision)
        exact = precision not in ("int8", "int4")
        assert made.parity_error < (1e-5 if exact else MAX_INTEGER_ERROR)
        assert made.agreement > {"fp32": 0.999, "fp16": 0.97, "bf16": 0.85, "int8": 0.7}.get(
            precision, 0
        )
        assert made.shape.packed
        assert made.shape.head_size == (32 if kind == "mistral" else 16)


def test_the_graph_keeps_its_contract(tmp_path: Path) -> None:
    export(text_checkpoint(tmp_path / "text", "llama"), tmp_path / "out")
    session = ort.InferenceSession(tmp_path / "out" / "decoder.fp32.onnx")
    past = [f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    present = [f"present.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert {value.name for value in session.get_inputs()} == {
        *("inputs_embeds", "attention_mask", "position_ids", "attention_bias", "logit_index"),
        *past,
    }
    outputs = {value.name: value.shape for value in session.get_outputs()}
    assert set(outputs) == {"logits", "hidden_states", *present}
    assert outputs["logits"] == [1, "rows", SIZES["vocab_size"]]
    assert outputs["hidden_states"] == [1, "rows", SIZES["hidden_size"]]


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.55), ("int8", 0.4), ("int4", 0.3)])
def test_small_precisions_make_small_files(tmp_path: Path, precision: str, share: float) -> None:
    text_model = text_checkpoint(tmp_path / "text", "llama", hidden_size=256)
    sizes = {}
    for each in ("fp32", precision):
        export(text_model, tmp_path / each, each)
        sizes[each] = (tmp_path / each / f"decoder.{each}.onnx").stat().st_size
    assert sizes[precision] < share * sizes["fp32"]


def test_a_checkpoint_of_16_bits_is_read_as_it_is(tmp_path: Path) -> None:
    text_model = text_checkpoint(tmp_path / "text", "qwen2", dtype=torch.bfloat16)
    wide, narrow = (export(text_model, tmp_path / each, each) for each in ("fp32", "bf16"))
    assert wide.agreement == narrow.agreement == 1.0


def test_a_wrong_graph_is_refused_and_removed(tmp_path: Path, monkeypatch) -> None:
    def without_rotation(graph: ir.Graph, shape: object) -> None:
        to_contract(graph, shape)
        for node in graph:
            if node.op_type == "GroupQueryAttention":
                node.attributes["do_rotary"] = ir.AttrInt64("do_rotary", 0)

    monkeypatch.setattr(exporter, "to_contract", without_rotation)
    for precision in ("fp32", "int4"):
        with pytest.raises(ExportError, match="differs from torch"):
            export(text_checkpoint(tmp_path / "text", "llama"), tmp_path / "out", precision)
        assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    text_model = text_checkpoint(tmp_path / "text", "llama")
    with pytest.raises(ExportError, match=r"sees 512 positions;.*take 513"):
        export(text_model, tmp_path / "out", max_length=513)
    window = text_checkpoint(tmp_path / "window", "mistral", sliding_window=64)
    with pytest.raises(ExportError, match=r"sees 64 positions;.*take 65"):
        export(window, tmp_path / "out", max_length=65)
    config = json.loads((text_model / "config.json").read_text())
    (text_model / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(ExportError, match="gpt2 cannot be exported"):
        export(text_model, tmp_path / "out")


def test_what_the_builder_said_is_shown_where_it_fails(tmp_path: Path, monkeypatch) -> None:
    class Failing(exporter.BUILDERS["llama"]):
        def make_model(self, _: str) -> None:
            print("reading layer 7")
            raise KeyError("layer 8")

    monkeypatch.setitem(exporter.BUILDERS, "llama", Failing)
    with pytest.raises(ExportError, match=r"(?s)KeyError.*reading layer 7"):
        export(text_checkpoint(tmp_path / "text", "llama"), tmp_path / "out")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int4"])
def test_a_graph_for_cuda_has_16_bits_inside_and_no_bias(
    tmp_path: Path, monkeypatch, precision: str
) -> None:
    """No GPU is at hand: the graph is checked, not run."""
    asked = {}

    def unproven(*_: object, **options: object) -> tuple[float, float]:
        asked.update(options)
        return 0.0, 1.0

    monkeypatch.setattr(exporter, "decoder_parity", unproven)
    text_model = text_checkpoint(tmp_path / "text", "qwen2")
    made = export(text_model, tmp_path / "out", precision, device="cuda")
    assert asked == {"device": "cuda", "tolerance": exporter.MAX_CUDA_ERROR}
    assert not made.shape.packed
    graph = onnx.load(tmp_path / "out" / f"decoder.{precision}.onnx").graph
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)
    }
    number = onnx.TensorProto.BFLOAT16 if precision == "bf16" else onnx.TensorProto.FLOAT16
    assert types["inputs_embeds"] == types["logits"] == types["hidden_states"] == 1
    assert types["past_key_values.0.key"] == types["present.1.value"] == number
    assert "attention_bias" not in types
    attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert [node.input[9] for node in attention] == ["position_ids"] * 2
    assert all(len(node.input) < 11 or node.input[10] == "" for node in attention)


def test_cuda_refuses_what_it_does_not_compute_in(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="fp32 is not a precision"):
        export(text_checkpoint(tmp_path / "text", "llama"), tmp_path / "out", device="cuda")


def test_cuda_parity_needs_a_gpu(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(ExportError, match="Export on a machine with a GPU"):
        export(text_checkpoint(tmp_path / "text", "llama"), tmp_path / "out", "fp16", device="cuda")


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_weights_are_within_half_a_step(bits: int) -> None:
    block = BLOCK
    weight = torch.randn(5, 300, generator=torch.Generator().manual_seed(3))
    weight[0, :block] = 0
    _, scales = quantise(weight, bits)
    error = (dequantised(weight, bits) - weight).abs()
    steps = scales.abs().repeat_interleave(block, 1)[:, :300]
    # The side without the farthest value ends one step earlier.
    assert (error <= steps * 1.001).all()
    assert error.mean() < 0.3 * steps.mean()
    assert (dequantised(weight, bits)[0, :block] == 0).all()


def affine_graph(path: Path, weight: np.ndarray) -> None:
    make = onnx.helper
    graph = make.make_graph(
        [
            make.make_node("MatMul", ["x", "weight"], ["xw"]),
            make.make_node("Add", ["xw", "bias"], ["y"]),
        ],
        "affine",
        [make.make_tensor_value_info("x", 1, ["n", weight.shape[0]])],
        [make.make_tensor_value_info("y", 1, ["n", weight.shape[1]])],
        [
            onnx.numpy_helper.from_array(weight, "weight"),
            onnx.numpy_helper.from_array(np.full(weight.shape[1], 1 / 3, np.float32), "bias"),
        ],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)


@pytest.mark.parametrize(("precision", "error"), [("fp32", 0), ("fp16", 1e-2), ("bf16", 5e-2)])
def test_stored_weights_give_nearly_the_same(tmp_path: Path, precision: str, error: float) -> None:
    path, generator = tmp_path / "vision.onnx", np.random.default_rng(1)
    weight = generator.normal(size=(96, 64)).astype(np.float32)
    affine_graph(path, weight)
    size, x = path.stat().st_size, generator.normal(size=(3, 96)).astype(np.float32)
    store_weights(path, precision)
    (y,) = ort.InferenceSession(path).run(None, {"x": x})
    assert np.abs(y - (x @ weight + np.float32(1 / 3))).max() <= max(error, 1e-5)
    assert (path.stat().st_size < 0.6 * size) == (precision != "fp32")


def test_a_weight_too_large_for_fp16_is_refused(tmp_path: Path) -> None:
    affine_graph(tmp_path / "vision.onnx", np.full((96, 64), 1e5, np.float32))
    with pytest.raises(ExportError, match=r"weight is too large for fp16. Use bf16"):
        store_weights(tmp_path / "vision.onnx", "fp16")
    with pytest.raises(ExportError, match="not int4"):
        store_weights(tmp_path / "vision.onnx", "int4")


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "vision.onnx"
    affine_graph(path, np.ones((96, 64), np.float32))
    monkeypatch.setattr(storage, "INLINE_BYTES", 1000)
    save_graph(ir.load(path), path)
    assert (tmp_path / "vision.onnx.data").stat().st_size >= 96 * 64 * 4
    store_weights(path, "fp16")
    assert (tmp_path / "vision.onnx.data").stat().st_size < 96 * 64 * 3
    (y,) = ort.InferenceSession(path).run(None, {"x": np.ones((1, 96), np.float32)})
    assert np.allclose(y, 96 + 1 / 3)
