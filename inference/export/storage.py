"""Where a graph's weights are kept and how wide they are stored.

16-bit weights are cast to float32 in the graph; ONNX Runtime folds the casts when it loads it, so
that they halve the file, not the precision of the arithmetic.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

from inference.export.graphs import INLINE_BYTES, ExportError, forget_tracing
from inference.manifest import Precision

STORED_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_IR_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_LARGE = 4096
"""Elements; smaller weights are kept as they are."""

_MULTIPLIED = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
"""Operators whose constant operands are the bulk of a model."""


def store_weights(path: Path, precision: Precision) -> None:
    """Rewrite the graph at `path` with its large weights in fp16 or bf16; fp32 changes nothing.

    Raises ExportError where a weight is too large for fp16.
    """
    if precision == "fp32":
        return
    model = ir.load(path)
    ir.external_data.load_to_model(model)
    narrow_weights(model.graph, precision)
    save_graph(model, path)


def narrow_weights(graph: ir.Graph, precision: Precision) -> None:
    """Keep each large float32 weight of `graph` in 16 bits, with a Cast behind it."""
    if precision not in STORED_TYPES:
        raise ExportError(f"weights of any graph are stored in fp32, fp16 or bf16, not {precision}")
    casts = [
        _narrow(weight, precision)
        for weight in list(graph.initializers.values())
        if weight.dtype == ir.DataType.FLOAT
        and weight.const_value.size >= _LARGE
        and len(weight.shape) > 1
        and all(use.node.op_type in _MULTIPLIED for use in weight.uses())
    ]
    for cast in casts:
        graph.register_initializer(cast.inputs[0])
    if casts:
        graph.insert_before(graph[0], casts)


def _narrow(weight: ir.Value, precision: Precision) -> ir.Node:
    """The cast that takes the place of `weight`; the weight it casts is not yet registered."""
    name, dtype = f"{weight.name}.{precision}", STORED_TYPES[precision]
    if torch_tensor(weight).abs().max() > torch.finfo(dtype).max:
        raise ExportError(f"weight {weight.name} is too large for {precision}. Use bf16.")
    wide = ir.Value(name=weight.name, type=weight.type, const_value=weight.const_value)
    lazy = ir.LazyTensor(
        lambda: TorchTensor(torch_tensor(wide).to(dtype), name=name),
        dtype=_IR_TYPES[precision],
        shape=weight.shape,
        name=name,
    )
    kept = ir.Value(name=name, type=ir.TensorType(lazy.dtype), shape=weight.shape, const_value=lazy)
    cast = ir.node("Cast", [kept], {"to": ir.DataType.FLOAT})
    cast.outputs[0].type, cast.outputs[0].shape = weight.type, weight.shape
    weight.replace_all_uses_with(cast.outputs[0])
    weight.graph.initializers.pop(weight.name)
    cast.outputs[0].name = weight.name
    return cast


def torch_tensor(weight: ir.Value) -> Tensor:
    """The constant that `weight` is, computed now if it is lazy."""
    array = np.array(weight.const_value.numpy())  # lazy tensors may be views of other memory
    if weight.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph, with its weights in `<graph>.data` where they are too large for one file."""
    data = path.with_name(path.name + ".data")
    size = sum(weight.const_value.nbytes for weight in model.graph.initializers.values())
    forget_tracing(model)
    model.graph.sort()
    if size > INLINE_BYTES:
        ir.save(model, path, external_data=data.name)
    else:
        data.unlink(missing_ok=True)
        ir.save(model, path)
