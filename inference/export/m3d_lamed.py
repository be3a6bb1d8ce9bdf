"""M3D-LaMed (Phi-3 and Llama 2) in its published layout: the graphs and what is asked of them.

A 3D vision transformer gives 256 tokens behind the first of the sequence; the state from which the
decoder chooses [SEG] becomes an outline by SegVol.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.export import Dim

from inference.assessment import Text
from inference.export.answers import end_ids, yes_and_no
from inference.export.checkpoint import Checkpoint
from inference.export.converted import Converted
from inference.export.decoder import export_decoder
from inference.export.graphs import MAX_PARITY_ERROR, ExportError, export_graph, parity
from inference.export.json_file import read_settings
from inference.export.m3d_modules import M3DVision, VolumeGrid, projector_from, transformer_from
from inference.export.segvol_modules import segvol_from
from inference.export.storage import STORED_TYPES, store_weights
from inference.manifest import QUESTION, ForegroundVolume, Precision, Prompts, Splice

FAMILY = "m3d_lamed"
DECODERS = {
    "lamed_phi3": ("phi3", "Phi3ForCausalLM"),
    "lamed_llama": ("llama", "LlamaForCausalLM"),
}
"""Published model type -> the language model inside."""

EXPECTED = {
    "image_channel": 1,
    "vision_select_layer": -1,
    "vision_select_feature": "patch",
    "mm_projector_type": "spp",
    "proj_layer_type": "mlp",
    "proj_layer_num": 2,
    "proj_pooling_type": "spatial",
}
"""As both published models are configured; anything else is another model."""

TOWER = "model.vision_tower.vision_tower."
PROJECTOR = "model.mm_projector."
SEGVOL, SEG_PROJECTOR = "model.seg_module.", "model.seg_projector."
NOT_TEXT = ("vision_", "image_", "patch_size", "mm_", "proj_", "seg", "img_", "auto_map", "_name")
"""Beginnings of settings that are not the language model's."""

SEG_TOKEN = "[SEG]"  # noqa: S105 - a word, not a secret
SOFT_TISSUE_HU = (-160.0, 240.0)
MIN_SLICES = 8
"""As many as the transformer has patches from foot to head."""

TEXT_ROOM = 1024
"""Positions kept for the questions: a prompt, a batch of packed ones."""

MAX_NEW_TOKENS = 256
"""As the published demonstration allows."""

NARRATIVE = Text(
    en="Please generate a medical report based on this image.",
    zh="请根据该图像生成影像诊断报告。",
)
SEGMENT = f"{QUESTION} Please output segmentation mask and answer."


