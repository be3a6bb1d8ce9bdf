"""Trained weights to a bundle: three ONNX graphs, the tokenizer and the manifest.

python -m inference.training.export CHECKPOINTS [--version 0.2.0]
"""

import argparse
import hashlib
import importlib.metadata
import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.export import Dim

from inference.bundle import (
    EMBED,
    PACKAGED,
    TOKENIZER,
    VISION,
    decoder_file,
    digests,
    write_manifest,
)
from inference.export.attention import cached_attention
from inference.export.graphs import MAX_PARITY_ERROR, difference, export_graph, parity
from inference.manifest import DecoderShape, Origin, Prompts, Splice
from inference.training.language import NO, PROMPTS, YES
from inference.training.manifest import manifest_of
from inference.training.model import (
    D_MODEL,
    GRID,
    HEAD_SIZE,
    HEADS,
    IMAGE_TOKENS,
    LAYERS,
    MAX_POSITIONS,
    WINDOWS,
    Decoder,
    Projector,
    VisionLanguageModel,
)
from inference.training.train import ANSWER, END, START, token_id

MAX_NEW_TOKENS = 48
READS = (1, IMAGE_TOKENS, 12, 1, 6)
"""Positions read one after the other where the decoder graph is compared with torch."""

Past = list[tuple[Tensor, Tensor]]


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


