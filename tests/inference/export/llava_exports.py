"""Small checkpoints of the LLaVA shape, exported."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from llava_checkpoints import PLACEHOLDER, TOKENS, llava_checkpoint, reference
from tokenizers import Tokenizer

from inference.export.checkpoint import Checkpoint
from inference.export.converted import Converted
from inference.export.llava import convert
from inference.manifest import IMAGE, QUESTION

LIMIT = 20


@dataclass(frozen=True)
class Export:
    """A converted checkpoint, and what it was converted from."""

    checkpoint: Path
    out: Path
    converted: Converted


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 3, 56, 56)).astype(np.float32)


def exported(folder: Path, model_type: str, precision: str = "fp32", **options) -> Export:
    checkpoint = llava_checkpoint(folder / "checkpoint", model_type, **options)
    out = folder / "out"
    out.mkdir()
    converted = convert(Checkpoint(checkpoint), out, precision, "cpu", lambda _: None)
    return Export(checkpoint, out, converted)


def parts(export: Export, question: str, count: int) -> list[list[int]]:
    """Token ids before, between and after the pictures."""
    prompts = export.converted.prompts
    tokenizer = Tokenizer.from_file(str(export.out / "tokenizer.json"))
    before, after = prompts.template.replace(QUESTION, question).split(IMAGE)
    texts = [before, *[prompts.picture_separator] * (count - 1), after]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    return [[*prompts.first_ids, *ids[0]], *ids[1:]]


def reference_tokens(export: Export, question: str, pixels: np.ndarray) -> list[int]:
    """What transformers' own model writes from the same weights."""
    model = reference(Checkpoint(export.checkpoint).config["model_type"])
    placeholder = [PLACEHOLDER] * TOKENS
    first, *rest = parts(export, question, len(pixels))
    ids = torch.tensor([first + [i for part in rest for i in placeholder + part]])
    inputs = {"input_ids": ids, "pixel_values": torch.tensor(pixels)}
    prompts = export.converted.prompts
    if prompts.repetition_penalty != 1.0:
        # The published code passes embeddings, so that only what was written counts as repeated.
        inputs = {"inputs_embeds": embedded(model, **inputs)}
    with torch.inference_mode():
        written = model.generate(
            **inputs,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=LIMIT,
            eos_token_id=list(prompts.stop_ids),
            pad_token_id=0,
            repetition_penalty=prompts.repetition_penalty,
        )[0].tolist()
    written = written if "inputs_embeds" in inputs else written[ids.shape[1] :]
    return written[:-1] if written[-1] in prompts.stop_ids else written


def embedded(model, input_ids, pixel_values):
    with torch.inference_mode():
        embeddings = model.get_input_embeddings()(input_ids)
        features = model.model.get_image_features(pixel_values=pixel_values).pooler_output
        embeddings[input_ids == PLACEHOLDER] = torch.cat(list(features))
    return embeddings
