"""Small random checkpoints of M3D-LaMed, with tensor names and settings as published."""

import json
import math
from pathlib import Path

import torch
from llava_checkpoints import sentencepiece_model
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

ADDED = ("<im_patch>", "<bx_start>", "<bx_end>", "[SEG]")
KINDS = {
    "lamed_phi3": ("phi3", "LamedPhi3ForCausalLM", {"num_key_value_heads": 4}),
    "lamed_llama": ("llama", "LamedLlamaForCausalLM", {"num_key_value_heads": 4}),
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SIZE, PATCH = (16, 64, 64), (4, 16, 16)
WIDTH, INNER, LAYERS = 128, 160, 2
PUBLISHED = {
    "vision_tower": "vit3d",
    "image_channel": 1,
    "image_size": list(SIZE),
    "patch_size": list(PATCH),
    "vision_select_layer": -1,
    "vision_select_feature": "patch",
    "mm_hidden_size": WIDTH,
    "mm_projector_type": "spp",
    "proj_layer_type": "mlp",
    "proj_layer_num": 2,
    "proj_pooling_type": "spatial",
    "proj_pooling_size": 2,
    "segmentation_module": "segvol",
    "transformers_version": "4.39.1",
}


def m3d_checkpoint(
    folder: Path,
    model_type: str,
    *,
    dtype: torch.dtype = torch.float32,
    seg_like: int | None = None,
    outlines: bool = True,
) -> Path:
    """`folder` with config, weights (Phi-3 in safetensors, Llama in .bin) and tokenizer.

    `seg_like`: [SEG] is said wherever this token would be, so that a random model says it at all.
    `outlines`: with SegVol.
    """
    folder.mkdir(parents=True)
    sentencepiece_model(folder)
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()
    added = {token: pieces + number for number, token in enumerate(ADDED)}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    kind, architecture, own = KINDS[model_type]
    settings = TEXT | own | {"vocab_size": pieces + len(ADDED)}
    config = settings | PUBLISHED | {"model_type": model_type, "architectures": [architecture]}
    config |= {"seg_token_id": added["[SEG]"]} if outlines else {"segmentation_module": None}
    config["auto_map"] = {"AutoModelForCausalLM": f"modeling_{model_type}.{architecture}"}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    text = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, initializer_range=0.15, **settings)
    )
    weights = {name: tensor.detach().clone() for name, tensor in text.state_dict().items()}
    if seg_like is not None:
        weights["lm_head.weight"][added["[SEG]"]] = 1.1 * weights["lm_head.weight"][seg_like]
    weights |= vision_weights() | (segvol_weights() if outlines else {})
    stored = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    if model_type == "lamed_llama":
        torch.save(stored, folder / "pytorch_model.bin")
    else:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def text_reference(folder: Path) -> PreTrainedModel:
    """Transformers' own language model with the checkpoint's weights."""
    config = json.loads((folder / "config.json").read_text())
    kind, _, own = KINDS[config["model_type"]]
    settings = TEXT | own | {"vocab_size": config["vocab_size"]}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()
    model.load_state_dict(
        {n: t.float() for n, t in stored_weights(folder).items() if n in model.state_dict()}
    )
    return model


