"""Structured text: a grammar that lets the model write nothing but JSON of the asked schema.

The grammar is llguidance's, applied to logits as a bit mask with numpy.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import llguidance
import numpy as np
import numpy.typing as npt
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from pydantic import BaseModel, ConfigDict, ValidationError

from inference.manifest import FindingSpec

Floats = npt.NDArray[np.float32]

_PUNCTUATION = '{}":,'


class GrammarError(ValueError):
    """The tokenizer cannot write by the grammar, or a text does not follow it."""


class Answer(BaseModel):
    """What the model wrote of one finding; text, which becomes a finding by its score alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    present: Literal["yes", "no", "uncertain"]
    side: Literal["left", "right", "both", "none"]


def assessment_schema(findings: Sequence[FindingSpec]) -> dict[str, Any]:
    """JSON schema of an object with an `Answer` for each finding, in the order of the manifest."""
    names = [finding.name for finding in findings]
    return _object(names, [_object(list(Answer.model_fields), _choices())] * len(names))


def parse_structured(text: str, findings: Sequence[FindingSpec]) -> dict[str, Answer]:
    """The answers that `text` gives, by finding name; every finding once and nothing else.

    Raises GrammarError, also where the text was cut off.
    """
    try:
        answers = json.loads(text, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise GrammarError(
            f"the structured text is no JSON at character {error.pos} of {len(text)}; where it was "
            "cut off, raise max_new_tokens in the bundle's prompts"
        ) from error
    except RecursionError as error:
        raise GrammarError("the structured text nests too deeply to be an answer") from error
    names = [finding.name for finding in findings]
    if not isinstance(answers, dict) or list(answers) != names:
        raise GrammarError(f"the structured text must answer {', '.join(names)}, in this order")
    try:
        return {name: Answer.model_validate(answer) for name, answer in answers.items()}
    except ValidationError as error:
        raise GrammarError(
            f"the structured text holds an answer that was not asked: {error}"
        ) from (error)


class JsonGrammar:
    """The grammar of one schema over one tokenizer; built once a model, about a second at 150k."""

    def __init__(
        self,
        tokenizer_json: Path,
        vocabulary: int,
        stop_ids: Collection[int],
        schema: Mapping[str, Any],
    ) -> None:
        """`vocabulary` is the number of logits, `stop_ids` end a text.

        Raises GrammarError where the tokenizer is not one, has more tokens than the decoder has
        logits, or cannot write a character that the schema needs.
        """
        outside = sorted(token for token in stop_ids if not 0 <= token < vocabulary)
        if outside or not stop_ids:
            raise GrammarError(f"stop tokens {outside} are not among the {vocabulary} tokens")
        try:
            tokenizer = llguidance.LLTokenizer(
                tokenizer_json.read_text("utf-8"),
                n_vocab=vocabulary,
                eos_token=sorted(stop_ids),
                slices=[],  # they speed up free strings, and the schema has none
            )
        except ValueError as error:
            raise GrammarError(
                f"{tokenizer_json}: no use with a decoder of {vocabulary} logits ({error}). "
                "Export the bundle again."
            ) from error
        missing = sorted(_characters(schema) - _single_bytes(tokenizer))
        if missing:
            # Without this check the grammar would leave no token to choose, in the middle.
            raise GrammarError(
                f"{tokenizer_json}: the tokenizer has no token for {' '.join(missing)}, so this "
                "model cannot write JSON; set prompts.structured to null in the manifest"
            )
        self._matcher = llguidance.LLMatcher(
            tokenizer,
            llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(schema), overrides={"whitespace_flexible": False}
            ),
        )
        if self._matcher.is_error():
            raise GrammarError(f"no grammar for the schema: {self._matcher.get_error()}")
        self._vocabulary = vocabulary

    def constraint(self) -> "JsonConstraint":
        """A constraint for one text, at its start."""
        return JsonConstraint(self._matcher.deep_copy(), self._vocabulary)


class JsonConstraint:
    """What may come next in one text."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._allowed = allocate_token_bitmask(1, vocabulary)

    @property
    def done(self) -> bool:
        """The JSON is complete."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits: Floats) -> Floats:
        """Logits (vocabulary,) with what is forbidden at minus infinity."""
        fill_next_token_bitmask(self._matcher, self._allowed)
        bits = np.unpackbits(self._allowed.view(np.uint8)[0], count=logits.size, bitorder="little")
        return np.where(bits.view(np.bool_), logits, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        """Go on behind `token`; raises GrammarError where it was forbidden."""
        if not self._matcher.consume_token(token):
            raise GrammarError(f"token {token} breaks the grammar: {self._matcher.get_error()}")


def _object(names: Sequence[str], values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(zip(names, values, strict=True)),
        "required": list(names),
        "additionalProperties": False,
    }


def _choices() -> list[dict[str, Any]]:
    return [{"enum": list(get_args(field.annotation))} for field in Answer.model_fields.values()]


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise GrammarError("the structured text answers something twice")
    return dict(pairs)


def _characters(schema: Mapping[str, Any]) -> set[str]:
    """Characters that a document of the schema may need: of its names, choices and syntax."""
    needed = set(_PUNCTUATION).union(*schema.get("enum", ()))
    for name, value in schema.get("properties", {}).items():
        needed |= set(name) | _characters(value)
    return needed


def _single_bytes(tokenizer: llguidance.LLTokenizer) -> set[str]:
    """ASCII characters that have a token of their own."""
    tokens = (
        tokenizer.decode_bytes([token])
        for token in range(tokenizer.vocab_size)
        if not tokenizer.is_special_token(token)
    )
    return {token.decode("ascii") for token in tokens if len(token) == 1 and token < b"\x80"}
