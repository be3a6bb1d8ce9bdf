"""Attention with a key-value cache as one operator, for decoders that are written in torch.

The graph gets ONNX Runtime's GroupQueryAttention, which writes keys and values into the cache in
place. Torch itself cannot compute it: compare such a graph with the module that was trained.
"""

import torch
from torch import Tensor


def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: tuple[Tensor, Tensor],
    *,
    attention_mask: Tensor,
    bias: Tensor,
    heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention of S new positions over T in all: the mix, and the cache's keys and values.

    `query`, `key`, `value` are (1, S, heads x size), the cache (1, heads, MAX, size) twice,
    `attention_mask` (1, T), `bias` (1, 1, S, T).
    """
    read = attention_mask.sum(1, dtype=torch.int32)
    mixed, keys, values = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        (query, key, value, *past, read - 1, read.squeeze(0), None, None, None, bias),
        {"num_heads": heads, "kv_num_heads": heads},
        dtypes=(query.dtype,) * 3,
        shapes=(query.shape, past[0].shape, past[1].shape),
        version=1,
    )
    return mixed, keys, values
