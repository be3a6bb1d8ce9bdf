from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime_genai")
from m3d_checkpoints import SIZE, m3d_checkpoint, text_reference  # noqa: E402
from manifests import MASS, manifest  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from inference.bundle import Bundle  # noqa: E402
from inference.decoder import Decoder  # noqa: E402
from inference.export.checkpoint import Checkpoint  # noqa: E402
from inference.export.converted import Converted  # noqa: E402
from inference.export.m3d_lamed import (  # noqa: E402
    MIN_SLICES,
    PROJECTOR,
    SEG_PROJECTOR,
    SEGMENT,
    SEGVOL,
    SOFT_TISSUE_HU,
    TOWER,
    _below,
    convert,
    recognises,
)
from inference.export.m3d_modules import (  # noqa: E402
    M3DVision,
    VolumeGrid,
    projector_from,
    transformer_from,
)
from inference.export.segvol_modules import SegVol, segvol_from  # noqa: E402
from inference.families.m3d_lamed import M3dReader  # noqa: E402
from inference.foreground import foreground_input  # noqa: E402
from inference.generate import write  # noqa: E402
from inference.language import Language  # noqa: E402
from inference.manifest import QUESTION, ForegroundVolume  # noqa: E402
from inference.providers import SessionSettings  # noqa: E402
from inference.runtime import Graph  # noqa: E402
from inference.simulation import volume_of  # noqa: E402
from inference.volume import Volume  # noqa: E402

SETTINGS = SessionSettings(threads=1)
QUESTIONS = ("Is there a haemorrhage?", "Describe the images.", "No head")
GRID = VolumeGrid(SIZE, (4, 16, 16))
TOKENS, LIMIT = 8, 24


@dataclass(frozen=True)
class Export:
    """A converted checkpoint, and what it was converted from."""

    checkpoint: Path
    out: Path
    converted: Converted


def exported(folder: Path, model_type: str, precision: str = "fp32", **options) -> Export:
    checkpoint = m3d_checkpoint(folder / "checkpoint", model_type, **options)
    out = folder / "out"
    out.mkdir()
    converted = convert(Checkpoint(checkpoint), out, precision, "cpu", lambda _: None)
    return Export(checkpoint, out, converted)


@pytest.fixture(scope="module")
def phi3(tmp_path_factory) -> Export:
    folder = tmp_path_factory.mktemp("phi3")
    silent = m3d_checkpoint(folder / "silent", "lamed_phi3")
    tokenizer = Checkpoint(silent).write_tokenizer(folder)
    said = reference(silent, tokenizer, SEGMENT.replace(QUESTION, MASS.question), body()).ids
    # The first token does not count as said: the published code leaves it out.
    often = next(token for token in said[1:] if token != said[0])
    return exported(folder, "lamed_phi3", seg_like=often)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Export:
    return exported(tmp_path_factory.mktemp("llama"), "lamed_llama", outlines=False)


@pytest.fixture(params=["phi3", "llama"])
def export(request) -> Export:
    return request.getfixturevalue(request.param)


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((1, 1, *SIZE), dtype=np.float32)


def ct() -> Volume:
    """A CT that is the model's grid already: foreground to its very corners."""
    hu = np.random.default_rng(9).uniform(-159, 240, SIZE).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.0, 3.0, 4.0])[:, ::-1]
    return volume_of(hu, affine)


def body() -> np.ndarray:
    """The same as the vision graph sees it."""
    spec = ForegroundVolume(
        modalities=("CT",),
        window=SOFT_TISSUE_HU,
        size=SIZE,
        interpolation="trilinear",
        min_slices=MIN_SLICES,
    )
    return foreground_input(ct(), spec).values[None, None]


def question_ids(export: Export, question: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(export.out / "tokenizer.json"))
    return tokenizer.encode(question, add_special_tokens=False).ids


def graphs(export: Export) -> list[Graph]:
    precision = export.converted.decoder.precision
    names = ("embed.onnx", f"decoder.{precision}.onnx", "vision.onnx", "seg.onnx")
    paths = [export.out / name for name in names]
    return [Graph(path, SETTINGS) for path in paths if path.exists()]


