"""The forward call of a plain decoder in as few operations as it takes, for a CPU.

Fed a token or a few, a small model spends most of its time between operations, not in them, and a large one a tenth:
transformers' modules serve every purpose. These lines serve one, for the models that `can_be_lean` knows, from their
own weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from .cache import SlotCache, SlotLayer
from .masks import Masks
from .packed import FEWEST_WEIGHTS, PackedLinear, can_pack
from .window import Places

# All layers: norm, attention with rotary positions, norm, gated units; each half is added to what came in.
_PLAIN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# A position's angles depend on nothing else.
_STATIC_ROTATIONS = ("default", "linear", "llama3", "yarn")
_FIRST_POSITIONS = 256

Linear = Callable[[Tensor], Tensor]


def can_be_lean(model: PreTrainedModel) -> bool:
    """Whether the model is of a kind that `LeanForward` knows, on a CPU, and nothing hangs on its modules."""
    rotation = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type", "default")
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return type(model) in _PLAIN and model.device.type == "cpu" and rotation in _STATIC_ROTATIONS and not hooked


class LeanForward:
    """The model's parts, called one after the other. The model must be one that `can_be_lean`.

    What pads shorter rows goes through attention alone, which is the least of a token's cost.
    """

    padding = 1 / 8

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        config, body = model.config, model.model
        self._cache = cache
        self._masks = Masks(config, model.dtype, may_omit=True)
        self._embed: Callable[[Tensor], Tensor] = body.embed_tokens
        self._rotations = Rotations(body.rotary_emb, model.dtype)
        self._layers = [_Layer(layer, config) for layer in body.layers]
        self._norm = _norm(body.norm)
        self._head: Linear = model.lm_head

    def __call__(self, input_ids: Tensor, places: Places, kept: Sequence[int]) -> Tensor:
        self._cache.window = places
        masks = self._masks.at(places)
        rows, width = input_ids.shape
        layout = Layout(rows, width, places.tokens)
        rotation = self._rotations.at(layout.flat(places.position_ids), places.length)
        hidden = self._embed(layout.flat(input_ids))
        for layer, kind, stored in zip(self._layers, self._masks.kinds, self._cache.slot_layers, strict=True):
            wanted = Wanted.of(kept, layout) if layer is self._layers[-1] else None
            hidden = layer(hidden, Call(layout, rotation, masks[kind], stored, wanted))
        return self._head(self._norm(hidden))


@dataclass(frozen=True)
class Layout:
    """Tokens one behind the other, [tokens, ...], and the same in rows, [rows, width, ...], zeros padding the shorter.

    tokens: row and column of each token, None where no row is shorter than another.
    """

    rows: int
    width: int
    tokens: tuple[Tensor, Tensor] | None

    @property
    def num_tokens(self) -> int:
        return self.rows * self.width if self.tokens is None else len(self.tokens[0])

    def flat(self, rows: Tensor) -> Tensor:
        return rows.flatten(0, 1) if self.tokens is None else rows[self.tokens]

    def padded(self, flat: Tensor) -> Tensor:
        if self.tokens is None:
            return flat.view(self.rows, self.width, *flat.shape[1:])
        rows = flat.new_zeros((self.rows, self.width, *flat.shape[1:]))
        rows[self.tokens] = flat
        return rows


@dataclass(frozen=True)
class Wanted:
    """Tokens whose hidden states the last layer is to give; of the others nothing is needed but keys and values.

    width: all of them are among so many last ones of their rows. places: row and column of each, columns counted from
    the right; None where each row's last `width` are wanted.
    """

    width: int
    places: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, kept: Sequence[int], layout: Layout) -> "Wanted | None":
        """The last `kept` tokens of each row; None if those are all."""
        if sum(kept) == layout.num_tokens:
            return None
        width = max(kept)
        if min(kept) == width:
            return cls(width, None)
        places = [(row, column) for row, count in enumerate(kept) for column in range(-count, 0)]
        rows, columns = torch.tensor(places).unbind(-1)
        return cls(width, (rows, columns))

    def among(self, padded: Tensor) -> Tensor:
        """Of [rows, at least `width` columns, ...], those tokens, [tokens, ...]."""
        return padded[:, -self.width :].flatten(0, 1) if self.places is None else padded[self.places]


class Rotations:
    """What positions are rotated by, computed once for each."""

    def __init__(self, rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
        self._rotary = rotary
        self._like = torch.empty(0, dtype=dtype)
        self._compute(_FIRST_POSITIONS)

    def at(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines at positions [tokens] below `length`, [tokens, 1, dim] each."""
        if length > self._cos.shape[0]:
            self._compute(2 * length)
        return self._cos[positions], self._sin[positions]

    def _compute(self, length: int) -> None:
        cos, sin = self._rotary(self._like, torch.arange(length)[None])
        first, second = sin[0, :, None].chunk(2, dim=-1)
        # Halves change places when they are rotated, and the second one its sign.
        self._cos, self._sin = cos[0, :, None], torch.cat((-first, second), dim=-1)


