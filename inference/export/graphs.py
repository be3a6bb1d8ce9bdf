"""Torch modules to ONNX graphs, and the proof that a graph does what its module does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import Tensor, nn

OPSET = 20
INLINE_BYTES = 1_500_000_000
"""Larger weights go to `<graph>.data` beside the graph: a protobuf ends at 2 GB."""

MAX_PARITY_ERROR = 1e-3
"""fp32 graphs agree with torch to about 1e-5 of their scale; more than this is a wrong graph."""


class ExportError(Exception):
    """A checkpoint that cannot be converted: what is wrong with it, and what to do."""


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor | list[tuple[Tensor, Tensor]]],
    outputs: tuple[str, ...],
    dynamic: Mapping[str, object],
    path: Path,
    *,
    input_names: Sequence[str] = (),
) -> None:
    """Write one graph. Trace with no size of 1 where it is dynamic: the tracer would freeze it.

    `dynamic` says for each input which axes vary (torch's `dynamic_shapes`); `input_names` are
    the graph's own, where an input is a nest of tensors.
    """
    program = torch.onnx.export(
        module,
        tuple(inputs.values()),
        input_names=list(input_names or inputs),
        output_names=list(outputs),
        dynamic_shapes=tuple(dynamic.get(name, {}) for name in inputs),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise ExportError(f"{path.name}: torch exported nothing. Report this as a defect.")
    forget_tracing(program.model)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
    program.save(str(path), external_data=weights > INLINE_BYTES)
    onnx.checker.check_model(str(path))


def forget_tracing(model: ir.Model) -> None:
    """Take out what says how a graph was made: stack traces have paths of the machine, and names.

    Nothing of it is needed to run the graph.
    """
    graphs = [model.graph, *model.functions.values()]
    nodes = [node for graph in graphs for node in graph.all_nodes()]
    values = [value for node in nodes for value in (*node.inputs, *node.outputs)]
    values += [value for graph in graphs for value in (*graph.inputs, *graph.outputs)]
    for each in (model, *graphs, *nodes, *values, *model.graph.initializers.values()):
        if each is not None:  # an input that is left out
            each.doc_string = None
            each.metadata_props.clear()


def parity(module: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> float:
    """Largest difference between the graph and torch on `inputs`, as a share of torch's scale."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.inference_mode():
        expected = module(*inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    return max(difference(a, b.numpy()) for a, b in zip(found, expected, strict=True))


def difference(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest difference, over the root mean square of what was expected or 1 if that is more."""
    if found.shape != expected.shape:
        raise ExportError(
            f"graph gives {found.shape}, torch {expected.shape}. Report this as a defect."
        )
    scale = max(1.0, float(np.sqrt(np.mean(np.square(expected)))))
    return float(np.abs(found - expected).max()) / scale
