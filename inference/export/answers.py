"""Which tokens begin an answer of yes or of no, and which end one."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from inference.export.graphs import ExportError

YES = ("Yes", "yes", "YES", "是")
NO = ("No", "no", "NO", "否")
SPACES = ("", " ", "▁")
"""What may stand before a word: nothing, a space, SentencePiece's own sign for one."""


def yes_and_no(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the tokens that alone mean yes, and no, however they are spelt and spaced."""
    return _whole_words(tokenizer, YES), _whole_words(tokenizer, NO)


def end_ids(*settings: Mapping[str, Any]) -> set[int]:
    """Every `eos_token_id` of the settings, which give one, several or none."""
    found: set[int] = set()
    for each in settings:
        ends = each.get("eos_token_id")
        found.update(ends if isinstance(ends, list) else [] if ends is None else [ends])
    return found


def _whole_words(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[int, ...]:
    """A word in several pieces is left out: its first piece begins other words as well."""
    found: set[int | None] = set()
    for spelling in (space + word for space in SPACES for word in words):
        ids = tokenizer.encode(spelling, add_special_tokens=False).ids
        if len(ids) == 1:
            found.add(ids[0])
        found.add(tokenizer.token_to_id(spelling))
    # A byte or "unknown" stands for many words.
    known = {number for number in found if number is not None and _says(tokenizer, number, words)}
    if not known:
        raise ExportError(
            f"The tokenizer has no token for any of {', '.join(words)}: findings cannot be scored."
        )
    return tuple(sorted(known))


def _says(tokenizer: Tokenizer, number: int, words: Sequence[str]) -> bool:
    return tokenizer.decode([number]).strip() in words
