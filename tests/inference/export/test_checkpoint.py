import io
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import sentencepiece  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from inference.export import checkpoint as module  # noqa: E402
from inference.export.checkpoint import Checkpoint  # noqa: E402
from inference.export.graphs import ExportError  # noqa: E402

TENSORS = {
    "model.a.weight": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    "model.b.weight": torch.arange(4, dtype=torch.bfloat16),
    "lm_head.weight": torch.arange(8, dtype=torch.float32).reshape(4, 2).T,
}
TEXT = "Is there a haemorrhage in the head? Yes, no. 右侧基底节区见高密度影。 The lung is clear.\n"


def written(folder: Path, layout: str) -> Path:
    """The tensors in one published layout, in two shards or in one file."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llava_mistral"}')
    kind, count = layout.split("-")
    names = list(TENSORS)
    suffix, stem = ("safetensors", "model") if kind == "safetensors" else ("bin", "pytorch_model")
    parts = [names] if count == "one" else [names[:2], names[2:]]
    files = {}
    for number, part in enumerate(parts, 1):
        tail = "" if count == "one" else f"-{number:05d}-of-{len(parts):05d}"
        name = f"{stem}{tail}.{suffix}"
        tensors = {key: TENSORS[key].contiguous() for key in part}
        if kind == "safetensors":
            save_file(tensors, folder / name)
        else:
            torch.save(tensors, folder / name)
        files |= dict.fromkeys(part, name)
    if count == "shards":
        index = {"metadata": {}, "weight_map": files}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


LAYOUTS = ["safetensors-one", "safetensors-shards", "bin-one", "bin-shards"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_gives_the_same_tensors(tmp_path: Path, layout: str) -> None:
    checkpoint = Checkpoint(written(tmp_path / "c", layout))
    assert checkpoint.names() == frozenset(TENSORS)
    for name, tensor in TENSORS.items():
        assert checkpoint.tensor(name).dtype == tensor.dtype
        assert torch.equal(checkpoint.tensor(name), tensor)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_text_model_is_written_in_shards_with_new_names(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 20)
    checkpoint = Checkpoint(written(tmp_path / "c", layout))
    names = {name.upper(): name for name in TENSORS}
    checkpoint.write_text_model(names, {"model_type": "mistral"}, tmp_path / "text")
    again = Checkpoint(tmp_path / "text")
    assert again.config == {"model_type": "mistral"}
    assert len(list((tmp_path / "text").glob("*.safetensors"))) == 2
    stored = {}
    for path in (tmp_path / "text").glob("*.safetensors"):
        stored |= load_file(path)
    assert stored.keys() == names.keys()
    for new, old in names.items():
        assert stored[new].dtype == TENSORS[old].dtype
        assert torch.equal(again.tensor(new), TENSORS[old])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"config\.json is missing"):
        Checkpoint(tmp_path)
    folder = written(tmp_path / "c", "safetensors-shards")
    with pytest.raises(ExportError, match=r"no tensor model\.c\.weight"):
        Checkpoint(folder).tensor("model.c.weight")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ExportError, match="model-00002-of-00002"):
        Checkpoint(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ExportError, match="no weights found"):
        Checkpoint(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("damage", ["truncated", "pointer"])
def test_a_damaged_file_is_named(tmp_path: Path, layout: str, damage: str) -> None:
    folder = written(tmp_path / "c", layout)
    suffix = "safetensors" if layout.startswith("safetensors") else "bin"
    for path in folder.glob(f"*.{suffix}"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-40] if damage == "truncated" else b"version https://git-lfs\n")
    with pytest.raises(ExportError, match="is not a whole file of weights"):
        Checkpoint(folder).tensor("lm_head.weight")


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    torch.save({"a": io.StringIO}, folder / "pytorch_model.bin")
    with pytest.raises(ExportError, match="is not a whole file of weights"):
        Checkpoint(folder)


def test_the_digest_follows_content_and_the_vision_tower(tmp_path: Path) -> None:
    one = written(tmp_path / "one", "safetensors-shards")
    two = written(tmp_path / "two", "safetensors-shards")
    before = Checkpoint(one).digest()
    assert before == Checkpoint(two).digest()
    assert before != Checkpoint(one, vision_tower=two).digest()
    (one / "tokenizer.json").write_text("{}")
    assert before != Checkpoint(one).digest()


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("spm") / "tokenizer"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20),
        model_prefix=str(prefix),
        vocab_size=380,
        model_type="bpe",
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.98,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def test_a_sentencepiece_model_becomes_a_tokenizer(
    tmp_path: Path, sentencepiece_model: Path
) -> None:
    folder = written(tmp_path / "c", "safetensors-one")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model.read_bytes())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    size = pieces.get_piece_size()
    (folder / "added_tokens.json").write_text(json.dumps({"<im_patch>": size}))
    tokenizer = Tokenizer.from_file(str(Checkpoint(folder).write_tokenizer(tmp_path)))
    for text in (TEXT, "  two  spaces ", "\nquestion [/INST]", "é 𝄞 未知", ""):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == pieces.encode(text)
        assert tokenizer.decode(ids) == pieces.decode(ids)
    assert tokenizer.token_to_id("<im_patch>") == size
    assert tokenizer.token_to_id("</s>") == pieces.eos_id()


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, sentencepiece_model: Path) -> None:
    folder = written(tmp_path / "c", "safetensors-one")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model.read_bytes())
    (folder / "added_tokens.json").write_text('{"<im_patch>": 32000}')
    with pytest.raises(ExportError, match="should be number 32000"):
        Checkpoint(folder).write_tokenizer(tmp_path)


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        Checkpoint(written(tmp_path / "c", "safetensors-one")).write_tokenizer(tmp_path)
