import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from inference.grammar import (
    Answer,
    GrammarError,
    JsonConstraint,
    JsonGrammar,
    assessment_schema,
    parse_structured,
)
from inference.manifest import FindingSpec
from tests.inference.manifests import HAEMORRHAGE, SHIFT

FINDINGS = (HAEMORRHAGE, SHIFT)
CORPUS = (
    '{"midline_shift":{"present":"yes","side":"none"}}',
    "There is a large haemorrhage in the left frontal region. 左侧额叶可见出血。",
    '"present": "uncertain", "side": "both"',
)
SPARE = 40
"""Rows of the logits beyond the tokenizer, as published models have them."""
LONGEST = 200
COMPLETE = (
    '{"intracranial_haemorrhage":{"present":"yes","side":"left"},'
    '"midline_shift":{"present":"no","side":"none"}}'
)


def byte_level() -> Tokenizer:
    """As of GPT-2, Qwen and Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=360,
            initial_alphabet=alphabet,
            special_tokens=["<s>", "</s>"],
            show_progress=False,
        ),
    )
    return tokenizer


def sentencepiece_like(*, byte_fallback: bool = True) -> Tokenizer:
    """As of Llama 2, Mistral and Phi-3: spaces are a letter, bytes the last resort."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        [text.replace("{", "").replace('"', "") for text in CORPUS],
        trainers.BpeTrainer(vocab_size=120, show_progress=False),
    )
    model = json.loads(trained.to_str())["model"]
    first = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256) if byte_fallback)]
    vocabulary = {piece: number for number, piece in enumerate([*first, *model["vocab"]])}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=byte_fallback))
    tokenizer.add_special_tokens(first[:2])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


TOKENIZERS = {"byte level": byte_level(), "SentencePiece": sentencepiece_like()}


def grammar(tokenizer: Tokenizer, folder: Path, findings=FINDINGS) -> JsonGrammar:
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    vocabulary = tokenizer.get_vocab_size() + SPARE
    return JsonGrammar(path, vocabulary, (1,), assessment_schema(findings))


def write_at_random(constraint: JsonConstraint, vocabulary: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    written: list[int] = []
    while not constraint.done:
        assert len(written) < LONGEST
        masked = constraint.mask(rng.normal(0, 5, vocabulary).astype(np.float32))
        assert np.isfinite(masked).any()
        written.append(int(masked.argmax()))
        constraint.accept(written[-1])
    return written


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    tokenizer = TOKENIZERS[request.param]
    return tokenizer, grammar(tokenizer, tmp_path_factory.mktemp("tokenizer"))


def test_random_logits_write_valid_json_each_time(made: tuple[Tokenizer, JsonGrammar]) -> None:
    tokenizer, json_grammar = made
    vocabulary = tokenizer.get_vocab_size() + SPARE
    written = []
    for seed in range(40):
        ids = write_at_random(json_grammar.constraint(), vocabulary, seed)
        text = tokenizer.decode(ids)
        answers = parse_structured(text, FINDINGS)
        assert json.loads(text) == {name: one.model_dump() for name, one in answers.items()}
        assert " " not in text
        written.append(text)
    assert len(set(written)) > 20


def test_likelier_words_are_written(made: tuple[Tokenizer, JsonGrammar]) -> None:
    tokenizer, json_grammar = made
    liked = np.zeros(tokenizer.get_vocab_size() + SPARE, np.float32)
    for token in range(tokenizer.get_vocab_size()):
        liked[token] = sum(1 if letter in "no" else -1 for letter in tokenizer.decode([token]))
    constraint, ids = json_grammar.constraint(), []
    while not constraint.done:
        ids.append(int(constraint.mask(liked).argmax()))
        constraint.accept(ids[-1])
    for answer in parse_structured(tokenizer.decode(ids), FINDINGS).values():
        assert answer == Answer(present="no", side="none")


def test_texts_do_not_disturb_each_other(made: tuple[Tokenizer, JsonGrammar]) -> None:
    tokenizer, json_grammar = made
    vocabulary = tokenizer.get_vocab_size() + SPARE
    alone = write_at_random(json_grammar.constraint(), vocabulary, 1)
    left_half_way = json_grammar.constraint()
    left_half_way.accept(alone[0])
    assert write_at_random(json_grammar.constraint(), vocabulary, 1) == alone


def test_logits_that_are_allowed_stay_as_they_are(made: tuple[Tokenizer, JsonGrammar]) -> None:
    tokenizer, json_grammar = made
    logits = np.arange(tokenizer.get_vocab_size() + SPARE, dtype=np.float32)
    masked = json_grammar.constraint().mask(logits)
    allowed = np.flatnonzero(np.isfinite(masked))
    assert masked.dtype == np.float32
    assert all(tokenizer.decode([int(token)]).startswith("{") for token in allowed)
    np.testing.assert_array_equal(masked[allowed], logits[allowed])


def test_forbidden_token_is_an_error(made: tuple[Tokenizer, JsonGrammar]) -> None:
    with pytest.raises(GrammarError, match="token 1 breaks"):
        made[1].constraint().accept(1)


def test_tokenizer_that_cannot_write_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match=r"no token for .* \{.*cannot write JSON"):
        grammar(sentencepiece_like(byte_fallback=False), tmp_path)


