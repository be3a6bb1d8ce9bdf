"""How fast a volume is encoded: M3D-LaMed's 99 M vision transformer, as a ratio to torch in fp32.

    python tests/bench/vision.py [GRAPH]

Random weights, one volume of 32 x 256 x 256, two threads each. Each way is run in turn, several
times; the medians are compared. Torch runs the model twice: with attention written out, as in the
published code, and with its own fused attention. GRAPH keeps the exported graph.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim

from inference.export import m3d_modules
from inference.export.graphs import difference, export_graph
from inference.export.m3d_modules import (
    M3DVision,
    SpatialPoolingProjector,
    VisionTransformer3D,
    VolumeGrid,
)
from inference.providers import SessionSettings
from inference.runtime import Graph

THREADS, ROUNDS = 2, 5
GRID = VolumeGrid((32, 256, 256), (4, 16, 16))
WIDTH, INNER, LAYERS, TEXT_WIDTH = 768, 3072, 12, 3072
TARGET = 1.7


def module() -> M3DVision:
    torch.manual_seed(0)
    tower = VisionTransformer3D(GRID, WIDTH, INNER, LAYERS, class_token=True)
    model = M3DVision(tower, SpatialPoolingProjector(GRID, 2, WIDTH, TEXT_WIDTH))
    return model.eval()


def attend_written_out(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Scores of all patches with all, softmax, mix: what MONAI 1.3 does, which M3D pins."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = torch.einsum("bhxd,bhyd->bhxy", q, k) * q.shape[-1] ** -0.5
    mixed = torch.einsum("bhxy,bhyd->bhxd", scores.softmax(dim=-1), v)
    return mixed.transpose(1, 2).flatten(2)


def main(path: Path) -> None:
    torch.set_num_threads(THREADS)
    model, volume = module(), torch.rand(1, 1, *GRID.size)
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters / 1e6:.0f} M parameters, {THREADS} threads, median of {ROUNDS} rounds")
    if not path.exists():
        example = {"volume": torch.rand(2, 1, *GRID.size)}
        export_graph(model, example, ("image_tokens",), {"volume": {0: Dim("batch")}}, path)
    graph = Graph(path, SessionSettings(threads=THREADS))

    def written_out() -> np.ndarray:
        with mock.patch.object(m3d_modules, "attend", attend_written_out):
            return model(volume).numpy()

    ways: dict[str, Callable[[], np.ndarray]] = {
        "ONNX Runtime": lambda: graph({"volume": volume.numpy()})["image_tokens"],
        "torch, attention written out": written_out,
        "torch, fused attention": lambda: model(volume).numpy(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        results = [way() for way in ways.values()]  # also warms up
        print(f"largest difference {max(difference(results[0], r) for r in results[1:]):.1e}")
        for _ in range(ROUNDS):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
    ours, *others = (statistics.median(times) for times in seconds.values())
    print(f"{'ONNX Runtime':30} {ours:6.2f} s a volume")
    for name, theirs in zip(list(ways)[1:], others, strict=True):
        print(f"{name:30} {theirs:6.2f} s a volume, ratio {theirs / ours:.2f}")
    print(f"target: at least {TARGET} times the published model in torch")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "vision.onnx")
