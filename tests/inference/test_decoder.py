from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache as kept

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.decoder import ROWS_AT_ONCE, Decoder, Floats, SequenceTooLongError
from inference.generate import write
from inference.providers import SessionSettings
from inference.runtime import Graph

torch = pytest.importorskip("torch", reason="needs the extra `export`")
for needed in ("transformers", "onnx_ir", "onnxruntime_genai"):
    pytest.importorskip(needed, reason="needs the extra `export`")

from transformers import AutoModelForCausalLM  # noqa: E402

from inference.export.decoder import export_decoder  # noqa: E402
from tests.inference.export.checkpoints import KINDS, SIZES, text_checkpoint  # noqa: E402

LENGTH = 64
ROWS = ROWS_AT_ONCE["cpu"]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Language:
    """A small random decoder, and the checkpoint that it was exported from."""

    decoder: Decoder
    torch_model: torch.nn.Module

    def whole(self, embeddings: Floats) -> Floats:
        """Logits (n, vocabulary) of a plain forward in transformers."""
        with torch.inference_mode():
            return (
                self.torch_model(inputs_embeds=torch.from_numpy(embeddings)[None]).logits[0].numpy()
            )


@pytest.fixture(scope="module")
def languages(tmp_path_factory):
    @kept
    def made(kind: str, length: int = LENGTH) -> Language:
        folder = tmp_path_factory.mktemp(kind)
        text_model = text_checkpoint(folder / "text", kind, max_position_embeddings=1024)
        shape = export_decoder(
            text_model, folder, "fp32", max_length=length, tell=lambda _: None
        ).shape
        graphs = (Graph(folder / name, SessionSettings(threads=1)) for name in names)
        model = AutoModelForCausalLM.from_pretrained(text_model, attn_implementation="eager")
        return Language(Decoder(*graphs, shape), model.eval())

    names = ("embed.onnx", "decoder.fp32.onnx")
    return made


@pytest.fixture(scope="module")
def llama(languages) -> Language:
    return languages("llama")


def embeddings(count: int, seed: int = 0) -> Floats:
    generator = np.random.default_rng(seed)
    return generator.normal(0, 0.3, (count, SIZES["hidden_size"])).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_that_of_transformers_token_for_token(languages, kind: str) -> None:
    language, limit = languages(kind), 40
    for seed in range(3):
        ids = np.random.default_rng(seed).integers(3, SIZES["vocab_size"], 12).tolist()
        expected = language.torch_model.generate(
            inputs_embeds=language.torch_model.get_input_embeddings()(torch.tensor([ids])),
            do_sample=False,
            max_new_tokens=limit,
            min_new_tokens=limit,
            eos_token_id=None,
            repetition_penalty=1.3,
        )[0].tolist()
        decoder = language.decoder
        found = write(
            decoder,
            decoder.open(),
            decoder.embed(ids),
            stop_ids=(),
            limit=limit,
            repetition_penalty=1.3,
        )
        assert found == expected
        assert len(set(found)) > 10  # it does not merely repeat itself


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@given(parts=lengths, questions=lengths, tried=lengths, seed=st.integers(0, 99))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_how_a_sequence_is_read_changes_nothing(
    languages, kind: str, parts: list[int], questions: list[int], tried: list[int], seed: int
) -> None:
    """Split anywhere, packed in any number, on a cache that was used before: always the same."""
    language = languages(kind)
    decoder, cache = language.decoder, language.decoder.open()
    parts = within(parts, LENGTH - 10)
    prefix = embeddings(sum(parts), seed)
    decoder.read(cache, embeddings(min(sum(tried), LENGTH), seed + 1))  # what is then forgotten
    cache.rewind(0)
    found = []
    for start, length in zip(np.cumsum([0, *parts]), parts, strict=False):
        found.append(decoder.read(cache, prefix[start : start + length], range(length)).logits)
    assert np.abs(np.concatenate(found) - language.whole(prefix)).max() < TOLERANCE

    blocks = [embeddings(length, seed + 2 + index) for index, length in enumerate(questions)]
    packed = decoder.read_packed(cache, blocks)
    assert cache.length == len(prefix)
    for block, logits in zip(blocks, packed.logits, strict=True):
        alone = language.whole(np.concatenate([prefix, block]))[-1]
        assert np.abs(logits - alone).max() < TOLERANCE
        again = decoder.read(cache, block)
        cache.rewind(len(prefix))
        assert np.abs(again.logits[0] - alone).max() < TOLERANCE


