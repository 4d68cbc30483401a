"""Attention, by torch's own function but for few queries in bfloat16 on a CPU, which that is slow for."""

import torch
import torch.nn.functional as F
from torch import Tensor

# The most queries a sequence for which two plain products are the faster. Of 32 sequences with 200 keys they take 1 ms
# for a query each, and torch's function 14.
MOST_QUERIES = 8


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """[sequences, heads, queries, dim], attending to all keys that the mask allows.

    queries: the same shape. keys, values: [sequences, kv_heads, keys, dim]. mask: [sequences, 1, queries, keys], added
    to the scores; None for a single query, which attends to all keys, or one of each key's token, which do causally.
    """
    width = queries.shape[2]
    is_causal = mask is None and width > 1
    if is_causal or width > MOST_QUERIES or queries.dtype != torch.bfloat16 or queries.device.type != "cpu":
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=True
        )
    return _products(queries, keys, values, mask, scale)


def _products(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    num_sequences, num_heads, width, dim = queries.shape
    num_groups = keys.shape[1]
    # The heads that share keys are more rows of one product.
    grouped = queries.reshape(num_sequences, num_groups, -1, dim)
    scores = (grouped @ keys.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores = scores.view(num_sequences, num_groups, num_heads // num_groups, width, -1)
        scores = (scores + mask[:, :, None]).view(num_sequences, num_groups, -1, keys.shape[2])
    return (torch.softmax(scores, dim=-1).to(values.dtype) @ values).view(num_sequences, num_heads, width, dim)