class Call(NamedTuple):
    """What a layer is called with beside hidden states. mask: None where none is needed. wanted: None where all are."""

    layout: Layout
    rotation: tuple[Tensor, Tensor]
    mask: Tensor | None
    stored: SlotLayer
    wanted: Wanted | None


class _Layer:
    """Attention, then gated units, of [tokens, dim]."""

    def __init__(self, layer: Any, config: Any) -> None:
        attention, units = layer.self_attn, layer.mlp
        self._before_attention, self._before_units = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self._dim, self._scale = int(attention.head_dim), float(attention.scaling)
        self._heads, self._kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._qkv = joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self._of_heads = _head_norm(attention, self._heads, self._kv_heads) if hasattr(attention, "q_norm") else None
        self._out = joined([attention.o_proj])
        self._gate_and_up = joined([units.gate_proj, units.up_proj])
        self._down = joined([units.down_proj])
        self._activation: Callable[[Tensor], Tensor] = units.act_fn

    def __call__(self, hidden: Tensor, call: Call) -> Tensor:
        """The hidden states of all tokens, or of those that are wanted."""
        attended = self._attended(self._before_attention(hidden), call)
        if call.wanted is not None:
            hidden = call.wanted.among(call.layout.padded(hidden))
        hidden = hidden + attended
        gate, up = self._gate_and_up(self._before_units(hidden)).chunk(2, dim=-1)
        return hidden + self._down(self._activation(gate) * up)

    def _attended(self, hidden: Tensor, call: Call) -> Tensor:
        layout, rotation, mask, stored, wanted = call
        qkv = self._qkv(hidden).view(hidden.shape[0], -1, self._dim)
        # Queries and keys are rotated together.
        num_rotated = self._heads + self._kv_heads
        qk, v = qkv[:, :num_rotated], qkv[:, num_rotated:]
        if self._of_heads is not None:
            qk = self._of_heads(qk)
        cos, sin = rotation
        qk = torch.addcmul(qk * cos, qk.roll(self._dim // 2, dims=-1), sin)
        qk, v = layout.padded(qk).transpose(1, 2), layout.padded(v).transpose(1, 2)
        keys, values = stored.update(qk[:, self._heads :], v)
        width = layout.width if wanted is None else wanted.width
        if mask is None and width > 1:
            # A query's place is known by how many stand before it.
            width = layout.width
        seen = F.scaled_dot_product_attention(
            qk[:, : self._heads, -width:],
            keys,
            values,
            attn_mask=None if mask is None else mask[:, :, -width:],
            is_causal=mask is None and width > 1,
            scale=self._scale,
            enable_gqa=True,
        ).transpose(1, 2)
        return self._out((layout.flat(seen) if wanted is None else wanted.among(seen)).flatten(1))


class _Norm:
    """Root mean square normalisation of [..., dim]. weight: [dim], or [heads, dim]."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight.detach()
        self._eps, self._added = float(eps), torch.tensor(float(eps))

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            # The operation made for it takes half as long again, most of that for a mean.
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return x * torch.addcmul(self._added, length, length, value=1 / x.shape[-1]).rsqrt_() * self._weight
        if self._weight.dim() == 1:
            return F.rms_norm(x, self._weight.shape, self._weight, self._eps)
        return F.rms_norm(x, x.shape[-1:], eps=self._eps) * self._weight


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight, module.variance_epsilon)


def _head_norm(attention: Any, heads: int, kv_heads: int) -> _Norm:
    """That of queries and keys, each head for itself."""
    q, k = attention.q_norm, attention.k_norm
    return _Norm(torch.cat((q.weight.expand(heads, -1), k.weight.expand(kv_heads, -1))), q.variance_epsilon)


def joined(linears: Sequence[Any]) -> Linear:
    """What they give for the same input [tokens, in], side by side.

    Small layers become one, at the price of a copy: below a size they take as long as it takes to call them. The copy
    has a row for each input, as products of few tokens read it: in float32 that takes half to two thirds of the time.
    """
    are_small = all(type(linear) is nn.Linear and linear.weight.numel() < FEWEST_WEIGHTS for linear in linears)
    # Packed layers, for one, have no weights to join.
    biases = [linear.bias for linear in linears if linear.bias is not None] if are_small else []
    if not are_small or len(biases) not in (0, len(linears)):
        return linears[0] if len(linears) == 1 else lambda x: torch.cat([linear(x) for linear in linears], dim=-1)
    weight: Tensor = torch.cat([linear.weight for linear in linears]).detach()
    bias: Tensor | None = torch.cat(biases).detach() if biases else None
    if weight.dtype == torch.bfloat16 and can_pack(weight.dtype):
        # In float32 packing saves nothing at this size. Not by way of the module, which would look for hooks.
        return PackedLinear(weight, bias).forward
    by_input = weight.t().contiguous()
    return (lambda x: x @ by_input) if bias is None else (lambda x: torch.addmm(bias, x, by_input))
