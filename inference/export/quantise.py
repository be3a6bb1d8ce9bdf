"""Weight-only quantisation: each block of a weight's inputs has one scale and small integers.

Symmetric, rounded to nearest; the runtime's MatMulNBits multiplies with the integers themselves.
"""

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

from inference.export.storage import torch_tensor
from inference.manifest import Precision

BITS = {"int8": 8, "int4": 4}
BLOCK = 128
"""Inputs to a scale. Larger blocks are read and written faster: at 4 bits a prompt a quarter faster
than with 64. Of random weights the logits' error grows by a fiftieth; weights with outliers lose
more, and int8 is there for them."""


def quantise(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers (outputs, blocks, inputs of a block) in uint8 and scales (outputs, blocks).

    `weight` is (outputs, inputs), which are padded with zeros to whole blocks; a value is
    (integer - 2^(bits - 1)) x scale.
    """
    zero = 1 << (bits - 1)
    padded = torch.nn.functional.pad(weight.float(), (0, -weight.shape[1] % BLOCK))
    blocks = padded.reshape(len(weight), -1, BLOCK)
    farthest = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))
    scales = -farthest / zero  # the farthest value is the integer 0: it has one place more
    steps = torch.where(scales == 0, torch.ones_like(scales), scales)
    integers = (blocks / steps).round_().add_(zero).clamp_(0, 2 * zero - 1)
    return integers.to(torch.uint8), scales.squeeze(2)


def dequantised(weight: Tensor, bits: int) -> Tensor:
    """The weight (outputs, inputs) as its integers and scales stand for it."""
    integers, scales = quantise(weight, bits)
    blocks = (integers.float() - (1 << (bits - 1))) * scales[..., None]
    return blocks.reshape(len(weight), -1)[:, : weight.shape[1]]


def quantise_weights(graph: ir.Graph, precision: Precision) -> None:
    """Replace each MatMul by a constant weight in `graph` by MatMulNBits, in float arithmetic."""
    bits = BITS[precision]
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or weight.const_value is None:
            continue
        stored = torch_tensor(weight)
        integers, scales = quantise(stored.T, bits)
        if bits == 4:
            integers = integers[..., 0::2] | (integers[..., 1::2] << 4)
        packed = _constant(graph, f"{weight.name}.{precision}", integers)
        scale = _constant(graph, f"{weight.name}.scale", scales.to(stored.dtype))
        small = ir.node(
            "MatMulNBits",
            [node.inputs[0], packed, scale],
            {
                "K": stored.shape[0],
                "N": stored.shape[1],
                "bits": bits,
                "block_size": BLOCK,
            },
            domain="com.microsoft",
            name=node.name,
        )
        small.outputs[0].type, small.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [small], node.outputs, small.outputs
        )
        graph.initializers.pop(weight.name)


def join_pairs(graph: ir.Graph) -> None:
    """Make one MatMulNBits of two that read the same value (gate and up), and split what it gives.

    Half as many starts of the threads; text is written a tenth faster in int4.
    """
    readers: dict[str, list[ir.Node]] = {}
    for node in graph:
        if node.op_type == "MatMulNBits" and node.inputs[0] is not None:
            readers.setdefault(str(node.inputs[0].name), []).append(node)
    for pair in readers.values():
        if len(pair) == 2 and len({_shape_of(node) for node in pair}) == 1:
            _join(graph, *pair)


def _shape_of(node: ir.Node) -> tuple[int, int]:
    return node.attributes["K"].as_int(), node.attributes["N"].as_int()


def _join(graph: ir.Graph, first: ir.Node, second: ir.Node) -> None:
    stacked = []
    for one, other in zip(first.inputs[1:], second.inputs[1:], strict=True):
        both = torch.cat([torch_tensor(one), torch_tensor(other)])
        stacked.append(_constant(graph, f"{one.name}.pair", both))
    attributes = {key: value.value for key, value in first.attributes.items()}
    attributes["N"] *= 2
    joined = ir.node(
        "MatMulNBits",
        [first.inputs[0], *stacked],
        attributes,
        domain="com.microsoft",
        name=f"{first.name}.pair",
    )
    split = ir.node(
        "Split",
        joined.outputs,
        {"axis": -1, "num_outputs": 2},
        num_outputs=2,
        name=joined.name + "/Split",
    )
    for old, new in zip((first, second), split.outputs, strict=True):
        new.type, new.shape = old.outputs[0].type, old.outputs[0].shape
    graph.insert_before(first, [joined, split])
    for old, new in zip((first, second), split.outputs, strict=True):
        new.name = old.outputs[0].name
        ir.convenience.replace_all_uses_with(old.outputs[0], new)
        weights = [value.name for value in old.inputs[1:]]
        graph.remove(old, safe=True)
        for name in weights:
            graph.initializers.pop(name)


def multiply_integers(graph: ir.Graph) -> None:
    """Let the CPU round each row of the other operand to int8 by blocks, and multiply integers.

    Many times faster than floats. A row is rounded by itself, whatever else is in the batch.
    """
    for node in graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 4)


def _constant(graph: ir.Graph, name: str, tensor: Tensor) -> ir.Value:
    """A new initialiser of `graph`."""
    kept = TorchTensor(tensor.contiguous(), name=name)
    value = ir.Value(name=name, type=ir.TensorType(kept.dtype), shape=kept.shape, const_value=kept)
    graph.register_initializer(value)
    return value
