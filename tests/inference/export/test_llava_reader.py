import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime_genai")
from llava_exports import LIMIT, Export, reference_tokens  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from inference.assessment import Code, NotForThisModel, Text  # noqa: E402
from inference.bundle import Bundle, digests, load_bundle, write_manifest  # noqa: E402
from inference.decoder import Decoder  # noqa: E402
from inference.families.llava import LlavaReader, image_tokens  # noqa: E402
from inference.key_slices import Lightbox  # noqa: E402
from inference.language import Language  # noqa: E402
from inference.manifest import FindingSpec, Manifest, Origin, WordsOf  # noqa: E402
from inference.providers import SessionSettings  # noqa: E402
from inference.runtime import Graph  # noqa: E402
from inference.simulation import volume_of  # noqa: E402

SETTINGS = SessionSettings(threads=1)
BOTH = Text(en="x", zh="x")
QUESTIONS = {
    "haemorrhage": "Is there a haemorrhage?",
    "mass": "Is there a mass? Answer with yes or no.",
    "shift": "Is the midline shifted in the head?",
    "bleed": "是否有出血？",
}
FROM_THE_HEAD = np.array([[0, 0, 4, 0], [0, 4, 0, 0], [-5.0, 0, 0, 0], [0, 0, 0, 1]])


def finding(name: str, question: str) -> FindingSpec:
    code = Code(value="1", scheme="99OVERREAD", meaning=name)
    words = WordsOf(present=BOTH, absent=BOTH)
    return FindingSpec(name=name, label=BOTH, code=code, site=code, question=question, words=words)


FINDINGS = [finding(name, question) for name, question in QUESTIONS.items()]


def bundle_of(export: Export) -> Bundle:
    converted = export.converted
    manifest = Manifest(
        format=2,
        family=converted.family,
        name="small",
        version="1",
        manufacturer="test",
        licence="none",
        demonstration=True,
        intended_use=BOTH,
        statement=BOTH,
        files=digests(export.out),
        preprocessing=converted.preprocessing,
        splice=converted.splice,
        prompts=converted.prompts,
        decoder=converted.decoder,
        findings=FINDINGS,
        origin=Origin(source="random", tools=converted.tools, parity_error=converted.parity_error),
    )
    write_manifest(manifest, export.out)
    return load_bundle(export.out)


class Loaded:
    """The graphs of a bundle, and readers with other preprocessing."""

    def __init__(self, export: Export, *, contrary: bool = False) -> None:
        bundle = bundle_of(export)
        if contrary:  # a model that says no where the other says yes
            prompts = bundle.manifest.prompts
            swapped = {"yes_ids": prompts.no_ids, "no_ids": prompts.yes_ids}
            changed = {"prompts": prompts.model_copy(update=swapped)}
            manifest = bundle.manifest.model_copy(update=changed)
            bundle = dataclasses.replace(bundle, manifest=manifest)
        self.export, self.spec = export, bundle.manifest.preprocessing
        embed, decoder, self.vision = (
            Graph(bundle.file(name), SETTINGS)
            for name in ("embed.onnx", "decoder.fp32.onnx", "vision.onnx")
        )
        self.language = Language(bundle, Decoder(embed, decoder, bundle.manifest.decoder))

    def reader(self, **changes) -> LlavaReader:
        spec = self.spec.model_copy(update=changes)
        return LlavaReader(spec, FINDINGS, self.vision, self.language)

    def alone(self, volume, index: int) -> np.ndarray:
        """Log-odds of the findings for one slice, by itself."""
        tokens = image_tokens(self.vision, Lightbox(volume, self.spec).pictures([index]))
        return self.language.log_odds(self.language.look(tokens), list(QUESTIONS.values()))


@pytest.fixture(scope="module")
def loaded(export_llava) -> Loaded:
    return Loaded(export_llava("llava_mistral"))


def volume(seed: int, slices: int = 24, **kwargs):
    """Tissue of its own texture on each slice, with air around."""
    hu = np.full((slices, 32, 32), -1000, dtype=np.float32)
    rng = np.random.default_rng(seed)
    hu[:, 4:28, 4:28] = rng.uniform(-150, 250, (slices, 6, 6)).repeat(4, 1).repeat(4, 2)
    return volume_of(hu, FROM_THE_HEAD, **kwargs)


def test_the_text_of_a_bundle_is_that_of_transformers(llava_export: Export) -> None:
    loaded = Loaded(llava_export)
    scan = volume(0)
    slices = Lightbox(scan, loaded.spec).spread(2)
    pixels = Lightbox(scan, loaded.spec).pictures(slices)
    seen = loaded.language.look(image_tokens(loaded.vision, pixels))
    tokenizer = Tokenizer.from_file(str(loaded.export.out / "tokenizer.json"))
    # Of so many characters some are in the answer: the prompt must not count as repeated.
    for question in (*QUESTIONS.values(), "".join(map(chr, range(33, 127)))):
        expected = reference_tokens(loaded.export, question, pixels)
        found = loaded.language.write(seen, question, limit=LIMIT)
        assert found == tokenizer.decode(expected).strip()