def opened(export: Export) -> Decoder:
    embed, decoder, *_ = graphs(export)
    return Decoder(embed, decoder, export.converted.decoder)


def image_tokens(export: Export, seed: int) -> np.ndarray:
    vision = Graph(export.out / "vision.onnx", SETTINGS)
    return vision({"volume": volume(seed)})["image_tokens"][0]


def sequence(export: Export, decoder: Decoder, question: str, seed: int) -> np.ndarray:
    prompts = export.converted.prompts
    seen = image_tokens(export, seed)
    assert seen.shape == (TOKENS, 64)
    first, after = (decoder.embed(i) for i in (prompts.first_ids, question_ids(export, question)))
    return np.concatenate([first, seen, after])


def bundle_tokens(export: Export, question: str, seed: int) -> list[int]:
    """What the exported graphs write, greedily."""
    decoder = opened(export)
    start = sequence(export, decoder, question, seed)
    stop = export.converted.prompts.stop_ids
    return write(decoder, decoder.open(), start, stop_ids=stop, limit=LIMIT)


def torch_vision(folder: Path) -> M3DVision:
    checkpoint = Checkpoint(folder)
    tower = transformer_from(_below(checkpoint, TOWER), GRID)
    return M3DVision(tower, projector_from(_below(checkpoint, PROJECTOR), GRID, 2))


def torch_segvol(folder: Path) -> SegVol:
    checkpoint = Checkpoint(folder)
    return segvol_from(_below(checkpoint, SEGVOL), _below(checkpoint, SEG_PROJECTOR), GRID)


@dataclass(frozen=True)
class Said:
    """What transformers' language model writes behind the torch modules.

    `states` (ids, width) are those from which each token was chosen.
    """

    ids: list[int]
    states: np.ndarray


