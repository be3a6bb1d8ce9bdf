"""Small text checkpoints with random weights, in the layout that Hugging Face publishes."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 512,
}
KINDS: dict[str, dict[str, int]] = {
    "llama": {},
    "mistral": {"head_dim": 32, "sliding_window": 4096},
    "qwen2": {"tie_word_embeddings": True},
    "phi3": {"num_key_value_heads": 4, "bos_token_id": 1, "eos_token_id": 2},
}
"""Model types with what is special about each."""


def text_checkpoint(
    folder: Path, kind: str, *, seed: int = 0, dtype=torch.float32, **sizes
) -> Path:
    """`folder`, with config.json and safetensors of a random model; `sizes` go over all else."""
    # The default initialisation (0.02) makes logits so small that errors would not show.
    settings = {"initializer_range": 0.15, "pad_token_id": 0, **SIZES, **KINDS[kind], **sizes}
    config = AutoConfig.for_model(kind, **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases start at 0 and norms at 1, which would hide them
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    return folder
