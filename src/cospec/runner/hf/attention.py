"""Attention, by torch's own function, which on a CPU is given few queries in the form that it is fastest for."""

import torch
import torch.nn.functional as F
from torch import Tensor

# The most queries a sequence that are worth a copy of all keys in float32. A query with 100 keys, 9 heads on 3, takes
# 110 us in bfloat16, more than a millisecond where a product meets a number of keys for the first time, and 40 so.
MOST_QUERIES = 32
_WIDE = (torch.float32, torch.float64)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """[sequences, heads, queries, dim], attending to all keys that the mask allows.

    queries: the same shape. keys, values: [sequences, kv_heads, keys, dim]. mask: [sequences, 1, queries, keys], added
    to the scores, or that `repeated`; None for a single query, which attends to all keys, or one of each key's token,
    which do causally.
    """
    width = queries.shape[2]
    is_causal = mask is None and width > 1
    if is_causal or width > MOST_QUERIES or queries.device.type != "cpu":
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=True
        )
    return _grouped(queries, keys, values, mask, scale)


def repeated(mask: Tensor | None, share: int) -> Tensor | None:
    """The mask of as many heads as share keys, [sequences, 1, share * queries, keys], for passes of several queries
    that `attend` computes so: made once, where several layers have one mask. All other masks are as they were."""
    if mask is None or not 1 < mask.shape[2] <= MOST_QUERIES or mask.device.type != "cpu":
        return mask
    return _wide(mask).repeat(1, 1, share, 1)


def _grouped(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """In float32 at least; the heads that share keys are more queries of one head."""
    num_sequences, num_heads, width, dim = queries.shape
    num_groups = keys.shape[1]
    share = num_heads // num_groups
    if mask is not None:
        # A single query's mask is that of all heads as it is.
        mask = _wide(mask) if mask.shape[2] in (1, share * width) else repeated(mask, share)
    grouped = _wide(queries).reshape(num_sequences, num_groups, share * width, dim)
    attended = F.scaled_dot_product_attention(grouped, _wide(keys), _wide(values), attn_mask=mask, scale=scale)
    if attended.dtype != queries.dtype:
        attended = attended.to(queries.dtype)
    return attended.view(num_sequences, num_heads, width, dim)


def _wide(x: Tensor) -> Tensor:
    """In float32 at least. Conversions that change nothing would cost a small model a few percent of its pass."""
    return x if x.dtype in _WIDE else x.to(torch.float32)