def recognises(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint with this config.json is of the family."""
    return config.get("model_type") in DECODERS and "vit3d" in str(config.get("vision_tower"))


def convert(
    checkpoint: Checkpoint,
    out: Path,
    precision: Precision,
    device: Literal["cpu", "cuda"],
    tell: Callable[[str], None],
) -> Converted:
    """Write the graphs and the tokenizer into the folder `out`; raises ExportError."""
    for key, value in EXPECTED.items():
        if (found := checkpoint.config.get(key)) != value:
            raise ExportError(f"{checkpoint.folder}: {key} is {found!r}, only {value!r} is known.")
    grid = VolumeGrid(_triple(checkpoint, "image_size"), _triple(checkpoint, "patch_size"))
    tokenizer = Tokenizer.from_file(str(checkpoint.write_tokenizer(out)))
    prompts = _prompts(checkpoint, tokenizer)
    tokens, error = _export_volume_graphs(checkpoint, grid, precision, out, tell)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        text_model = Path(scratch) / checkpoint.folder.name
        checkpoint.write_text_model(_text_names(checkpoint), _text_config(checkpoint), text_model)
        length = tokens + TEXT_ROOM + MAX_NEW_TOKENS
        decoder = export_decoder(
            text_model, out, precision, device=device, max_length=length, tell=tell
        )
    return Converted(
        family=FAMILY,
        preprocessing=ForegroundVolume(
            modalities=("CT",),
            window=SOFT_TISSUE_HU,
            size=grid.size,
            interpolation="trilinear",
            min_slices=MIN_SLICES,
        ),
        splice=Splice(kind="fixed_offset", tokens=tokens),
        prompts=prompts,
        decoder=decoder.shape,
        parity_error=max(error, decoder.parity_error),
        tools=decoder.tools,
    )


def _export_volume_graphs(
    checkpoint: Checkpoint,
    grid: VolumeGrid,
    precision: Precision,
    out: Path,
    tell: Callable[[str], None],
) -> tuple[int, float]:
    """Write `vision.onnx`, and `seg.onnx` where there is SegVol; tokens a volume, parity error."""
    pooling = checkpoint.config["proj_pooling_size"]
    projector = projector_from(_below(checkpoint, PROJECTOR), grid, pooling)
    vision = M3DVision(transformer_from(_below(checkpoint, TOWER), grid), projector)
    segvol = None
    if _has_segvol(checkpoint):
        segvol = segvol_from(_below(checkpoint, SEGVOL), _below(checkpoint, SEG_PROJECTOR), grid)
    torch.manual_seed(0)
    tell("Writing the image encoder")
    inputs = {"volume": torch.rand(2, 1, *grid.size)}
    error = _export(vision, inputs, "image_tokens", precision, out / "vision.onnx")
    if segvol is not None:
        tell("Writing the mask decoder")
        prompt = torch.randn(2, checkpoint.config["hidden_size"])
        inputs = {"volume": torch.rand(1, 1, *grid.size), "prompt": prompt}
        seg_error = _export(segvol, inputs, "mask_logits", precision, out / "seg.onnx")
        error = max(error, seg_error)
    return projector.tokens, error


def _export(
    module: nn.Module, inputs: dict[str, Tensor], output: str, precision: Precision, path: Path
) -> float:
    """Write the graph, its weights in 16 bits if asked; parity on one and on two of a batch.

    Inputs of which there are two may come in any number.
    """
    module.eval()
    narrow = STORED_TYPES.get(precision)
    if narrow is not None:
        # What is compared are the weights as they are stored.
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.data = parameter.data.to(narrow).float()
    dynamic = {name: {0: Dim("batch")} for name, tensor in inputs.items() if len(tensor) == 2}
    export_graph(module, inputs, (output,), dynamic, path)
    if narrow is not None:
        store_weights(path, precision)
    one = {name: tensor[:1] for name, tensor in inputs.items()}
    error = max(parity(module, batch, path) for batch in (one, inputs))
    if error > MAX_PARITY_ERROR:
        raise ExportError(
            f"{path.name} differs from torch by {error:.2g}. Report this as a defect."
        )
    return error


def _prompts(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Prompts:
    settings = read_settings(checkpoint.folder / "tokenizer_config.json")
    if not settings.get("add_bos_token", True):
        raise ExportError(
            f"{checkpoint.folder}: tokenizer_config.json has add_bos_token false, so that the "
            "image would take the place of the question's first word. Take the published file."
        )
    yes, no = yes_and_no(tokenizer)
    segment_id = _segment_id(checkpoint, tokenizer)
    return Prompts(
        # The tokenizer puts a space before the question, as it had in training.
        template="{image}{question}",
        narrative=NARRATIVE,
        segment=None if segment_id is None else SEGMENT,
        first_ids=(checkpoint.config["bos_token_id"],),
        stop_ids=_stop_ids(checkpoint),
        yes_ids=yes,
        no_ids=no,
        segment_id=segment_id,
        max_new_tokens=MAX_NEW_TOKENS,
    )


def _segment_id(checkpoint: Checkpoint, tokenizer: Tokenizer) -> int | None:
    """Id of [SEG]; None where the checkpoint has no mask decoder."""
    if not _has_segvol(checkpoint):
        return None
    stated, found = checkpoint.config.get("seg_token_id"), tokenizer.token_to_id(SEG_TOKEN)
    if found is None or found != stated:
        raise ExportError(
            f"{checkpoint.folder}: config.json says that {SEG_TOKEN} is token {stated}, the "
            f"tokenizer makes it {found}. One of them is of another model."
        )
    return found


def _has_segvol(checkpoint: Checkpoint) -> bool:
    module = checkpoint.config.get("segmentation_module")
    if module not in {None, "segvol"}:
        raise ExportError(f"{checkpoint.folder}: segmentation_module {module!r} is not known.")
    return module is not None


def _stop_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    generation = read_settings(checkpoint.folder / "generation_config.json")
    found = end_ids(checkpoint.config, generation)
    if not found:
        raise ExportError(f"{checkpoint.folder}: no eos_token_id says what ends an answer.")
    return tuple(sorted(found))


def _text_config(checkpoint: Checkpoint) -> dict[str, Any]:
    kind, name = DECODERS[checkpoint.config["model_type"]]
    kept = {k: v for k, v in checkpoint.config.items() if not k.startswith(NOT_TEXT)}
    return kept | {"model_type": kind, "architectures": [name]}


def _text_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Names of the language model's tensors: those of its own class, as published."""
    other = (TOWER, PROJECTOR, SEGVOL, SEG_PROJECTOR)
    return {
        name: name
        for name in sorted(checkpoint.names())
        if not name.startswith(other) and not name.endswith("rotary_emb.inv_freq")
    }


def _below(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """All tensors whose names begin with `prefix`, by the rest of their names."""
    inside = sorted(name for name in checkpoint.names() if name.startswith(prefix))
    if not inside:
        raise ExportError(
            f"{checkpoint.folder}: there is no tensor {prefix}*. This is not the published layout "
            "of M3D-LaMed, or a part of it is missing."
        )
    return checkpoint.tensors({name.removeprefix(prefix): name for name in inside})


def _triple(checkpoint: Checkpoint, key: str) -> tuple[int, int, int]:
    sizes = checkpoint.config.get(key)
    if not isinstance(sizes, list) or len(sizes) != 3:
        raise ExportError(f"{checkpoint.folder}: {key} is {sizes!r}, not three sizes.")
    a, b, c = (int(size) for size in sizes)
    return a, b, c
