"""A Llama of 0.25 billion random weights in every form that is compared, kept in a folder."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from inference.decoder import Decoder
from inference.export.decoder import export_decoder
from inference.manifest import DecoderShape
from inference.providers import SessionSettings
from inference.runtime import Graph
from tests.inference.export.checkpoints import text_checkpoint

THREADS = 2
MAX_LENGTH = 2048
SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": MAX_LENGTH,
    "initializer_range": 0.02,
}


def checkpoint(folder: Path) -> Path:
    text_model = folder / "llama"
    return text_model if text_model.exists() else text_checkpoint(text_model, "llama", **SIZES)


def exported(folder: Path, precision: str) -> Path:
    """The folder with the two graphs of one precision."""
    out, kept = folder / precision, folder / precision / "shape.json"
    if not kept.exists():
        out.mkdir(exist_ok=True)
        export = export_decoder(
            checkpoint(folder), out, precision, max_length=MAX_LENGTH, tell=lambda _: None
        )
        print(
            f"{precision}: parity {export.parity_error:.1e}, likeliest token as in fp32 torch at "
            f"{export.agreement:.0%} of the positions"
        )
        kept.write_text(export.shape.model_dump_json())
    return out


def opened(folder: Path, precision: str) -> Decoder:
    out = exported(folder, precision)
    settings = SessionSettings(threads=THREADS)
    graphs = [Graph(out / name, settings) for name in ("embed.onnx", f"decoder.{precision}.onnx")]
    return Decoder(*graphs, DecoderShape.model_validate_json((out / "shape.json").read_bytes()))


def random_ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, SIZES["vocab_size"], count).tolist()