def test_slices_are_shown_as_the_manifest_says(loaded: Loaded) -> None:
    scan = volume(1)
    images = loaded.reader(presentation="images", count=5).read(scan, [])
    assert len(images.pictures) == len(images.slices) == 5
    montage = loaded.reader(presentation="montage", count=5).read(scan, [])
    assert len(montage.pictures) == 1
    assert montage.slices == images.slices
    box = Lightbox(scan, loaded.spec)
    for tokens, index in zip(images.pictures, images.slices, strict=True):
        expected = loaded.vision({"pixels": box.pictures([index])})["image_tokens"][0]
        np.testing.assert_allclose(tokens, expected, atol=1e-4)
    assert images.limitations[0].en == "The model saw 5 of 24 slices, as pictures."


@pytest.mark.parametrize("slices", [1, 24])
def test_evidence_is_the_slice_that_says_so_alone(export_llava, slices: int) -> None:
    found = []
    for contrary in (False, True):
        loaded = Loaded(export_llava("llava_mistral"), contrary=contrary)
        scan = volume(0, slices)
        reading = loaded.reader().read(scan, [])
        own = np.stack([loaded.alone(scan, index) for index in reading.slices])
        for spec, alone in zip(FINDINGS, own.T, strict=True):
            evidence = reading.evidence(spec)
            best = reading.slices[int(alone.argmax())]
            found.append(evidence)
            if alone.max() <= 0:
                assert evidence is None
            else:
                assert evidence is not None
                assert (evidence.slices, evidence.best_slice) == ((best,), best)
        assert reading.key_slices() == tuple(sorted(reading.slices))
    assert any(found)
    assert slices > 1 or not all(found)


def test_the_first_pass_chooses_what_stands_out(loaded: Loaded) -> None:
    scan = volume(2)
    box = Lightbox(scan, loaded.spec)
    reading = loaded.reader(rule="scored", count=3).read(scan, [])
    candidates = Lightbox(scan, loaded.spec.model_copy(update={"count": 3})).candidates()
    own = np.stack([loaded.alone(scan, index) for index in candidates])
    outstanding = (own - own.mean(axis=0)).max(axis=1)
    best = [candidates[place] for place in np.argsort(-outstanding)[:3]]
    assert reading.slices == box.in_viewing_order(best)
    assert reading.slices != box.spread(3)


def test_the_picture_decides_the_answer(loaded: Loaded) -> None:
    one, other = (loaded.reader().read(volume(seed), []).pictures for seed in (3, 4))
    a, b, again = (
        loaded.language.log_odds(loaded.language.look(pictures), list(QUESTIONS.values()))
        for pictures in (one, other, one)
    )
    assert np.abs(a - b).min() > 1e-3
    np.testing.assert_allclose(a, again, atol=1e-6)


def test_the_last_prior_goes_first_as_a_montage(loaded: Loaded) -> None:
    scan, older, prior = volume(5), volume(6), volume(7)
    alone = loaded.reader().read(scan, [])
    reading = loaded.reader().read(scan, [older, prior])
    assert len(reading.pictures) == len(alone.pictures) + 1
    assert reading.slices == alone.slices
    box = Lightbox(prior, loaded.spec)
    expected = image_tokens(loaded.vision, box.montage(box.spread(loaded.spec.count)))[0]
    np.testing.assert_allclose(reading.pictures[0], expected, atol=1e-5)
    said = [limitation.en for limitation in reading.limitations[1:]]
    assert said == [
        "The model was also shown a prior study; its text may speak of either.",
        "Prior studies that were not looked at: 1.",
    ]
    assert alone.captions == {}
    assert reading.captions == {0: "Prior study:\n", 1: "Current study:\n"}
    look = loaded.language.look
    tokens = Tokenizer.from_file(str(loaded.export.out / "tokenizer.json"))
    plain = look(reading.pictures)
    told = look(reading.pictures, captions=reading.captions)
    said = [tokens.encode(text, add_special_tokens=False).ids for text in reading.captions.values()]
    assert told.length == plain.length + sum(map(len, said))
    odds = [loaded.language.log_odds(seen, list(QUESTIONS.values())) for seen in (plain, told)]
    assert np.abs(odds[0] - odds[1]).min() > 1e-4


def test_a_prior_that_cannot_be_read_is_left_out(loaded: Loaded) -> None:
    empty = volume_of(np.full((24, 32, 32), -1000, dtype=np.float32), FROM_THE_HEAD)
    reading = loaded.reader().read(volume(8), [empty])
    assert len(reading.pictures) == len(loaded.reader().read(volume(8), []).pictures)
    assert reading.limitations[-1].en == "Prior studies that were not looked at: 1."


def test_what_is_not_for_the_model_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(NotForThisModel, match="this series is MR"):
        loaded.reader(modalities=("CT",)).read(volume(9, modality="MR"), [])
    empty = volume_of(np.full((24, 32, 32), -1000, dtype=np.float32), FROM_THE_HEAD)
    with pytest.raises(NotForThisModel, match="No body"):
        loaded.reader().read(empty, [])
