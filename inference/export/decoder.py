"""A text checkpoint to `embed.onnx` and `decoder.<precision>.onnx`, with the proof of their parity.

onnxruntime-genai's builder gives the fastest graph; it is then changed so that questions can be
packed behind one prefix and the language head runs only on the rows that are asked for.
"""

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from onnxruntime_genai.models import builders
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from inference.export.decoder_graph import to_contract
from inference.export.graphs import MAX_PARITY_ERROR, OPSET, ExportError
from inference.export.parity import decoder_parity
from inference.export.quantise import BITS, join_pairs, multiply_integers, quantise_weights
from inference.export.storage import STORED_TYPES, narrow_weights, save_graph
from inference.manifest import DecoderShape, Precision

BUILDERS = {
    "llama": builders.LlamaModel,
    "mistral": builders.MistralModel,
    "qwen2": builders.QwenModel,
    "phi3": builders.Phi3MiniModel,
}
CUDA_NUMBERS = {
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
    "int4": ir.DataType.FLOAT16,
}
"""What graphs for CUDA compute in."""

MAX_INTEGER_ERROR = 0.5
"""Tolerance where rows are rounded to int8 by blocks: their greatest error in 10^6 logits is
0.1 to 0.2 of the logits' scale, while those of a wrong graph are off by several times it."""

MAX_CUDA_ERROR = 0.05
"""Tolerance of arithmetic in 16 bits."""

TOOLS = ("torch", "transformers", "onnx-ir", "onnxruntime", "onnxruntime-genai")


@dataclass(frozen=True)
class DecoderExport:
    """What was written and how well it agrees with torch on the weights as they are stored.

    `agreement` is the share of positions at which both find the same token most likely.
    """

    shape: DecoderShape
    parity_error: float
    agreement: float
    tools: dict[str, str]


def export_decoder(
    text_model: Path,
    out: Path,
    precision: Precision,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    max_length: int,
    tell: Callable[[str], None],
) -> DecoderExport:
    """Write `embed.onnx` and `decoder.<precision>.onnx` for a checkpoint into the folder `out`.

    `text_model` holds config.json and safetensors of a llama, mistral, qwen2 or phi3; it needs no
    tokenizer. A graph for CUDA computes in 16 bits and cannot pack questions: GroupQueryAttention
    there takes no attention bias, and was never run by us: no GPU was at hand. Weights of int8 and
    int4 are multiplied as integers on the CPU, which moves log-odds by some hundredths of their
    spread. Raises ExportError; nothing is left in `out` where parity fails.
    """
    config = _checked_config(text_model, max_length)
    tell(f"Reading {text_model.name} ({config.model_type})")
    torch_model = AutoModelForCausalLM.from_pretrained(
        text_model, config=config, dtype="auto", attn_implementation="eager", local_files_only=True
    ).eval()
    model = _built(config, torch_model, device, precision)
    shape = _shape(config, precision, max_length, packed=device == "cpu")
    to_contract(model.graph, shape)
    if precision in BITS:
        quantise_weights(model.graph, precision)
        join_pairs(model.graph)
    elif precision in STORED_TYPES and device == "cpu":
        narrow_weights(model.graph, precision)
    paths = out / "embed.onnx", out / f"decoder.{precision}.onnx"

    def proven(tolerance: float) -> tuple[float, float]:
        save_graph(model, paths[1])
        tell(f"Comparing {paths[1].name} with torch")
        return decoder_parity(torch_model, *paths, shape, device=device, tolerance=tolerance)

    tell(f"Writing the decoder in {precision}")
    with _removed_on_failure(paths):
        save_graph(_embedding_graph(torch_model, precision), paths[0])
        error, agreement = proven(MAX_PARITY_ERROR if device == "cpu" else MAX_CUDA_ERROR)
        if precision in BITS and device == "cpu":
            # The weights and the graph are right; now the arithmetic may be coarser, but faster.
            multiply_integers(model.graph)
            error, agreement = proven(MAX_INTEGER_ERROR)
    return DecoderExport(shape, error, agreement, {tool: version(tool) for tool in TOOLS})


