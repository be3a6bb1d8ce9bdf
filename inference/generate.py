"""Greedy text from a decoder: the same words each time, within a limit and, if asked, a grammar."""

from collections.abc import Collection
from typing import Protocol

import numpy as np

from inference.decoder import Cache, Decoder, Floats


class Constraint(Protocol):
    """What may be written next, such as a grammar."""

    @property
    def done(self) -> bool:
        """Nothing more may be written."""

    def mask(self, logits: Floats) -> Floats:
        """Logits (vocabulary,) with what is forbidden at minus infinity."""

    def accept(self, token: int) -> None:
        """Go on behind `token`."""


def write(
    decoder: Decoder,
    cache: Cache,
    embeddings: Floats,
    *,
    stop_ids: Collection[int],
    limit: int,
    constraint: Constraint | None = None,
    repetition_penalty: float = 1.0,
) -> list[int]:
    """Read embeddings (n, width), then write up to `limit` tokens; the stop token is left out.

    Ends at a stop token, when the constraint is done or the cache is full. Tokens that were written
    count as repeated, those of the prompt do not. Raises SequenceTooLongError where not even the
    prompt fits.
    """
    written: list[int] = []
    seen = np.zeros(decoder.shape.vocabulary, bool)
    limit = min(limit, decoder.shape.max_length - cache.length - len(embeddings) + 1)
    logits = decoder.read(cache, embeddings).logits[0]
    while len(written) < limit:
        if repetition_penalty != 1.0:
            repeated = logits[seen]
            logits[seen] = np.where(
                repeated > 0, repeated / repetition_penalty, repeated * repetition_penalty
            )
        token = int(np.argmax(logits if constraint is None else constraint.mask(logits)))
        if token in stop_ids:
            break
        written.append(token)
        seen[token] = True
        if constraint is not None:
            constraint.accept(token)
            if constraint.done:
                break
        if len(written) < limit:
            logits = decoder.read(cache, decoder.embed([token])).logits[0]
    return written
