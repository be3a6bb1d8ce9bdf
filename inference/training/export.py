"""Trained weights to a bundle: three ONNX graphs, the tokenizer and the manifest.

python -m inference.training.export CHECKPOINTS [--version 0.1.0]
"""

import argparse
import hashlib
import importlib.metadata
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.export import Dim

from inference.bundle import MANIFEST, PACKAGED, Language, Manifest, Origin
from inference.training.language import NO, PROMPTS, YES
from inference.training.manifest import manifest_of
from inference.training.model import (
    D_MODEL,
    GRID,
    HEAD_SIZE,
    HEADS,
    IMAGE_TOKENS,
    LAYERS,
    WINDOWS,
    Projector,
    VisionLanguageModel,
)
from inference.training.train import ANSWER, END, START, token_id

OPSET = 20
MAX_NEW_TOKENS = 48
MAX_PARITY_ERROR = 1e-3
"""fp32 graphs of this depth agree with torch to about 1e-5; more than this is a wrong graph."""

BATCH, LENGTH, PAST = 2, 5, 7
"""Traced sizes: never 1, which the tracer would freeze."""


class VisionGraph(nn.Module):
    """Volume (B, windows, S, R, C) -> image tokens (B, tokens, d_model) and mask logits."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.vision, self.tokens = model.vision, model.tokens
        self.projector: Projector = model.projector

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Run encoder, mask head and projector."""
        logits, pooled = self.vision(volume)
        return self.projector(self.tokens(logits, pooled)), logits


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    dynamic: Mapping[str, Mapping[int, Dim]],
    path: Path,
) -> None:
    """Write one self-contained graph."""
    program = torch.onnx.export(
        module,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=tuple(dynamic[name] for name in inputs),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
    )
    if program is None:
        raise RuntimeError(f"{path.name}: nothing was exported")
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path))


def parity(module: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> float:
    """Largest difference between the graph and torch on `inputs`."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.inference_mode():
        expected = module(*inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    return max(_difference(a, b.numpy()) for a, b in zip(found, expected, strict=True))


def _difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    if a.shape != b.shape:
        raise RuntimeError(f"graph gives {a.shape}, torch {b.shape}")
    return float(np.abs(a - b).max())


def _inputs(batch: int, length: int, past: int) -> dict[str, dict[str, Tensor]]:
    shape = (LAYERS, batch, HEADS, past, HEAD_SIZE)
    return {
        "vision": {"volume": torch.rand(batch, WINDOWS, *GRID)},
        "embed": {"ids": torch.randint(0, 50, (batch, length))},
        "decoder": {
            "embeds": torch.randn(batch, length, D_MODEL),
            "past_keys": torch.randn(shape),
            "past_values": torch.randn(shape),
        },
    }


def export_graphs(model: VisionLanguageModel, folder: Path) -> float:
    """Write the three graphs to `folder`; returns the largest difference from torch."""
    batch, length, past = Dim("batch"), Dim("length"), Dim("past")
    modules = {
        "vision": (VisionGraph(model), ("image_tokens", "mask_logits"), "vision.onnx"),
        "embed": (model.embed, ("embeddings",), "embed.onnx"),
        "decoder": (
            model.decoder,
            ("logits", "present_keys", "present_values"),
            "decoder.fp32.onnx",
        ),
    }
    dynamic: dict[str, dict[int, Dim]] = {
        "volume": {0: batch},
        "ids": {0: batch, 1: length},
        "embeds": {0: batch, 1: length},
        "past_keys": {1: batch, 3: past},
        "past_values": {1: batch, 3: past},
    }
    worst = 0.0
    traced = _inputs(BATCH, LENGTH, PAST)
    for name, (module, outputs, file) in modules.items():
        export_graph(module.eval(), traced[name], outputs, dynamic, folder / file)
        for sizes in ((1, 1, 85), (1, IMAGE_TOKENS, 0), (3, 4, 11)):
            worst = max(worst, parity(module, _inputs(*sizes)[name], folder / file))
    if worst > MAX_PARITY_ERROR:
        raise RuntimeError(f"graphs differ from torch by {worst:g}")
    return worst


def language_of(tokenizer: Tokenizer) -> Language:
    """How the exported decoder is spoken to."""
    return Language(
        image_tokens=IMAGE_TOKENS,
        d_model=D_MODEL,
        start_id=token_id(tokenizer, START),
        answer_id=token_id(tokenizer, ANSWER),
        end_id=token_id(tokenizer, END),
        yes_id=tokenizer.encode(YES).ids[0],
        no_id=tokenizer.encode(NO).ids[0],
        max_new_tokens=MAX_NEW_TOKENS,
        prompts=PROMPTS,
        layers=LAYERS,
        heads=HEADS,
        head_size=HEAD_SIZE,
    )


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json`; the digest of the bundle covers these very bytes."""
    text = manifest.model_dump_json(indent=1, exclude_none=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Export to the packaged bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--out", type=Path, default=PACKAGED / "head_ct")
    parser.add_argument("--version", default="0.1.0")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(arguments.checkpoints / "tokenizer.json"))
    model = VisionLanguageModel(tokenizer.get_vocab_size())
    model.load_state_dict(torch.load(arguments.checkpoints / "model.pt"))
    error = export_graphs(model.eval(), folder)
    shutil.copyfile(arguments.checkpoints / "tokenizer.json", folder / "tokenizer.json")
    names = ("vision.onnx", "embed.onnx", "decoder.fp32.onnx", "tokenizer.json")
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    tools = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")}
    origin = Origin(tools=tools, parity_error=error)
    write_manifest(manifest_of(arguments.version, files, language_of(tokenizer), origin), folder)
    print(f"{folder}: parity error {error:.2g}")


if __name__ == "__main__":
    main()
