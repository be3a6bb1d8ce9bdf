"""The image half of the LLaVA shape: a CLIP encoder cut before its last layers, and a projector."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import CLIPVisionConfig, CLIPVisionModel

from inference.export.checkpoint import Checkpoint
from inference.export.graphs import MAX_PARITY_ERROR, ExportError, export_graph, parity

INSIDE = "model.vision_tower.vision_tower."
PROJECTOR = "model.mm_projector."
CLIP_HEAD_SIZE = 64
"""Of every CLIP that OpenAI published; a shape does not tell it."""

UNSAID = {"mm_projector_type": "linear", "mm_vision_select_feature": "patch"}
"""What the published code takes where config.json is silent."""

EXPECTED = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}


class LlavaVision(nn.Module):
    """`pixels` (pictures, 3, size, size), normalised -> `image_tokens` (pictures, tokens, W)."""

    def __init__(self, encoder: CLIPVisionModel, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def forward(self, pixels: Tensor) -> Tensor:
        """The patches' states, without the class token, in the decoder's width."""
        states = self.encoder(pixels).last_hidden_state
        projected: Tensor = self.projector(states[:, 1:])
        return projected


def llava_vision(checkpoint: Checkpoint) -> LlavaVision:
    """The module with the checkpoint's weights in fp32; raises ExportError."""
    for key, value in EXPECTED.items():
        if (found := (UNSAID | checkpoint.config)[key]) != value:
            raise ExportError(f"{checkpoint.folder}: {key} is {found!r}, only {value!r} is known.")
    weights, prefix = _tower_weights(checkpoint)
    layer = checkpoint.config.get("mm_vision_select_layer", -2)
    config = _clip_config(checkpoint, weights, prefix)
    # States are counted from the embeddings on: the last, -1, is what all layers have done.
    config.num_hidden_layers = layer % (config.num_hidden_layers + 1)
    encoder = CLIPVisionModel(config)
    encoder.post_layernorm = nn.Identity()  # of the class token alone, which is not used
    encoder.load_state_dict(
        weights.tensors({name: prefix + name for name in encoder.state_dict()}), assign=True
    )
    projector = nn.Sequential(
        nn.Linear(config.hidden_size, checkpoint.config["hidden_size"]),
        nn.GELU(),
        nn.Linear(checkpoint.config["hidden_size"], checkpoint.config["hidden_size"]),
    )
    names = {name: PROJECTOR + name for name in projector.state_dict()}
    projector.load_state_dict(checkpoint.tensors(names), assign=True)
    module = LlavaVision(encoder, projector)
    module.eval()
    return module


def export_vision(module: LlavaVision, path: Path, tell: Callable[[str], None]) -> float:
    """Write `vision.onnx` for any number of pictures; returns its parity error."""
    size = module.encoder.config.image_size
    tell("Writing the image encoder")
    torch.manual_seed(0)
    export_graph(
        module,
        {"pixels": torch.randn(2, 3, size, size)},
        ("image_tokens",),
        {"pixels": {0: Dim("pictures", min=1)}},
        path,
    )
    tell("Comparing the image encoder with torch")
    error = max(parity(module, {"pixels": torch.randn(n, 3, size, size)}, path) for n in (1, 3))
    if error > MAX_PARITY_ERROR:
        raise ExportError(
            f"{path.name} differs from torch by {error:.2g}. Report this as a defect."
        )
    return error


def tower_folder(checkpoint: Checkpoint) -> Path | None:
    """The encoder's own folder: as given, or inside the checkpoint, or None."""
    if checkpoint.vision_tower is not None:
        return checkpoint.vision_tower
    beside = checkpoint.folder / str(checkpoint.config["mm_vision_tower"])
    return beside if (beside / "config.json").is_file() else None


def _tower_weights(checkpoint: Checkpoint) -> tuple[Checkpoint, str]:
    """Where the encoder's weights are, and what stands before their names."""
    names = checkpoint.names()
    if any(name.startswith(INSIDE) for name in names):
        within = INSIDE + "vision_model."
        return checkpoint, within if any(name.startswith(within) for name in names) else INSIDE
    folder = tower_folder(checkpoint)
    if folder is None:
        raise ExportError(
            f"{checkpoint.folder} does not hold its image encoder, "
            f"{checkpoint.config['mm_vision_tower']}. Download that too and name its folder with "
            "--vision-tower."
        )
    tower = Checkpoint(folder)
    inside = any(name.startswith("vision_model.") for name in tower.names())
    return tower, "vision_model." if inside else ""


def _clip_config(checkpoint: Checkpoint, weights: Checkpoint, prefix: str) -> CLIPVisionConfig:
    folder = tower_folder(checkpoint)
    if folder is not None:
        return CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
    name = str(checkpoint.config["mm_vision_tower"])
    if not name.startswith("openai/clip-vit"):
        raise ExportError(
            f"{checkpoint.folder}: the settings of its image encoder {name} are not known. "
            "Download it and name its folder with --vision-tower."
        )
    width, _, patch, _ = weights.tensor(f"{prefix}embeddings.patch_embedding.weight").shape
    places = len(weights.tensor(f"{prefix}embeddings.position_embedding.weight")) - 1
    layers = {n.split(".")[2] for n in _under(weights, prefix) if n.startswith("encoder.layers.")}
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(weights.tensor(f"{prefix}encoder.layers.0.mlp.fc1.bias")),
        num_hidden_layers=len(layers),
        num_attention_heads=width // CLIP_HEAD_SIZE,
        image_size=round(places**0.5) * patch,
        patch_size=patch,
    )


def _under(weights: Checkpoint, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in weights.names() if name.startswith(prefix)]