def stored_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint."""
    if (folder / "pytorch_model.bin").exists():
        return torch.load(folder / "pytorch_model.bin", weights_only=True)
    return load_file(folder / "model.safetensors")


def vision_weights() -> dict[str, Tensor]:
    torch.manual_seed(2)
    text_width = TEXT["hidden_size"]
    sizes = transformer_sizes(class_token=True)
    projector = {**linear("0", WIDTH, text_width), **linear("2", text_width, text_width)}
    return {
        **{f"model.vision_tower.vision_tower.{n}": values(n, s) for n, s in sizes.items()},
        **{f"model.mm_projector.projector.{n}": values(n, s) for n, s in projector.items()},
    }


def segvol_weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    text_width = TEXT["hidden_size"]
    sizes = {f"image_encoder.{n}": s for n, s in transformer_sizes(class_token=False).items()}
    sizes |= {f"prompt_encoder.{n}": s for n, s in prompt_encoder_sizes().items()}
    sizes |= {f"mask_decoder.{n}": s for n, s in mask_decoder_sizes().items()}
    projector = {**linear("0", text_width, text_width), **linear("2", text_width, WIDTH)}
    return {
        **{f"model.seg_module.{n}": values(n, s) for n, s in sizes.items()},
        **{f"model.seg_projector.{n}": values(n, s) for n, s in projector.items()},
    }


Sizes = dict[str, tuple[int, ...]]


def transformer_sizes(*, class_token: bool) -> Sizes:
    patches = math.prod(SIZE) // math.prod(PATCH)
    sizes: Sizes = {"patch_embedding.position_embeddings": (1, patches, WIDTH)}
    sizes |= linear("patch_embedding.patch_embeddings.1", math.prod(PATCH), WIDTH)
    if class_token:
        sizes["cls_token"] = (1, 1, WIDTH)
    for block in (f"blocks.{index}" for index in range(LAYERS)):
        sizes |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        # Newer MONAI stores this one too, and never uses it.
        sizes |= norm(f"{block}.norm_cross_attn")
        sizes[f"{block}.attn.qkv.weight"] = (3 * WIDTH, WIDTH)
        sizes |= linear(f"{block}.attn.out_proj", WIDTH, WIDTH)
        sizes |= linear(f"{block}.mlp.linear1", WIDTH, INNER)
        sizes |= linear(f"{block}.mlp.linear2", INNER, WIDTH)
    return sizes | norm("norm")


def prompt_encoder_sizes() -> Sizes:
    sizes: Sizes = {
        "pe_layer.positional_encoding_gaussian_matrix": (3, WIDTH // 2),
        "not_a_point_embed.weight": (1, WIDTH),
        "no_mask_embed.weight": (1, WIDTH),
        "mask_downscaling.0.weight": (4, 1, 2, 2),
        "mask_downscaling.0.bias": (4,),
    }
    return sizes | {f"point_embeddings.{index}.weight": (1, WIDTH) for index in range(4)}


def mask_decoder_sizes() -> Sizes:
    quarter, eighth = WIDTH // 4, WIDTH // 8
    doubled = [2 * length // step for length, step in zip(SIZE, PATCH, strict=True)]
    sizes: Sizes = {"iou_token.weight": (1, WIDTH), "mask_tokens.weight": (4, WIDTH)}
    for layer in (f"transformer.layers.{index}" for index in range(2)):
        sizes |= attention(f"{layer}.self_attn", WIDTH)
        sizes |= attention(f"{layer}.cross_attn_token_to_image", WIDTH // 2)
        sizes |= attention(f"{layer}.cross_attn_image_to_token", WIDTH // 2)
        sizes |= linear(f"{layer}.mlp.lin1", WIDTH, 96) | linear(f"{layer}.mlp.lin2", 96, WIDTH)
        for number in range(1, 5):
            sizes |= norm(f"{layer}.norm{number}")
    sizes |= attention("transformer.final_attn_token_to_image", WIDTH // 2)
    sizes |= norm("transformer.norm_final_attn")
    sizes |= {
        "output_upscaling.0.weight": (WIDTH, quarter, 2, 2, 2),
        "output_upscaling.0.bias": (quarter,),
        "output_upscaling.1.weight": (quarter, *doubled),
        "output_upscaling.1.bias": (quarter, *doubled),
        "output_upscaling.3.weight": (quarter, eighth, 2, 2, 2),
        "output_upscaling.3.bias": (eighth,),
    }
    for head in (f"output_hypernetworks_mlps.{index}" for index in range(4)):
        sizes |= linear(f"{head}.layers.0", WIDTH, WIDTH) | linear(f"{head}.layers.1", WIDTH, WIDTH)
        sizes |= linear(f"{head}.layers.2", WIDTH, eighth)
    sizes |= linear("iou_prediction_head.layers.0", WIDTH, 256)
    sizes |= linear("iou_prediction_head.layers.1", 256, 256)
    sizes |= linear("iou_prediction_head.layers.2", 256, 4)
    return sizes | linear("txt_align_upscaled_embedding", WIDTH, eighth)


def attention(name: str, inner: int) -> Sizes:
    sizes = linear(f"{name}.q_proj", WIDTH, inner) | linear(f"{name}.k_proj", WIDTH, inner)
    return sizes | linear(f"{name}.v_proj", WIDTH, inner) | linear(f"{name}.out_proj", inner, WIDTH)


def linear(name: str, width: int, out: int) -> Sizes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def norm(name: str) -> Sizes:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def values(name: str, size: tuple[int, ...]) -> Tensor:
    """Random numbers of a size that lets every tensor tell on the result."""
    if name.endswith("weight") and ("norm" in name or "upscaling.1." in name):
        return 1 + 0.2 * torch.randn(size)
    if "gaussian" in name:
        return torch.randn(size)
    # Patches are of brightness 0..1: only stronger weights tell one volume from another.
    scale = 0.5 if "patch_embeddings" in name or len(size) == 1 else 1.0
    return scale * torch.randn(size) / math.sqrt(size[-1] if len(size) > 1 else 4)