class DecoderGraph(nn.Module):
    """The decoder as every bundle's graph has it: one cache that is written in place."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(  # noqa: PLR0917 - the inputs of the graph
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        attention_bias: Tensor,
        logit_index: Tensor,
        past: Past,
    ) -> tuple[Tensor, ...]:
        """Logits and states of the asked rows, and the cache."""
        x = inputs_embeds + self.decoder.position(position_ids)
        present: list[Tensor] = []
        for layer, cache in zip(self.decoder.layers, past, strict=True):
            query, key, value = layer.qkv(layer.norm1(x)).chunk(3, -1)
            mixed, keys, values = cached_attention(
                query,
                key,
                value,
                cache,
                attention_mask=attention_mask,
                bias=attention_bias,
                heads=HEADS,
            )
            x = x + layer.out(mixed)
            x = x + layer.feed(layer.norm2(x))
            present += [keys, values]
        states = self.decoder.norm(x).index_select(1, logit_index)
        return (self.decoder.head(states), states, *present)


def _export_decoder(decoder: Decoder, path: Path) -> float:
    """Write the decoder graph; returns its largest difference from torch."""
    length, past, rows = 5, 7, 3
    cache = (1, HEADS, MAX_POSITIONS, HEAD_SIZE)
    names = [f"{i}.{part}" for i in range(LAYERS) for part in ("key", "value")]
    inputs: dict[str, Tensor | Past] = {
        "inputs_embeds": torch.randn(1, length, D_MODEL),
        "attention_mask": torch.ones(1, past + length, dtype=torch.int64),
        "position_ids": torch.arange(past, past + length)[None],
        "attention_bias": torch.zeros(1, 1, length, past + length),
        "logit_index": torch.arange(rows),
        # Each its own tensor: the tracer takes one that comes twice for one input.
        "past": [(torch.zeros(cache), torch.zeros(cache)) for _ in range(LAYERS)],
    }
    s, t = Dim("sequence"), Dim("total")
    export_graph(
        DecoderGraph(decoder).eval(),
        inputs,
        ("logits", "hidden_states", *(f"present.{name}" for name in names)),
        {
            "inputs_embeds": {1: s},
            "attention_mask": {1: t},
            "position_ids": {1: s},
            "attention_bias": {2: s, 3: t},
            "logit_index": {0: Dim("rows")},
            "past": [({2: Dim.DYNAMIC}, {2: Dim.DYNAMIC}) for _ in range(LAYERS)],
        },
        path,
        input_names=[*list(inputs)[:-1], *(f"past_key_values.{name}" for name in names)],
    )
    return _decoder_parity(decoder, path, names)


def _decoder_parity(decoder: Decoder, path: Path, names: list[str]) -> float:
    embeds = torch.randn(1, sum(READS), D_MODEL)
    empty = torch.zeros(LAYERS, 1, HEADS, 0, HEAD_SIZE)
    with torch.inference_mode():
        expected = decoder(embeds, empty, empty)[0].numpy()
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    past = [np.zeros((1, HEADS, MAX_POSITIONS, HEAD_SIZE), np.float32) for _ in names]
    worst, read = 0.0, 0
    for length in READS:
        end = read + length
        inputs = {
            "inputs_embeds": embeds[:, read:end].numpy(),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(read, end)[None],
            "attention_bias": np.zeros((1, 1, length, end), np.float32),
            "logit_index": np.arange(length),
        } | dict(zip((f"past_key_values.{name}" for name in names), past, strict=True))
        logits, _, *past = session.run(None, inputs)
        worst = max(worst, difference(logits, expected[:, read:end]))
        read = end
    return worst


def export_graphs(model: VisionLanguageModel, folder: Path) -> float:
    """Write the three graphs to `folder`; returns the largest difference from torch."""
    batch, length = Dim("batch"), Dim("sequence")
    vision, volume = VisionGraph(model).eval(), torch.rand(2, WINDOWS, *GRID)
    outputs = ("image_tokens", "mask_logits")
    export_graph(vision, {"volume": volume}, outputs, {"volume": {0: batch}}, folder / VISION)
    embed, ids = model.embed, torch.randint(0, 50, (1, 5))
    dynamic = {"input_ids": {1: length}}
    export_graph(embed, {"input_ids": ids}, ("inputs_embeds",), dynamic, folder / EMBED)
    worst = max(
        parity(vision, {"volume": volume[:1]}, folder / VISION),
        parity(vision, {"volume": volume}, folder / VISION),
        parity(embed, {"input_ids": ids[:, :1]}, folder / EMBED),
        _export_decoder(model.decoder, folder / decoder_file("fp32")),
    )
    if worst > MAX_PARITY_ERROR:
        raise RuntimeError(f"graphs differ from torch by {worst:g}")
    return worst


def prompts_of(tokenizer: Tokenizer) -> Prompts:
    """How the exported decoder is spoken to."""
    return Prompts(
        template=f"{{image}}{START}{{question}}{ANSWER}",
        narrative=PROMPTS,
        first_ids=(),
        stop_ids=(token_id(tokenizer, END),),
        yes_ids=(tokenizer.encode(YES).ids[0],),
        no_ids=(tokenizer.encode(NO).ids[0],),
        max_new_tokens=MAX_NEW_TOKENS,
    )


def shape_of(tokenizer: Tokenizer) -> DecoderShape:
    """Sizes of the exported decoder."""
    return DecoderShape(
        layers=LAYERS,
        kv_heads=HEADS,
        head_size=HEAD_SIZE,
        width=D_MODEL,
        vocabulary=tokenizer.get_vocab_size(),
        max_length=MAX_POSITIONS,
        precision="fp32",
        packed=True,
    )


def main() -> None:
    """Export to the packaged bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--out", type=Path, default=PACKAGED / "head_ct")
    parser.add_argument("--version", default="0.2.0")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(arguments.checkpoints / TOKENIZER))
    model = VisionLanguageModel(tokenizer.get_vocab_size())
    weights = arguments.checkpoints / "model.pt"
    model.load_state_dict(torch.load(weights))
    error = export_graphs(model.eval(), folder)
    shutil.copyfile(arguments.checkpoints / TOKENIZER, folder / TOKENIZER)
    tools = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")}
    source = f"inference.training, SHA-256 {hashlib.sha256(weights.read_bytes()).hexdigest()}"
    manifest = manifest_of(
        arguments.version,
        files=digests(folder),
        splice=Splice(kind="placeholder", tokens=IMAGE_TOKENS),
        prompts=prompts_of(tokenizer),
        decoder=shape_of(tokenizer),
        origin=Origin(source=source, tools=tools, parity_error=error),
    )
    write_manifest(manifest, folder)
    print(f"{folder}: parity error {error:.2g}")


if __name__ == "__main__":
    main()