@contextmanager
def _removed_on_failure(paths: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".data").unlink(missing_ok=True)
        raise


def _checked_config(text_model: Path, max_length: int) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(text_model, local_files_only=True)
    if config.model_type not in BUILDERS:
        raise ExportError(
            f"{text_model}: a decoder of type {config.model_type} cannot be exported; "
            f"{', '.join(BUILDERS)} can."
        )
    if config.rope_parameters["rope_type"] == "longrope":
        raise ExportError(
            f"{text_model}: positions are scaled by longrope, which depends on the length of the "
            "sequence, so that a prefix cannot be read once. Take the variant for 4k positions."
        )
    window = getattr(config, "sliding_window", None) or config.max_position_embeddings
    longest = min(window, config.max_position_embeddings)
    if max_length > longest:
        raise ExportError(
            f"{text_model}: the model sees {longest} positions; its pictures, questions "
            f"and answers take {max_length}. It is too short for this family."
        )
    config.sliding_window = None  # never reached: the cache is no longer than the window
    return config


def _built(
    config: PretrainedConfig, torch_model: PreTrainedModel, device: str, precision: Precision
) -> ir.Model:
    """The builder's graph, with weights that are read from `torch_model` when it is saved."""
    number = ir.DataType.FLOAT
    if device == "cuda":
        number = CUDA_NUMBERS.get(precision)
        if number is None:
            raise ExportError(
                f"{precision} is not a precision of decoders on CUDA; {', '.join(CUDA_NUMBERS)} are"
            )
    options = {"exclude_embeds": True, "include_hidden_states": True}
    with tempfile.TemporaryDirectory() as cache, _quiet():
        builder = BUILDERS[config.model_type](config, number, number, device, cache, options)
        builder.load_weights = lambda _: torch_model
        with torch.no_grad():
            builder.make_model(str(config.name_or_path))
    return builder.model


@contextmanager
def _quiet() -> Iterator[None]:
    """The builder's prints are shown only where it fails."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    except Exception as error:
        # The builder raises whatever its own code runs into.
        raise ExportError(
            f"onnxruntime-genai's builder failed ({error!r}). It said:\n{said.getvalue()}"
        ) from error


def _shape(
    config: PretrainedConfig, precision: Precision, max_length: int, *, packed: bool
) -> DecoderShape:
    head_size = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    return DecoderShape(
        layers=config.num_hidden_layers,
        kv_heads=config.num_key_value_heads,
        head_size=head_size,
        width=config.hidden_size,
        vocabulary=config.vocab_size,
        max_length=max_length,
        precision=precision,
        packed=packed,
    )


def _embedding_graph(torch_model: PreTrainedModel, precision: Precision) -> ir.Model:
    """`input_ids` (1, S) int64 -> `inputs_embeds` (1, S, W) float32."""
    matrix = torch_model.get_input_embeddings().weight.detach()
    if precision in STORED_TYPES:
        matrix = matrix.to(STORED_TYPES[precision])
    elif precision == "fp32":
        matrix = matrix.float()
    kept = TorchTensor(matrix, name="embeddings")
    weight = ir.Value(
        name=kept.name, type=ir.TensorType(kept.dtype), shape=kept.shape, const_value=kept
    )
    ids = ir.Value(
        name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1, "sequence"])
    )
    # Cast after the look-up: the matrix stays in memory as it is stored.
    rows = ir.node("Gather", [weight, ids])
    cast = ir.node("Cast", rows.outputs, {"to": ir.DataType.FLOAT})
    (embeddings,) = cast.outputs
    embeddings.name, embeddings.type = "inputs_embeds", ir.TensorType(ir.DataType.FLOAT)
    embeddings.shape = ir.Shape([1, "sequence", matrix.shape[1]])
    graph = ir.Graph(
        [ids],
        [embeddings],
        nodes=[rows, cast],
        initializers=[weight],
        opset_imports={"": OPSET},
        name="embed",
    )
    return ir.Model(graph, ir_version=10)
