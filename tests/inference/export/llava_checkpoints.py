"""Small random checkpoints of the LLaVA shape, in the layouts in which the models are published."""

import json
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

VOCABULARY = 420
PLACEHOLDER = 0
"""Unknown, or padding: no text has it."""

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
CLIP = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
TOKENS = (CLIP["image_size"] // CLIP["patch_size"]) ** 2
PUBLISHED = {
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_hidden_size": 128,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "pad",
    "image_grid_pinpoints": None,
    "tune_mm_mlp_adapter": False,
    "freeze_mm_mlp_adapter": False,
    "use_mm_proj": True,
    "use_cache": True,
    "tokenizer_padding_side": "right",
    "tokenizer_model_max_length": 2048,
    "transformers_version": "4.36.2",
}
KINDS = {
    "llava_mistral": ("mistral", "LlavaMistralForCausalLM", {"rope_theta": 1e6}),
    "llava_qwen2": ("qwen2", "LlavaQwen2ForCausalLM", {"rope_theta": 1e6}),
    "llava": ("llama", "LlavaLlamaForCausalLM", {"num_key_value_heads": 4}),
}
CORPUS = (
    "Yes No yes no Is there a haemorrhage in the head? Answer with yes or no. 是 否 "
    "[INST] \n Describe the images. [/INST] USER: ASSISTANT: <|user|>\n <|assistant|>\n"
)


def llava_checkpoint(
    folder: Path, model_type: str, *, dtype: torch.dtype = torch.float32, tower: Path | None = None
) -> Path:
    """`folder` with config, weights and tokenizer; the tower's weights in `tower`, if given.

    LLaVA-Med has sharded safetensors and SentencePiece, HuatuoGPT-Vision-7B safetensors and a
    tokenizer.json, Qilin-Med-VL torch's .bin shards and SentencePiece.
    """
    kind, architecture, own = KINDS[model_type]
    folder.mkdir(parents=True)
    weights = text_weights(kind, own) | projector_weights()
    vision = {f"vision_model.{name}": tensor for name, tensor in clip_weights().items()}
    if tower is None:
        weights |= {f"model.vision_tower.vision_tower.{n}": t for n, t in vision.items()}
    else:
        tower.mkdir()
        settings = {"model_type": "clip", "vision_config": {"model_type": "clip_vision_model"}}
        settings["vision_config"] |= CLIP | {"hidden_act": "quick_gelu"}
        (tower / "config.json").write_text(json.dumps(settings))
        torch.save({n: t.to(dtype) for n, t in vision.items()}, tower / "pytorch_model.bin")
    stored = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    _save_shards(stored, folder, safetensors=model_type != "llava")
    config = TEXT | PUBLISHED | own | {"model_type": model_type, "architectures": [architecture]}
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    if model_type == "llava_qwen2":
        qwen_tokenizer(folder)
        config |= {"bos_token_id": 1, "eos_token_id": 2}
    else:
        sentencepiece_model(folder)
        config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@cache
def reference(model_type: str) -> LlavaForConditionalGeneration:
    """Transformers' own model with the same weights, in fp32."""
    kind, _, own = KINDS[model_type]
    config = LlavaConfig(
        text_config=AutoConfig.for_model(kind, **(TEXT | own)),
        vision_config=CLIPVisionConfig(**CLIP),
        image_token_index=PLACEHOLDER,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config).eval()
    named = {"lm_head.weight": text_weights(kind, own)["lm_head.weight"]}
    for name, tensor in text_weights(kind, own).items():
        if name != "lm_head.weight":
            named[name.replace("model.", "model.language_model.", 1)] = tensor
    for name, tensor in clip_weights().items():
        named[f"model.vision_tower.{name}"] = tensor
    for name, tensor in projector_weights().items():
        _, _, number, part = name.split(".")
        named[f"model.multi_modal_projector.linear_{1 + int(number) // 2}.{part}"] = tensor
    model.load_state_dict(named)
    return model


def text_weights(kind: str, own: dict[str, float]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, initializer_range=0.15, **(TEXT | own))
    return _shaken(AutoModelForCausalLM.from_config(config))


def clip_weights() -> dict[str, Tensor]:
    torch.manual_seed(2)
    return _shaken(CLIPVisionModel(CLIPVisionConfig(initializer_factor=4.0, **CLIP)))


def projector_weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    width, wide = CLIP["hidden_size"], TEXT["hidden_size"]
    sizes = {"0.weight": (wide, width), "0.bias": (wide,), "2.weight": (wide, wide)}
    sizes["2.bias"] = (wide,)
    return {f"model.mm_projector.{n}": 0.15 * torch.randn(size) for n, size in sizes.items()}


def _shaken(model: torch.nn.Module) -> dict[str, Tensor]:
    """Its weights; biases start at 0 and norms at 1, which would hide what is done with them."""
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return {n: t + 0.2 * torch.randn_like(t) if t.ndim == 1 else t for n, t in weights.items()}


def _save_shards(weights: dict[str, Tensor], folder: Path, *, safetensors: bool) -> None:
    names = sorted(weights)
    stem, suffix = ("model", "safetensors") if safetensors else ("pytorch_model", "bin")
    where = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-{number:05d}-of-00002.{suffix}"
        shard = {name: weights[name] for name in part}
        if safetensors:
            save_file(shard, folder / file, metadata={"format": "pt"})
        else:
            torch.save(shard, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def sentencepiece_model(folder: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([CORPUS] * 10),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    settings = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def qwen_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=["<pad>", "<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS] * 10, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
