import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime_genai")
from m3d_checkpoints import m3d_checkpoint  # noqa: E402

from inference.export.checkpoint import Checkpoint  # noqa: E402
from inference.export.graphs import ExportError  # noqa: E402
from inference.export.m3d_lamed import (  # noqa: E402
    SEG_PROJECTOR,
    SEGVOL,
    TOWER,
    convert,
    recognises,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_select_layer": -2}, "vision_select_layer is -2"),
        ({"proj_pooling_type": "sequence"}, "proj_pooling_type"),
        ({"proj_pooling_size": 3}, "cannot be pooled by 3"),
        ({"image_size": [16, 64]}, "not three sizes"),
        ({"image_size": [16, 60, 64]}, "no multiple"),
        ({"image_size": [16, 64, 128]}, "not those of M3D-LaMed"),
        ({"segmentation_module": "sam"}, "'sam' is not known"),
        ({"seg_token_id": 7}, "token 7"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, changes, message: str) -> None:
    folder = m3d_checkpoint(tmp_path / "checkpoint", "lamed_llama")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=message):
        convert(Checkpoint(folder), tmp_path, "fp32", "cpu", lambda _: None)


def test_a_checkpoint_without_a_part_is_refused(tmp_path: Path) -> None:
    folder = m3d_checkpoint(tmp_path / "checkpoint", "lamed_llama")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for gone in (TOWER, SEGVOL + "mask_decoder.", SEGVOL + "prompt_encoder.", SEG_PROJECTOR):
        left = {name: tensor for name, tensor in weights.items() if not name.startswith(gone)}
        torch.save(left, folder / "pytorch_model.bin")
        with pytest.raises(ExportError, match=r"missing|incomplete"):
            convert(Checkpoint(folder), tmp_path, "fp32", "cpu", lambda _: None)


def test_a_tokenizer_that_begins_without_a_token_is_refused(tmp_path: Path) -> None:
    folder = m3d_checkpoint(tmp_path / "checkpoint", "lamed_llama")
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    with pytest.raises(ExportError, match="add_bos_token"):
        convert(Checkpoint(folder), tmp_path, "fp32", "cpu", lambda _: None)


def test_other_models_are_of_other_families() -> None:
    assert not recognises({"model_type": "llava_mistral", "mm_vision_tower": "clip"})
    assert not recognises({"model_type": "lamed_phi3", "vision_tower": "resnet"})
