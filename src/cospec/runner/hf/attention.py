"""Attention, by torch's own function, which on a CPU is given few queries in the form that it is fastest for."""

import torch
import torch.nn.functional as F
from torch import Tensor

# The most queries a sequence that are worth a copy of all keys in float32. A query with 100 keys, 9 heads on 3, takes
# 110 us in bfloat16, more than a millisecond where a product meets a number of keys for the first time, and 40 so.
MOST_QUERIES = 32


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """[sequences, heads, queries, dim], attending to all keys that the mask allows.

    queries: the same shape. keys, values: [sequences, kv_heads, keys, dim]. mask: [sequences, 1, queries, keys], added
    to the scores; None for a single query, which attends to all keys, or one of each key's token, which do causally.
    """
    width = queries.shape[2]
    is_causal = mask is None and width > 1
    if is_causal or width > MOST_QUERIES or queries.device.type != "cpu":
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=True
        )
    return _grouped(queries, keys, values, mask, scale)


def _grouped(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """In float32 at least; the heads that share keys are more queries of one head."""
    num_sequences, num_heads, width, dim = queries.shape
    num_groups = keys.shape[1]
    wide = torch.promote_types(queries.dtype, torch.float32)
    if mask is not None:
        mask = mask.to(wide).repeat(1, 1, num_heads // num_groups, 1)
    grouped = queries.to(wide).reshape(num_sequences, num_groups, -1, dim)
    attended = F.scaled_dot_product_attention(grouped, keys.to(wide), values.to(wide), attn_mask=mask, scale=scale)
    return attended.to(queries.dtype).view(num_sequences, num_heads, width, dim)
