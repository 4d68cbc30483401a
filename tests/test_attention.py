"""Attention of few queries on a CPU, in float32 and by groups of heads, is torch's own."""

import pytest
import torch
import torch.nn.functional as F

from cospec.runner.hf.attention import MOST_QUERIES, attend, repeated


def drawn(heads: int, kv_heads: int, width: int, keys: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(heads * width)
    shapes = [(3, heads, width, 16), (3, kv_heads, keys, 16), (3, kv_heads, keys, 16)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def hidden_beyond(lengths: list[int], width: int, keys: int) -> torch.Tensor:
    """[sequences, 1, width, keys]: the last `width` tokens of sequences of these lengths attend to no later ones."""
    places = torch.tensor(lengths)[:, None] - width + torch.arange(width)
    is_hidden = torch.arange(keys) > places[:, None, :, None]
    return torch.zeros(is_hidden.shape, dtype=torch.bfloat16).masked_fill_(is_hidden, torch.finfo(torch.bfloat16).min)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [1, 2, MOST_QUERIES, MOST_QUERIES + 1])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (9, 3), (4, 1)])
def test_few_queries_attend_as_torch_computes_it_in_double_precision(heads, kv_heads, width, dtype):
    queries, keys, values = drawn(heads, kv_heads, width, 40, dtype)
    mask = hidden_beyond([40, 17, 25], width, 40)
    exact = F.scaled_dot_product_attention(
        queries.double(), keys.double(), values.double(), attn_mask=mask.double(), scale=0.25, enable_gqa=True
    )
    found = attend(queries, keys, values, mask.to(dtype), 0.25)
    assert found.dtype == dtype
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 2, MOST_QUERIES, MOST_QUERIES + 1])
def test_a_mask_repeated_once_for_all_layers_gives_the_bits_that_the_mask_itself_gives(width, dtype):
    queries, keys, values = drawn(9, 3, width, 40, dtype)
    mask = hidden_beyond([40, 38, 34], width, 40).to(dtype)
    once = repeated(mask, 3)
    assert once.shape[2] == (3 * width if 1 < width <= MOST_QUERIES else width)
    assert torch.equal(attend(queries, keys, values, once, 0.25), attend(queries, keys, values, mask, 0.25))


def test_a_single_query_without_a_mask_attends_to_all_keys():
    queries, keys, values = drawn(6, 2, 1, 40, torch.bfloat16)
    exact = F.scaled_dot_product_attention(
        queries.double(), keys.double(), values.double(), scale=0.25, enable_gqa=True
    )
    torch.testing.assert_close(attend(queries, keys, values, None, 0.25).double(), exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_mask_many_queries_attend_causally(dtype):
    queries, keys, values = drawn(6, 2, 12, 12, dtype)
    exact = F.scaled_dot_product_attention(
        queries.double(), keys.double(), values.double(), is_causal=True, scale=0.25, enable_gqa=True
    )
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(
        attend(queries, keys, values, None, 0.25).double(), exact, atol=tolerance, rtol=tolerance
    )
