import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime_genai")
from llava_checkpoints import TOKENS, llava_checkpoint  # noqa: E402
from llava_exports import LIMIT, Export, exported, parts, pictures, reference_tokens  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from inference.decoder import Decoder  # noqa: E402
from inference.export import llava  # noqa: E402
from inference.export.answers import NO, YES, yes_and_no  # noqa: E402
from inference.export.checkpoint import Checkpoint  # noqa: E402
from inference.export.graphs import ExportError  # noqa: E402
from inference.export.llava import convert, recognises  # noqa: E402
from inference.export.llava_vision import llava_vision  # noqa: E402
from inference.generate import write  # noqa: E402
from inference.providers import SessionSettings  # noqa: E402
from inference.runtime import Graph  # noqa: E402
from tests.inference.traces import traces_in  # noqa: E402

SETTINGS = SessionSettings(threads=1)
QUESTIONS = ("Is there a haemorrhage?", "Describe the images.", "是否有出血？")


def bundle_tokens(export: Export, question: str, pixels: np.ndarray) -> list[int]:
    """What the exported graphs write, greedily."""
    shape, prompts = export.converted.decoder, export.converted.prompts
    embed, graph, vision = (
        Graph(export.out / name, SETTINGS)
        for name in ("embed.onnx", f"decoder.{shape.precision}.onnx", "vision.onnx")
    )
    decoder = Decoder(embed, graph, shape)
    seen = vision({"pixels": pixels})["image_tokens"]
    assert seen.shape == (len(pixels), TOKENS, shape.width)
    first, *rest = (decoder.embed(ids) for ids in parts(export, question, len(pixels)))
    pieces = [first]
    for picture, text in zip(seen, rest, strict=True):
        pieces += [picture, text]
    return write(
        decoder,
        decoder.open(),
        np.concatenate(pieces),
        stop_ids=prompts.stop_ids,
        limit=LIMIT,
        repetition_penalty=prompts.repetition_penalty,
    )


@pytest.mark.parametrize("count", [1, 2])
def test_the_bundle_writes_what_transformers_writes(llava_export: Export, count: int) -> None:
    written = []
    pixels = pictures(count)
    for question in QUESTIONS:
        expected = reference_tokens(llava_export, question, pixels)
        assert bundle_tokens(llava_export, question, pixels) == expected
        written.append(tuple(expected))
    # Had the pictures or the question no weight, this would prove nothing.
    assert len(set(written)) > 1
    assert max(len(set(tokens)) for tokens in written) > 4


def test_no_graph_says_on_which_machine_it_was_made(llava_export: Export) -> None:
    graphs = [*llava_export.out.glob("*.onnx")]
    assert len(graphs) == 3
    assert not {path.name: found for path in graphs if (found := traces_in(path))}


def test_the_manifests_parts_follow_the_published_code(llava_export: Export) -> None:
    converted, prompts = llava_export.converted, llava_export.converted.prompts
    assert recognises(Checkpoint(llava_export.checkpoint).config)
    assert converted.splice.tokens == TOKENS
    assert converted.parity_error < 1e-3
    first, after = parts(llava_export, "Q", 1)
    tokenizer = Tokenizer.from_file(str(llava_export.out / "tokenizer.json"))
    said = tokenizer.decode(first) + "|" + tokenizer.decode(after, skip_special_tokens=False)
    if converted.decoder.kv_heads == 4:
        assert said.startswith("A chat between a curious human")
        assert said.endswith("USER: |\nQ ASSISTANT:")
        assert (first[0], prompts.stop_ids) == (1, (2,))
    elif prompts.repetition_penalty == 1.2:
        assert said == "<|user|>\n|\nQ\n<|assistant|>\n"
        assert (prompts.first_ids, prompts.stop_ids) == ((), (1, 2))
    else:
        assert said == "[INST] |\nQ [/INST]"
        assert (first[0], prompts.stop_ids) == (1, (2,))


def test_tokens_for_yes_and_no_are_whole_words(llava_export: Export) -> None:
    tokenizer = Tokenizer.from_file(str(llava_export.out / "tokenizer.json"))
    yes, no = yes_and_no(tokenizer)
    assert {tokenizer.decode([number]).strip() for number in yes} == {"Yes", "yes", "是"}
    assert {tokenizer.decode([number]).strip() for number in no} == {"No", "no", "否"}
    for word in (*YES[:2], *NO[:2]):
        ids = tokenizer.encode(word, add_special_tokens=False).ids
        assert ids[0] in yes + no


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
def test_every_precision_is_exported_within_its_tolerance(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The image encoder is in fp32 in every one of them.
    monkeypatch.setattr(llava, "export_vision", lambda *_: 0.0)
    export = exported(tmp_path, "llava_mistral", precision, dtype=torch.bfloat16)
    assert {path.name for path in export.out.iterdir()} == {
        "embed.onnx",
        f"decoder.{precision}.onnx",
        "tokenizer.json",
    }
    assert export.converted.decoder.precision == precision
    # What is over its precision's tolerance, the export of the decoder has refused.
    assert export.converted.parity_error > 0


def test_a_vision_tower_of_its_own_has_the_same_weights(tmp_path: Path) -> None:
    tower = tmp_path / "clip"
    apart = llava_checkpoint(tmp_path / "apart", "llava_mistral", tower=tower)
    whole = llava_checkpoint(tmp_path / "whole", "llava_mistral")
    found = llava_vision(Checkpoint(apart, tower)).state_dict()
    expected = llava_vision(Checkpoint(whole)).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ExportError, match="--vision-tower"):
        llava_vision(Checkpoint(apart))
    # As HuatuoGPT-Vision names it: a folder within the checkpoint.
    config = json.loads((apart / "config.json").read_text()) | {"mm_vision_tower": "./vit/clip"}
    (apart / "config.json").write_text(json.dumps(config))
    (apart / "vit").mkdir()
    tower.rename(apart / "vit" / "clip")
    assert llava_vision(Checkpoint(apart)).state_dict().keys() == expected.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"mm_vision_tower": "laion/CLIP-ViT-H"}, "settings of its image encoder"),
        ({"max_position_embeddings": 1024}, "too few"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, changes, message: str) -> None:
    folder = llava_checkpoint(tmp_path / "checkpoint", "llava_mistral")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=message):
        convert(Checkpoint(folder), tmp_path, "fp32", "cpu", lambda _: None)


def test_transformers_own_layout_is_another_family() -> None:
    assert not recognises({"model_type": "llava", "vision_config": {}})
    assert not recognises({"model_type": "lamed_phi3", "mm_vision_tower": "vit3d"})
