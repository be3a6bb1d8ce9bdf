"""Proof that an exported decoder, run as it will be, says what torch says with the same weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from inference.decoder import Decoder, Floats, Rows
from inference.export.graphs import ExportError, difference
from inference.export.quantise import BITS, dequantised
from inference.export.storage import STORED_TYPES
from inference.manifest import DecoderShape, Precision
from inference.model_errors import RuntimeProviderError
from inference.providers import SessionSettings
from inference.runtime import Graph

PREFIX, BLOCKS = 13, (3, 1, 6)
"""Positions that are read once, and of the questions that continue them."""


def decoder_parity(
    torch_model: PreTrainedModel,
    embed: Path,
    decoder: Path,
    shape: DecoderShape,
    *,
    device: Literal["cpu", "cuda"],
    tolerance: float,
) -> tuple[float, float]:
    """Largest difference from torch on the stored weights, and agreement with the original ones.

    Agreement is the share of positions where the likeliest token is the same. Random embeddings
    are read at once, in parts on one cache, and packed. Raises ExportError over `tolerance`.
    """
    opened = Decoder(_open(embed, "cpu"), _open(decoder, device), shape)
    embeddings = _questions(torch_model, shape.width)
    found = _read_all_ways(opened, embeddings.numpy())
    stored = _forward(torch_model, embeddings, lambda weight: _as_stored(weight, shape.precision))
    error = max(
        difference(part, whole)
        for rows, expected in zip(found, _same_rows(stored), strict=True)
        for part, whole in ((rows.logits, expected.logits), (rows.hidden, expected.hidden))
    )
    error = max(error, _embedding_error(torch_model, opened))
    if not error <= tolerance:
        raise ExportError(
            f"{decoder.name} differs from torch by {error:.2g}, more than {tolerance:.2g}. "
            "The checkpoint is not laid out as its config.json says, or this is a defect."
        )
    original = _same_rows(_forward(torch_model, embeddings, lambda weight: weight))
    same = [a.logits.argmax(1) == b.logits.argmax(1) for a, b in zip(found, original, strict=True)]
    return error, float(np.concatenate(same).mean())


def _open(path: Path, device: Literal["cpu", "cuda"]) -> Graph:
    try:
        return Graph(path, SessionSettings(provider=device))
    except RuntimeProviderError as error:
        raise ExportError(
            f"{path.name} cannot be compared with torch. {error} Export on a machine with a GPU."
        ) from error


def _questions(torch_model: PreTrainedModel, width: int) -> Tensor:
    """Embeddings (blocks, longest, width): one prefix, then each block and padding."""
    weight = torch_model.get_input_embeddings().weight
    size = (len(BLOCKS), PREFIX + max(BLOCKS), width)
    embeddings = torch.randn(size, generator=torch.Generator().manual_seed(0))
    embeddings *= weight[: min(len(weight), 1000)].float().std()
    embeddings[:, :PREFIX] = embeddings[0, :PREFIX].clone()
    return embeddings.detach()


def _read_all_ways(decoder: Decoder, embeddings: Floats) -> list[Rows]:
    """The first sequence whole and in parts on one cache, then the last row of each, packed."""
    everything = list(range(len(embeddings[0])))
    found = [decoder.read(decoder.open(), embeddings[0], everything)]
    cache = decoder.open()
    for start, end in pairwise((0, PREFIX, PREFIX + 1, len(everything))):
        found.append(decoder.read(cache, embeddings[0, start:end], everything[: end - start]))
    cache.rewind(PREFIX)
    blocks = [embeddings[index, PREFIX : PREFIX + length] for index, length in enumerate(BLOCKS)]
    return [*found, decoder.read_packed(cache, blocks)]


def _same_rows(whole: Rows) -> list[Rows]:
    """Rows of torch's forward (sequences, positions, ...) in the order of `_read_all_ways`."""
    count = whole.logits.shape[1]
    spans = [slice(*span) for span in ((0, count), *pairwise((0, PREFIX, PREFIX + 1, count)))]
    last = np.arange(len(BLOCKS)), np.array(BLOCKS) + PREFIX - 1
    first = [Rows(whole.logits[0, span], whole.hidden[0, span]) for span in spans]
    return [*first, Rows(whole.logits[last], whole.hidden[last])]


def _forward(
    torch_model: PreTrainedModel, embeddings: Tensor, stored: Callable[[Tensor], Tensor]
) -> Rows:
    """Logits and final states of every position, computed in float32."""
    with torch.inference_mode(), _widened(torch_model, stored):
        hidden = torch_model.model(inputs_embeds=embeddings).last_hidden_state
        return Rows(torch_model.lm_head(hidden).numpy(), hidden.numpy())


@contextmanager
def _widened(model: nn.Module, stored: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Each module computes in float32 with weights as `stored`; one of them is widened at a time.

    A checkpoint of 16 bits would not fit into memory a second time.
    """
    kept: dict[nn.Parameter, Tensor] = {}

    def widen(module: nn.Module, _: object) -> None:
        for parameter in module.parameters(recurse=False):
            kept[parameter] = parameter.data
            wide = parameter.data.float()
            parameter.data = (
                stored(wide) if isinstance(module, nn.Linear) and wide.ndim > 1 else wide
            )

    def restore(module: nn.Module, *_: object) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = kept.pop(parameter)

    handles = []
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_pre_hook(widen))
            handles.append(module.register_forward_hook(restore))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _as_stored(weight: Tensor, precision: Precision) -> Tensor:
    """A matrix (outputs, inputs) as the graph's weights stand for it."""
    if precision in BITS:
        return dequantised(weight, BITS[precision])
    return weight.to(STORED_TYPES.get(precision, torch.float32)).float()


def _embedding_error(torch_model: PreTrainedModel, decoder: Decoder) -> float:
    ids = torch.randint(decoder.shape.vocabulary, (16,), generator=torch.Generator().manual_seed(1))
    weight = torch_model.get_input_embeddings().weight.detach()[ids]
    expected = weight.to(STORED_TYPES.get(decoder.shape.precision, weight.dtype)).float()
    return difference(decoder.embed(ids.tolist()), expected.numpy())
