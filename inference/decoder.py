"""The language half of a model: reads embeddings into a key-value cache that stays on the device.

What was read once (the picture) is a prefix that many questions continue, one after another or
packed into one run. Batch is 1 throughout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from inference.manifest import DecoderShape
from inference.runtime import Graph

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

ROWS_AT_ONCE = {"cpu": 128, "cuda": 2048}
"""A run reads at most this many: the graph's scratch grows with rows x cache length x heads, and
on a CPU more rows only reckon more of what the causal mask throws away."""

_MASKED = np.float32(-1e9)
_ELEMENT_TYPES = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(bfloat16)": 16}  # as in ONNX


class SequenceTooLongError(Exception):
    """A sequence that the cache cannot hold."""

    def __init__(self, needed: int, room: int) -> None:
        super().__init__(
            f"{needed} positions are needed, and the decoder's cache holds {room}. Show the model "
            "fewer slices (preprocessing.count in its card, then convert again), no prior, or less "
            "context."
        )
        self.needed, self.room = needed, room


@dataclass(frozen=True, eq=False)
class Rows:
    """What the decoder says at the positions that were asked for.

    `logits` (rows, vocabulary); `hidden` (rows, width), after the final norm.
    """

    logits: Floats
    hidden: Floats


class Cache:
    """Keys and values of what has been read; `length` positions of it hold."""

    def __init__(self, binding: Any) -> None:
        self.binding = binding
        self.length = 0

    def rewind(self, length: int) -> None:
        """Forget what was read after the first `length` positions."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length}: {self.length} positions were read")
        self.length = length


class Decoder:
    """The graphs `embed.onnx` and `decoder.<precision>.onnx` of a bundle."""

    def __init__(self, embed: Graph, decoder: Graph, shape: DecoderShape) -> None:
        self.shape = shape
        self._embed, self._session, self._device = embed.session, decoder.session, decoder.device
        self._rows = ROWS_AT_ONCE[self._device]
        self._inputs = {value.name: value.type for value in self._session.get_inputs()}
        self._ones = np.ones((1, shape.max_length), np.int64)
        self._no_bias = np.zeros((1, 1, 1, shape.max_length), np.float32)

    def embed(self, ids: Sequence[int]) -> Floats:
        """Embeddings (ids, width) of token ids."""
        (embeddings,) = self._embed.run(None, {"input_ids": np.array([ids], np.int64)})
        return np.asarray(embeddings[0])

    def open(self) -> Cache:
        """An empty cache of `max_length` positions, on the decoder's device."""
        binding = self._session.io_binding()
        shape = (1, self.shape.kv_heads, self.shape.max_length, self.shape.head_size)
        for layer in range(self.shape.layers):
            for part in ("key", "value"):
                past = f"past_key_values.{layer}.{part}"
                buffer = self._buffer(shape, self._inputs[past])
                binding.bind_ortvalue_input(past, buffer)
                # The graph appends in place: past and present are one buffer.
                binding.bind_ortvalue_output(f"present.{layer}.{part}", buffer)
        return Cache(binding)

    def read(self, cache: Cache, embeddings: Floats, rows: Sequence[int] | None = None) -> Rows:
        """Append embeddings (n, width); what is said at `rows` of them, or at the last one.

        Raises SequenceTooLongError, with nothing read.
        """
        count = len(embeddings)
        self._must_fit(cache.length + count)
        asked = np.array([count - 1] if rows is None else rows, np.int64)
        said = []
        for start in range(0, count, self._rows):
            block = embeddings[start : start + self._rows]
            here = np.flatnonzero((asked >= start) & (asked < start + len(block)))
            positions = np.arange(cache.length, cache.length + len(block))
            said.append((here, self._run(cache, block, positions, asked[here] - start)))
            cache.length += len(block)
        return _in_order(said)

    def read_packed(self, cache: Cache, blocks: Sequence[Floats]) -> Rows:
        """What is said at the last row of each block (n, width), if it alone followed the prefix.

        The cache is as before when this returns. Raises SequenceTooLongError.
        """
        prefix, said = cache.length, []
        for batch in self._batches(prefix, [len(block) for block in blocks]):
            said.append((batch, self._read_batch(cache, [blocks[index] for index in batch])))
            cache.rewind(prefix)
        return _in_order(said)

    def _batches(self, prefix: int, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of the blocks that are read in one run; decided by their lengths alone."""
        room = min(self.shape.max_length - prefix, self._rows) if self.shape.packed else 0
        batch: list[int] = []
        used = 0
        for index, length in enumerate(lengths):
            self._must_fit(prefix + length)
            if batch and used + length > room:
                yield batch
                batch, used = [], 0
            batch.append(index)
            used += length
        if batch:
            yield batch

    def _read_batch(self, cache: Cache, blocks: Sequence[Floats]) -> Rows:
        if len(blocks) == 1:
            return self.read(cache, blocks[0])
        prefix, lengths = cache.length, [len(block) for block in blocks]
        owner = np.repeat(np.arange(len(blocks)), lengths)
        positions = np.concatenate([prefix + np.arange(length) for length in lengths])
        bias = np.zeros((1, 1, len(owner), prefix + len(owner)), np.float32)
        bias[0, 0, :, prefix:][owner[:, None] != owner] = _MASKED
        rows = np.cumsum(lengths) - 1
        said = self._run(cache, np.concatenate(blocks), positions, rows, bias)
        cache.length += len(owner)
        return said

    def _run(
        self, cache: Cache, block: Floats, positions: Ids, rows: Ids, bias: Floats | None = None
    ) -> Rows:
        """One run of the graph on embeddings (n, width); the caller advances the cache."""
        total = cache.length + len(block)
        inputs = {
            "inputs_embeds": np.ascontiguousarray(block[None], np.float32),
            "attention_mask": self._ones[:, :total],
            "position_ids": positions[None],
            "attention_bias": self._bias(len(block), total) if bias is None else bias,
            "logit_index": rows,
        }
        said = Rows(
            np.empty((len(rows), self.shape.vocabulary), np.float32),
            np.empty((len(rows), self.shape.width), np.float32),
        )
        for name, array in inputs.items():
            if name in self._inputs:
                cache.binding.bind_cpu_input(name, array)
        for name, array in (("logits", said.logits), ("hidden_states", said.hidden)):
            pointer, shape = array.ctypes.data, (1, *array.shape)
            cache.binding.bind_output(name, "cpu", 0, np.float32, shape, pointer)
        self._session.run_with_iobinding(cache.binding)
        return said

    def _bias(self, rows: int, total: int) -> Floats:
        if rows == 1:
            return self._no_bias[..., :total]
        return np.zeros((1, 1, rows, total), np.float32)

    def _buffer(self, shape: tuple[int, ...], type_name: str) -> Any:
        if self._device == "cpu":
            # Pages are taken from the system only as positions are read.
            return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        element_type = _ELEMENT_TYPES[type_name]
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, element_type, self._device, 0)

    def _must_fit(self, length: int) -> None:
        if length > self.shape.max_length:
            raise SequenceTooLongError(length, self.shape.max_length)


def _in_order(said: Sequence[tuple[Sequence[int] | Ids, Rows]]) -> Rows:
    """Rows of several runs, each with the places that they take among all."""
    if len(said) == 1:
        return said[0][1]
    places = np.concatenate([np.asarray(here, np.int64) for here, _ in said])
    order = np.argsort(places, kind="stable")
    return Rows(
        np.concatenate([rows.logits for _, rows in said])[order],
        np.concatenate([rows.hidden for _, rows in said])[order],
    )
