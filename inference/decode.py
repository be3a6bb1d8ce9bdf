"""Text decoding with a key-value cache: the image is read once, each prompt continues from it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from inference.bundle import Bundle, BundleError
from inference.runtime import Graph

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cache:
    """Keys and values (layers, 1, heads, length, head size) of what has been read."""

    keys: Floats
    values: Floats

    @property
    def length(self) -> int:
        """How many positions have been read."""
        return int(self.keys.shape[3])


class TextDecoder:
    """The language half of a bundle."""

    def __init__(self, bundle: Bundle, embed: Graph, decoder: Graph) -> None:
        self._language = bundle.manifest.language
        self._embed, self._decoder = embed, decoder
        path = bundle.file("tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            # tokenizers raises plain Exception.
            raise BundleError(f"{path}: not a tokenizer ({error}). Export the bundle again.") from (
                error
            )

    def empty(self) -> Cache:
        """The cache before anything was read."""
        spec = self._language
        shape = (spec.layers, 1, spec.heads, 0, spec.head_size)
        return Cache(np.zeros(shape, np.float32), np.zeros(shape, np.float32))

    def read_image(self, tokens: Floats) -> Cache:
        """Prefill with image tokens (1, tokens, d_model)."""
        return self.step(tokens, self.empty())[1]

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt, framed as in training."""
        ids: list[int] = self._tokenizer.encode(prompt).ids
        return [self._language.start_id, *ids, self._language.answer_id]

    def embeddings(self, ids: list[int]) -> Floats:
        """Embeddings (1, ids, d_model) of token ids."""
        return self._embed({"ids": np.array([ids], dtype=np.int64)})["embeddings"]

    def step(self, embeddings: Floats, cache: Cache) -> tuple[Floats, Cache]:
        """Read embeddings (1, length, d_model): logits (length, vocabulary), longer cache."""
        read = self._decoder(
            {"embeds": embeddings, "past_keys": cache.keys, "past_values": cache.values}
        )
        return read["logits"][0], Cache(read["present_keys"], read["present_values"])

    def ask(self, image: Cache, question: str) -> Floats:
        """Logits (vocabulary,) of the first token of the answer to `question`."""
        logits, _ = self.step(self.embeddings(self.prompt_ids(question)), image)
        return np.asarray(logits[-1])

    def write(self, image: Cache, prompt: str) -> str:
        """Greedy text for `prompt`, at most `max_new_tokens` long."""
        logits, cache = self.step(self.embeddings(self.prompt_ids(prompt)), image)
        written: list[int] = []
        while len(written) < self._language.max_new_tokens:
            token = int(np.argmax(logits[-1]))
            if token == self._language.end_id:
                break
            written.append(token)
            logits, cache = self.step(self.embeddings([token]), cache)
        return self.text_of(written)

    def text_of(self, ids: list[int]) -> str:
        """The text that token ids stand for."""
        text: str = self._tokenizer.decode(ids)
        return text.strip()
