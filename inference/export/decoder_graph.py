"""The graph of onnxruntime-genai's builder, changed to what `inference.decoder` runs.

Positions, attention bias and the rows to answer for become inputs; everything outside is float32
but the cache, which has the graph's own number format.
"""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor

from inference.export.storage import torch_tensor
from inference.manifest import DecoderShape

POSITION_IDS, ATTENTION_BIAS = 9, 10
"""Inputs of GroupQueryAttention that the builder leaves empty."""


def to_contract(graph: ir.Graph, shape: DecoderShape) -> None:
    """Give `graph` its inputs `position_ids`, `logit_index` and, where packed, `attention_bias`."""
    _steer_attention(graph, packed=shape.packed)
    _choose_rows(graph)
    _shorten_rotations(graph, shape.max_length)
    _float_outside(graph)
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None and value.shape[0] == "batch_size":
            value.shape = ir.Shape([1, *value.shape[1:]])


def _steer_attention(graph: ir.Graph, *, packed: bool) -> None:
    positions = _input(graph, "position_ids", ir.DataType.INT64, [1, "sequence_length"])
    bias = None
    if packed:
        bias = _input(
            graph,
            "attention_bias",
            ir.DataType.FLOAT,
            [1, 1, "sequence_length", "total_sequence_length"],
        )
    for node in graph:
        if node.op_type == "GroupQueryAttention":
            node.replace_input_with(POSITION_IDS, positions)
            node.replace_input_with(ATTENTION_BIAS, bias)


def _choose_rows(graph: ir.Graph) -> None:
    """Only rows `logit_index` of the final norm's output go to the head, and out."""
    states, logits = (_output(graph, name) for name in ("hidden_states", "logits"))
    index = _input(graph, "logit_index", ir.DataType.INT64, ["rows"])
    chosen = ir.node("Gather", [states, index], {"axis": 1}, name="/model/logit_index/Gather")
    _follow(graph, states, chosen)
    for value in (chosen.outputs[0], logits):
        value.shape = ir.Shape([1, "rows", value.shape[-1]])


def _shorten_rotations(graph: ir.Graph, max_length: int) -> None:
    """Keep the rotary tables of positions that the cache can hold."""
    for name in ("cos_cache", "sin_cache"):
        table = graph.initializers[name]
        rows = torch_tensor(table)[:max_length].contiguous()
        table.const_value = TorchTensor(rows, name=name)
        table.shape = table.const_value.shape


def _float_outside(graph: ir.Graph) -> None:
    """Casts where a graph of 16 bits takes embeddings and gives logits and states."""
    embeddings = next(value for value in graph.inputs if value.name == "inputs_embeds")
    if embeddings.dtype == ir.DataType.FLOAT:
        return
    cast = ir.node("Cast", [embeddings], {"to": embeddings.dtype}, name="/model/inputs_embeds/Cast")
    embeddings.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, embeddings)
    cast.outputs[0].type, cast.outputs[0].shape = embeddings.type, embeddings.shape
    embeddings.type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(graph[0], cast)
    for name in ("hidden_states", "logits"):
        value = _output(graph, name)
        if value.dtype != ir.DataType.FLOAT:
            cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"/model/{name}/Cast")
            consumers = [(use.node, use.idx) for use in value.uses() if use.node is not cast]
            _follow(graph, value, cast)
            for node, place in consumers:
                node.replace_input_with(place, value)
            cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)


def _follow(graph: ir.Graph, value: ir.Value, node: ir.Node) -> None:
    """Put `node`, which takes `value`, in the place of `value` under its name."""
    (result,) = node.outputs
    result.name, result.type, result.shape = value.name, value.type, value.shape
    value.name = f"{node.name}/input_0"
    value.replace_all_uses_with(result, replace_graph_outputs=True)
    node.replace_input_with(0, value)
    graph.insert_after(value.producer(), node)


def _input(graph: ir.Graph, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    graph.inputs.append(value)
    return value


def _output(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.outputs if value.name == name)