def test_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["byte level"]
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    schema = assessment_schema(FINDINGS)
    with pytest.raises(GrammarError, match="no use with a decoder of 100 logits"):
        JsonGrammar(path, 100, (1,), schema)
    with pytest.raises(GrammarError, match=r"stop tokens \[900\] are not among the 400"):
        JsonGrammar(path, 400, (1, 900), schema)
    path.write_text("{")
    with pytest.raises(GrammarError, match=r"tokenizer\.json: no use"):
        JsonGrammar(path, 400, (1,), schema)


def test_schema_asks_for_the_findings_in_order() -> None:
    schema = assessment_schema(FINDINGS)
    assert list(schema["properties"]) == schema["required"]
    assert schema["required"] == [finding.name for finding in FINDINGS]
    assert schema["properties"]["midline_shift"]["properties"] == {
        "present": {"enum": ["yes", "no", "uncertain"]},
        "side": {"enum": ["left", "right", "both", "none"]},
    }


def test_complete_text_is_parsed() -> None:
    assert parse_structured(COMPLETE, FINDINGS) == {
        "intracranial_haemorrhage": Answer(present="yes", side="left"),
        "midline_shift": Answer(present="no", side="none"),
    }


@pytest.mark.parametrize("length", range(0, len(COMPLETE), 7))
def test_text_that_was_cut_off_is_an_error(length: int) -> None:
    with pytest.raises(GrammarError, match="cut off, raise max_new_tokens"):
        parse_structured(COMPLETE[:length], FINDINGS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "must answer"),
        ("{}", "must answer"),
        ("null", "must answer"),
        ("[" * 100_000, "nests too deeply"),
        (COMPLETE.replace("midline_shift", "fracture"), "must answer"),
        (COMPLETE.replace("midline_shift", "intracranial_haemorrhage"), "twice"),
        (COMPLETE.replace('"side":"none"', '"present":"yes"'), "twice"),
        (COMPLETE.replace('"none"', '"anterior"'), "was not asked"),
        (COMPLETE.replace('"none"', "null"), "was not asked"),
        (COMPLETE.replace('"side":"none"', '"size":"3"'), "was not asked"),
        (COMPLETE + COMPLETE, "no JSON"),
    ],
)
def test_text_that_was_not_asked_for_is_an_error(text: str, why: str) -> None:
    with pytest.raises(GrammarError, match=why):
        parse_structured(text, FINDINGS)


@given(text=st.text())
def test_any_text_is_parsed_or_an_error(text: str) -> None:
    with pytest.raises(GrammarError):
        parse_structured(text, FINDINGS)


@settings(max_examples=15, deadline=None)
@given(
    names=st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True), min_size=1, unique=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_findings_can_be_asked_for(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], seed: int
) -> None:
    findings: list[FindingSpec] = [SHIFT.model_copy(update={"name": name}) for name in names]
    tokenizer = TOKENIZERS["byte level"]
    made = grammar(tokenizer, tmp_path_factory.mktemp("any"), findings)
    constraint, rng, ids = made.constraint(), np.random.default_rng(seed), []
    while not constraint.done:
        masked = constraint.mask(rng.normal(size=tokenizer.get_vocab_size() + SPARE))
        ids.append(int(masked.argmax()))
        constraint.accept(ids[-1])
    assert list(parse_structured(tokenizer.decode(ids), findings)) == names
