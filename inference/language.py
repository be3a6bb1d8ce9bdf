"""The language half of a loaded model: prompts around image tokens, answers as numbers or text.

What a study looks like is read once; every question and every text continues from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from inference.bundle import TOKENIZER, Bundle, BundleError
from inference.decoder import Cache, Decoder
from inference.generate import Constraint, write
from inference.manifest import CONTEXT, IMAGE, QUESTION
from inference.score import log_odds
from inference.sentences import join, sentences

Floats = npt.NDArray[np.float32]

_ENDINGS = tuple(".!?。！？")


@dataclass(frozen=True, eq=False)
class Seen:
    """A prompt's beginning, read up to the last picture: `length` positions of `cache`."""

    cache: Cache
    length: int
    context: str


class Language:
    """Tokenizer, prompts and decoder of one bundle."""

    def __init__(self, bundle: Bundle, decoder: Decoder) -> None:
        self.prompts, self._splice = bundle.manifest.prompts, bundle.manifest.splice
        if self._splice.kind == "cross_attention":
            raise BundleError(
                f"{bundle.folder}: image tokens by cross attention are read by no family of this "
                "version. Use a newer version of Overread."
            )
        self._decoder = decoder
        self._tokenizer = load_tokenizer(bundle)
        self._before, self._after = self.prompts.template.split(IMAGE)

    def look(
        self,
        pictures: Sequence[Floats],
        context: str = "",
        *,
        captions: Mapping[int, str] = MappingProxyType({}),
        reuse: Seen | None = None,
    ) -> Seen:
        """Read the prompt's beginning with `pictures`, each (tokens, width).

        `captions` are texts before some of the pictures, by their place; `context` is clinical
        text that is put before every question. What was `reuse`d must not be asked any more: its
        memory is taken.
        """
        if not pictures or any(len(tokens) != self._splice.tokens for tokens in pictures):
            found = [len(tokens) for tokens in pictures]
            raise ValueError(f"{found} image tokens, the model takes {self._splice.tokens} each")
        separator = self._encode(self.prompts.picture_separator)
        parts = [self._embed([*self.prompts.first_ids, *self._encode(self._before)])]
        for index, tokens in enumerate(pictures):
            parts += [self._embed(separator)] if index else []
            parts += [self._embed(self._encode(captions[index]))] if index in captions else []
            parts.append(tokens)
        cache = reuse.cache if reuse else self._decoder.open()
        cache.rewind(0)
        self._decoder.read(cache, np.concatenate(parts))
        return Seen(cache, cache.length, self._clinical(context))

    def log_odds(self, seen: Seen, questions: Sequence[str]) -> npt.NDArray[np.float64]:
        """Log-odds (questions,) of yes against no as each answer's first token, in nats."""
        seen.cache.rewind(seen.length)
        blocks = [self._embed(self._question_ids(seen, question)) for question in questions]
        rows = self._decoder.read_packed(seen.cache, blocks)
        return log_odds(rows.logits, self.prompts.yes_ids, self.prompts.no_ids)

    def write(
        self,
        seen: Seen,
        question: str,
        *,
        limit: int | None = None,
        constraint: Constraint | None = None,
    ) -> str:
        """Greedy text in answer to `question`, at most `limit` tokens long."""
        text: str = self._tokenizer.decode(self._written(seen, question, limit, constraint))
        return text.strip()

    def report(self, seen: Seen, question: str) -> str:
        """Text of whole sentences: one that the limit cut off might have ended otherwise."""
        ids = self._written(seen, question, None, None)
        text: str = self._tokenizer.decode(ids).strip()
        room = (
            self._decoder.shape.max_length - seen.length - len(self._question_ids(seen, question))
        )
        if len(ids) < min(self.prompts.max_new_tokens, room + 1):
            return text
        *whole, last = sentences(text) or [""]
        return join([*whole, last] if last.endswith(_ENDINGS) else whole)

    def positions(self, pictures: int, questions: Sequence[str]) -> int:
        """How much of the cache it takes to show `pictures` and to ask the longest question."""
        between = len(self._encode(self.prompts.picture_separator)) * (pictures - 1)
        before = len(self.prompts.first_ids) + len(self._encode(self._before)) + between
        asked = [len(self._encode(self._after.replace(QUESTION, one))) for one in questions]
        return before + pictures * self._splice.tokens + max(asked)

    def states_at(self, seen: Seen, question: str, token_id: int) -> Floats:
        """States (n, width) from which each `token_id` of the written answer was chosen."""
        ids = self._written(seen, question, None, None)
        places = [index for index, token in enumerate(ids) if token == token_id]
        width = self._decoder.shape.width
        if not places:
            return np.zeros((0, width), np.float32)
        asked = self._question_ids(seen, question)
        seen.cache.rewind(seen.length)
        # What is read at one row chooses the token of the next.
        rows = [len(asked) + place - 1 for place in places]
        needed = [*asked, *ids[: places[-1]]]
        return self._decoder.read(seen.cache, self._embed(needed), rows).hidden

    def _written(
        self, seen: Seen, question: str, limit: int | None, constraint: Constraint | None
    ) -> list[int]:
        seen.cache.rewind(seen.length)
        asked = self._question_ids(seen, question)
        return write(
            self._decoder,
            seen.cache,
            self._embed(asked),
            stop_ids=self.prompts.stop_ids,
            limit=limit or self.prompts.max_new_tokens,
            constraint=constraint,
            # A grammar asks for the same words again and again.
            repetition_penalty=1.0 if constraint else self.prompts.repetition_penalty,
        )

    def _clinical(self, context: str) -> str:
        return self.prompts.context.replace(CONTEXT, context) if context else ""

    def _question_ids(self, seen: Seen, question: str) -> list[int]:
        return self._encode(self._after.replace(QUESTION, seen.context + question))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids if text else []
        return ids

    def _embed(self, ids: Sequence[int]) -> Floats:
        if not ids:
            return np.zeros((0, self._decoder.shape.width), np.float32)
        return self._decoder.embed(ids)


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer; BundleError where it is none, or another model's."""
    path = bundle.file(TOKENIZER)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        # tokenizers raises plain Exception.
        raise BundleError(f"{path}: not a tokenizer ({error}). Convert the model again.") from error
    prompts, vocabulary = bundle.manifest.prompts, bundle.manifest.decoder.vocabulary
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocabulary:
        raise BundleError(
            f"{path}: has {size} tokens, the decoder knows {vocabulary}: it belongs to another "
            "model. Convert the model again from its own checkpoint."
        )
    used = {*prompts.first_ids, *prompts.stop_ids, *prompts.yes_ids, *prompts.no_ids}
    unknown = sorted(token for token in used if tokenizer.id_to_token(token) is None)
    if unknown:
        raise BundleError(
            f"{path}: has no tokens {unknown}, which the manifest names: it belongs to another "
            "model. Convert the model again from its own checkpoint."
        )
    return tokenizer
