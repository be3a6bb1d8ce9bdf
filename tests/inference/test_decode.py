import numpy as np
import pytest

from inference.bundle import BUILTIN, find_bundle, load_bundle
from inference.decode import TextDecoder
from inference.providers import SessionSettings
from inference.runtime import Graph


@pytest.fixture(scope="module")
def decoder() -> TextDecoder:
    bundle = load_bundle(find_bundle(BUILTIN))
    embed, text = (
        Graph(bundle.file(name), SessionSettings(threads=1))
        for name in ("embed.onnx", "decoder.fp32.onnx")
    )
    return TextDecoder(bundle, embed, text)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 80, 128)).astype(np.float32)


PROMPT = "Describe the head CT in English."


def test_cached_steps_give_the_logits_of_one_uncached_pass(
    decoder: TextDecoder, image: np.ndarray
) -> None:
    ids = decoder.prompt_ids(PROMPT)
    whole, _ = decoder.step(
        np.concatenate([image, decoder.embeddings(ids)], axis=1), decoder.empty()
    )
    cache = decoder.read_image(image)
    assert cache.length == 80
    rows = []
    for token in ids:
        logits, cache = decoder.step(decoder.embeddings([token]), cache)
        rows.append(logits[-1])
    np.testing.assert_allclose(np.stack(rows), whole[80:], atol=2e-4)
    assert cache.length == 80 + len(ids)


def test_greedy_text_is_that_of_decoding_without_a_cache(
    decoder: TextDecoder, image: np.ndarray
) -> None:
    bundle = load_bundle(find_bundle(BUILTIN))
    language = bundle.manifest.language
    ids, written = decoder.prompt_ids(PROMPT), []
    while len(written) < language.max_new_tokens:
        embeddings = np.concatenate([image, decoder.embeddings(ids + written)], axis=1)
        token = int(decoder.step(embeddings, decoder.empty())[0][-1].argmax())
        if token == language.end_id:
            break
        written.append(token)
    cached = decoder.write(decoder.read_image(image), PROMPT)
    assert cached == decoder.text_of(written)


def test_the_image_cache_is_not_spoilt_by_a_prompt(decoder: TextDecoder, image: np.ndarray) -> None:
    cache = decoder.read_image(image)
    first = decoder.ask(cache, "Is there an intracranial haemorrhage?")
    decoder.write(cache, PROMPT)
    np.testing.assert_array_equal(
        first, decoder.ask(cache, "Is there an intracranial haemorrhage?")
    )


def test_the_image_changes_the_answer(decoder: TextDecoder, image: np.ndarray) -> None:
    answers = [
        decoder.ask(decoder.read_image(tokens), "Is there an intracranial haemorrhage?")
        for tokens in (image, image[:, ::-1] * 2)
    ]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


def test_any_text_has_tokens_and_comes_back(decoder: TextDecoder) -> None:
    for text in ("右侧额叶区域可见大的高密度出血灶。", "Ünïcode 🧠", "left"):
        ids = decoder.prompt_ids(text)[1:-1]
        assert decoder.text_of(ids) == text