def within(parts: Sequence[int], room: int) -> list[int]:
    """The first of `parts` that fit."""
    return [length for length, total in zip(parts, np.cumsum(parts), strict=True) if total <= room]


def test_rows_that_were_asked_for_come_in_their_order(llama: Language) -> None:
    read, whole = embeddings(9), llama.whole(embeddings(9))
    rows = llama.decoder.read(llama.decoder.open(), read, [7, 0, 8])
    assert np.abs(rows.logits - whole[[7, 0, 8]]).max() < TOLERANCE
    assert rows.hidden.shape == (3, SIZES["hidden_size"])
    last = llama.decoder.read(llama.decoder.open(), read)
    assert np.array_equal(last.hidden, rows.hidden[2:])


def test_a_long_read_goes_in_several_runs(languages) -> None:
    long = languages("llama", 2 * ROWS)
    read = embeddings(ROWS + 40)
    asked = [ROWS + 39, 3, ROWS]
    rows = long.decoder.read(long.decoder.open(), read, asked)
    assert np.abs(rows.logits - long.whole(read)[asked]).max() < TOLERANCE


def test_a_graph_without_bias_asks_one_question_after_another(llama: Language) -> None:
    decoder = Decoder.__new__(Decoder)
    decoder.__dict__.update(llama.decoder.__dict__)
    decoder.shape = llama.decoder.shape.model_copy(update={"packed": False})
    runs = 0
    run = decoder._run

    def counted(*arguments):
        nonlocal runs
        runs += 1
        return run(*arguments)

    decoder._run = counted
    cache = decoder.open()
    decoder.read(cache, embeddings(5))
    blocks = [embeddings(length, length) for length in (2, 3, 4)]
    apart = decoder.read_packed(cache, blocks)
    assert (runs, cache.length) == (4, 5)
    other = llama.decoder.open()
    llama.decoder.read(other, embeddings(5))
    assert np.abs(llama.decoder.read_packed(other, blocks).logits - apart.logits).max() < TOLERANCE


def test_what_does_not_fit_is_refused_before_it_is_read(llama: Language) -> None:
    decoder, cache = llama.decoder, llama.decoder.open()
    decoder.read(cache, embeddings(60))
    with pytest.raises(SequenceTooLongError, match=r"66 positions .* holds 64") as caught:
        decoder.read(cache, embeddings(6))
    assert (caught.value.needed, caught.value.room) == (66, 64)
    with pytest.raises(SequenceTooLongError, match="65 positions"):
        decoder.read_packed(cache, [embeddings(2), embeddings(5)])
    with pytest.raises(SequenceTooLongError):
        write(decoder, cache, embeddings(5), stop_ids=(), limit=1)
    assert cache.length == 60
    with pytest.raises(ValueError, match="cannot rewind to 61"):
        cache.rewind(61)


def written(language: Language, limit: int = 20, **options) -> list[int]:
    decoder = language.decoder
    options = {"stop_ids": (), **options}
    return write(decoder, decoder.open(), embeddings(5), limit=limit, **options)


def test_text_ends_at_its_limit_a_stop_or_where_the_cache_is_full(llama: Language) -> None:
    text = written(llama)
    assert len(text) == 20
    assert written(llama, 0) == []
    stop = text[4]
    assert written(llama, stop_ids=(stop,)) == text[: text.index(stop)]
    assert len(written(llama, 1000)) == LENGTH - 5 + 1


@dataclass
class OnlyEven:
    """Allows three even tokens."""

    accepted: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return len(self.accepted) == 3

    def mask(self, logits: Floats) -> Floats:
        return np.where(np.arange(len(logits)) % 2, -np.inf, logits)

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def test_a_constraint_says_what_may_be_written(llama: Language) -> None:
    constraint = OnlyEven()
    text = written(llama, constraint=constraint)
    assert text == constraint.accepted
    assert len(text) == 3
    assert all(token % 2 == 0 for token in text)


def test_embeddings_are_those_of_the_checkpoint(llama: Language) -> None:
    ids = [5, 0, 100]
    weight = llama.torch_model.get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(llama.decoder.embed(ids), weight[ids])
