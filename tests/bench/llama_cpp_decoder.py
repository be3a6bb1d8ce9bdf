"""The same random Llama as GGUF under llama.cpp, for comparison."""

from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from random_decoder import MAX_LENGTH, SIZES, THREADS, checkpoint
from transformers import AutoModelForCausalLM

FILE_TYPES = {
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@llama_cpp.llama_log_callback
def _silent(level, text, data):
    pass


llama_cpp.llama_log_set(_silent, None)


def quantised(folder: Path, kind: str) -> Path:
    path = folder / f"llama.{kind}.gguf"
    if not path.exists():
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype, parameters.nthread = FILE_TYPES[kind], THREADS
        source = _fp32(folder)
        if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), parameters):
            raise RuntimeError(f"llama.cpp could not quantise {source}")
    return path


def opened(folder: Path, kind: str) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        str(quantised(folder, kind)),
        n_ctx=MAX_LENGTH,
        n_batch=MAX_LENGTH,
        n_ubatch=512,
        n_threads=THREADS,
        n_threads_batch=THREADS,
        verbose=False,
    )


def _fp32(folder: Path) -> Path:
    path = folder / "llama.fp32.gguf"
    if path.exists():
        return path
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(MAX_LENGTH)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(SIZES["hidden_size"] // SIZES["num_attention_heads"])
    writer.add_vocab_size(SIZES["vocab_size"])
    _add_vocabulary(writer)
    model = AutoModelForCausalLM.from_pretrained(checkpoint(folder))
    for name, parameter in model.named_parameters():
        writer.add_tensor(_gguf_name(name), _gguf_rows(name, parameter.detach()).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    count = SIZES["vocab_size"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>", *(f"w{i}".encode() for i in range(3, count))])
    writer.add_token_scores([0.0] * count)
    kinds = np.full(count, gguf.TokenType.NORMAL)
    kinds[:3] = gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL
    writer.add_token_types(kinds.tolist())


def _gguf_name(name: str) -> str:
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in whole:
        return f"{whole[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def _gguf_rows(name: str, weight: torch.Tensor) -> torch.Tensor:
    """llama.cpp turns neighbouring pairs of a head where transformers turns its halves."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    heads = weight.shape[0] // (SIZES["hidden_size"] // SIZES["num_attention_heads"])
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape).contiguous()