def reference(checkpoint: Path, tokenizer: Path, question: str, volume: np.ndarray) -> Said:
    model, vision = text_reference(checkpoint), torch_vision(checkpoint)
    asked = Tokenizer.from_file(str(tokenizer)).encode(question, add_special_tokens=False).ids
    with torch.inference_mode():
        embeddings = model.get_input_embeddings()(torch.tensor([[1] + [0] * TOKENS + asked]))
        embeddings[:, 1 : 1 + TOKENS] = vision(torch.tensor(volume))
        written = model.generate(
            inputs_embeds=embeddings,
            do_sample=False,
            max_new_tokens=LIMIT,
            eos_token_id=2,
            pad_token_id=0,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    ids = written.sequences[0].tolist()
    states = [step[-1][0, -1] for step in written.hidden_states]
    return Said(ids[: ids.index(2)] if 2 in ids else ids, torch.stack(states).numpy())


def test_the_bundle_writes_what_torch_writes(export: Export) -> None:
    written = set()
    for seed, question in enumerate(QUESTIONS):
        tokenizer = export.out / "tokenizer.json"
        expected = reference(export.checkpoint, tokenizer, question, volume(seed)).ids
        assert bundle_tokens(export, question, seed) == expected
        written.add(tuple(expected))
    # Had the picture or the question no weight, this would prove nothing.
    assert len(written) == len(QUESTIONS)
    assert max(len(set(tokens)) for tokens in written) > 4


def test_noise_in_place_of_the_image_changes_what_is_said(export: Export) -> None:
    decoder = opened(export)
    logits = []
    for seed in (0, 7):
        start = sequence(export, decoder, QUESTIONS[0], seed)
        logits.append(decoder.read(decoder.open(), start).logits[0])
    assert np.abs(logits[0] - logits[1]).max() > 0.1


def test_masks_are_those_of_torch_one_by_one_or_together(phi3: Export) -> None:
    segvol = torch_segvol(phi3.checkpoint)
    prompts = np.random.default_rng(5).normal(size=(3, 64)).astype(np.float32)
    with torch.inference_mode():
        expected = segvol(torch.tensor(volume(1)), torch.tensor(prompts)).numpy()
    graph = Graph(phi3.out / "seg.onnx", SETTINGS)
    together = graph({"volume": volume(1), "prompt": prompts})["mask_logits"]
    assert together.shape == (3, *SIZE)
    assert expected.std() > 0.1
    np.testing.assert_allclose(together, expected, atol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    for index in range(3):
        alone = graph({"volume": volume(1), "prompt": prompts[index : index + 1]})["mask_logits"]
        np.testing.assert_allclose(alone[0], together[index], atol=1e-4)


def test_evidence_is_what_segvol_draws_from_the_states_that_chose_seg(phi3: Export) -> None:
    scan, (embed, decoder, vision, seg) = ct(), graphs(phi3)
    converted = phi3.converted
    prompts = converted.prompts.model_copy(update={"max_new_tokens": LIMIT})
    described = manifest(MASS).model_copy(
        update={"prompts": prompts, "splice": converted.splice, "decoder": converted.decoder}
    )
    bundle = Bundle(phi3.out, described, "")
    language = Language(bundle, Decoder(embed, decoder, converted.decoder))
    reading = M3dReader(converted.preprocessing, vision, seg, language).read(scan, ())
    np.testing.assert_array_equal(reading.model_input.values[None, None], body())
    said = reference(
        phi3.checkpoint,
        phi3.out / "tokenizer.json",
        SEGMENT.replace(QUESTION, MASS.question),
        body(),
    )
    places = [index for index, token in enumerate(said.ids) if token == prompts.segment_id]
    assert places
    prompt = torch.tensor(said.states[places].mean(axis=0, keepdims=True))
    with torch.inference_mode():
        logits = torch_segvol(phi3.checkpoint)(torch.tensor(body()), prompt)[0].numpy()
    # On a volume that is the model's own grid, what is drawn needs no resampling.
    expected = np.abs(logits) > 1e-3
    assert (logits > 0).any()
    assert not (logits > 0).all()
    found = reading.evidence(MASS)
    np.testing.assert_array_equal(found.mask[expected], (logits > 0)[expected])


def test_the_manifests_parts_follow_the_published_code(export: Export) -> None:
    converted, prompts = export.converted, export.converted.prompts
    assert recognises(Checkpoint(export.checkpoint).config)
    assert (converted.family, converted.splice.kind) == ("m3d_lamed", "fixed_offset")
    assert converted.splice.tokens == TOKENS
    assert converted.preprocessing.size == SIZE
    assert (prompts.first_ids, prompts.stop_ids) == ((1,), (2,))
    assert converted.parity_error < 1e-4


def test_outlines_are_asked_for_only_of_a_model_that_draws_them(
    phi3: Export, llama: Export
) -> None:
    prompts = phi3.converted.prompts
    tokenizer = Tokenizer.from_file(str(phi3.out / "tokenizer.json"))
    assert tokenizer.id_to_token(prompts.segment_id) == "[SEG]"
    assert tokenizer.encode("A [SEG].", add_special_tokens=False).ids.count(prompts.segment_id) == 1
    assert llama.converted.prompts.segment_id is llama.converted.prompts.segment is None
    assert not (llama.out / "seg.onnx").exists()


@pytest.mark.parametrize(
    ("precision", "bytes_each", "outlines"),
    [("fp16", 2, True), ("bf16", 2, False), ("int8", 4, False), ("int4", 4, False)],
)
def test_every_precision_is_exported(
    tmp_path: Path, precision: str, bytes_each: int, outlines: bool
) -> None:
    export = exported(tmp_path, "lamed_phi3", precision, dtype=torch.bfloat16, outlines=outlines)
    files = {"vision.onnx", "embed.onnx", f"decoder.{precision}.onnx", "tokenizer.json"}
    files |= {"seg.onnx"} if outlines else set()
    assert {path.name for path in export.out.iterdir()} == files
    assert len(bundle_tokens(export, QUESTIONS[0], 1)) > 0
    vision = torch_vision(export.checkpoint)
    with torch.inference_mode():
        expected = vision(torch.tensor(volume(3)))[0].numpy()
    np.testing.assert_allclose(image_tokens(export, 3), expected, atol=1e-4)
    parameters = sum(tensor.numel() for tensor in vision.parameters())
    size = (export.out / "vision.onnx").stat().st_size
    assert bytes_each * parameters < size < (bytes_each + 0.5) * parameters
