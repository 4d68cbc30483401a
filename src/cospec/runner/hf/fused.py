"""The forward pass of a Llama-like decoder in as few operations as possible, for a CPU.

Fed a few tokens, a small model spends most of its time between operations, in Python and dispatch, and a large one a
tenth. transformers' modules serve many architectures and call many small operations; this pass serves those that
`can_fuse` accepts, with their own weights.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from .adapter import HEAD, Adapter
from .attention import attend
from .batch import ForwardBatch
from .cache import SlotCache, SlotLayer
from .lowrank import LowRank, LowRanks, RowAdapters
from .masks import Masks
from .prepacked import FEWEST_WEIGHTS, PrepackedLinear, can_prepack

# Architectures whose layers are all: norm, attention with rotary positions, norm, gated MLP, each half with a residual.
_ARCHITECTURES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# Rotary embeddings whose angles depend on the position alone, and not on the length of the sequence.
_STATIC_ROTATIONS = ("default", "linear", "llama3", "yarn")
_FIRST_POSITIONS = 256

# A layer's products, by the modules whose outputs each gives side by side.
_PRODUCTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_and_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}

Linear = Callable[[Tensor], Tensor]


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether `FusedForward` supports the model's architecture, on a CPU, and no hook is registered on its modules."""
    rotation = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type", "default")
    is_hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    is_supported = type(model) in _ARCHITECTURES and rotation in _STATIC_ROTATIONS
    return is_supported and model.device.type == "cpu" and not is_hooked


class FusedForward:
    """The forward pass of a model that `can_fuse` accepts.

    Padding goes through attention alone, which is the least of a token's cost.
    """

    padding = 1 / 8

    def __init__(self, model: PreTrainedModel) -> None:
        config, body = model.config, model.model
        self._masks = Masks(config, model.dtype, may_omit=True)
        self._embed: Callable[[Tensor], Tensor] = body.embed_tokens
        self._rotations = Rotations(body.rotary_emb, model.dtype)
        self._layers = [FusedLayer(layer, config) for layer in body.layers]
        self._norm = RmsNorm(body.norm.weight, body.norm.variance_epsilon)
        self._head: Linear = model.lm_head
        self._num_columns: int = model.lm_head.out_features
        # What adapters add to each layer's products, by their names in `FusedLayer.products`, and to the head's.
        self._terms: list[Terms] = [{} for _ in self._layers]
        self._head_term: LowRank | None = None

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """Take these adapters in place of others. All of their modules are the model's."""
        low_ranks = LowRanks(adapters)
        self._head_term = low_ranks.of([(HEAD, self._num_columns)])
        self._terms = []
        for index, layer in enumerate(self._layers):
            parts = {
                name: [(f"model.layers.{index}.{module}", width) for module, width in own]
                for name, own in layer.products.items()
            }
            terms = {name: low_ranks.of(own) for name, own in parts.items()}
            self._terms.append({name: term for name, term in terms.items() if term is not None})

    def part(self, model: PreTrainedModel) -> "FusedForward":
        """The pass of a model that is the first layers of this one, or has a smaller head: of the same weights."""
        part = copy.copy(self)
        part._layers = self._layers[: model.config.num_hidden_layers]
        part._masks = Masks(model.config, model.dtype, may_omit=True)
        # Angles are computed as a pass needs them, and passes of the two may run side by side.
        part._rotations = copy.copy(self._rotations)
        part._head, part._num_columns = model.lm_head, model.lm_head.out_features
        part.adapt([])
        return part

    def __call__(self, input_ids: Tensor, batch: ForwardBatch, num_logits: Sequence[int], cache: SlotCache) -> Tensor:
        cache.batch = batch
        masks = self._masks.of(batch)
        rows, width = input_ids.shape
        ragged = Ragged(rows, width, batch.tokens)
        rotation = self._rotations.at(ragged.flattened(batch.position_ids), batch.length)
        hidden = self._embed(ragged.flattened(input_ids))
        all_tokens = TokenAdapters.of(batch.adapters, ragged, None)
        for layer, layer_type, stored, terms in zip(
            self._layers, self._masks.layer_types, cache.slot_layers, self._terms, strict=True
        ):
            selected = Selection.last(num_logits, ragged) if layer is self._layers[-1] else None
            adapters = all_tokens if selected is None else TokenAdapters.of(batch.adapters, ragged, selected)
            inputs = LayerInputs(ragged, rotation, masks[layer_type], stored, selected, terms, adapters)
            hidden = layer(hidden, inputs)
        hidden = self._norm(hidden)
        logits = self._head(hidden)
        if self._head_term is None or adapters is None:
            return logits
        return self._head_term(hidden, logits, adapters.selected)


@dataclass(frozen=True)
class Ragged:
    """Two layouts of the same tokens: one behind the other, [tokens, ...], and in padded rows, [rows, width, ...].

    tokens: row and column of each token, None where no row is padded.
    """

    rows: int
    width: int
    tokens: tuple[Tensor, Tensor] | None

    @property
    def num_tokens(self) -> int:
        return self.rows * self.width if self.tokens is None else len(self.tokens[0])

    def flattened(self, padded: Tensor) -> Tensor:
        return padded.flatten(0, 1) if self.tokens is None else padded[self.tokens]

    def padded(self, flat: Tensor) -> Tensor:
        """[tokens, ...] -> [rows, width, ...], with zeros as padding."""
        if self.tokens is None:
            return flat.view(self.rows, self.width, *flat.shape[1:])
        rows = flat.new_zeros((self.rows, self.width, *flat.shape[1:]))
        rows[self.tokens] = flat
        return rows


@dataclass(frozen=True)
class Selection:
    """The tokens whose logits are wanted: the last layer computes keys and values alone for the others.

    width: all of them are among this many last tokens of their rows. tokens: row and column of each, columns counted
    from the right; None where they are the last `width` of every row.
    """

    width: int
    tokens: tuple[Tensor, Tensor] | None

    @classmethod
    def last(cls, num_logits: Sequence[int], ragged: Ragged) -> "Selection | None":
        """The last `num_logits` tokens of each row; None if those are all tokens."""
        if sum(num_logits) == ragged.num_tokens:
            return None
        width = max(num_logits)
        if min(num_logits) == width:
            return cls(width, None)
        tokens = [(row, column) for row, count in enumerate(num_logits) for column in range(-count, 0)]
        rows, columns = torch.tensor(tokens).unbind(-1)
        return cls(width, (rows, columns))

    def of(self, padded: Tensor) -> Tensor:
        """[rows, at least `width` columns, ...] -> [selected tokens, ...]."""
        return padded[:, -self.width :].flatten(0, 1) if self.tokens is None else padded[self.tokens]


class Rotations:
    """Rotary embeddings, computed once for each position."""

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
        # rotate_half(x) * sin = roll(x) * (-sin of the first half, sin of the second).
        self._cos, self._sin = cos[0, :, None], torch.cat((-first, second), dim=-1)


class TokenAdapters(NamedTuple):
    """The adapters of all tokens, and of those selected."""

    all: RowAdapters
    selected: RowAdapters

    @classmethod
    def of(cls, rows: RowAdapters | None, ragged: Ragged, selected: Selection | None) -> "TokenAdapters | None":
        """None where no row has an adapter."""
        if rows is None:
            return None
        ids = rows.ids[:, None].expand(-1, ragged.width)
        all_tokens = RowAdapters(ragged.flattened(ids), rows.only)
        return cls(all_tokens, all_tokens if selected is None else RowAdapters(selected.of(ids), rows.only))


Terms = Mapping[str, LowRank]
"""What adapters add to a layer's products, by their names in `FusedLayer.products`."""


class LayerInputs(NamedTuple):
    """What a layer takes beside hidden states.

    rotation: see `Rotations.at`. mask: None where none is needed. selected: None where all tokens are wanted.
    adapters: None where no token has one.
    """

    ragged: Ragged
    rotation: tuple[Tensor, Tensor]
    mask: Tensor | None
    stored: SlotLayer
    selected: Selection | None
    terms: Terms
    adapters: TokenAdapters | None

    def added(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        """The output of a product with what adapters add to it."""
        term = self.terms.get(name) if self.adapters is not None else None
        if term is None or self.adapters is None:
            return out
        # Keys and values are computed of all tokens.
        return term(x, out, self.adapters.all if name == "qkv" else self.adapters.selected)


class FusedLayer:
    """A decoder layer: attention, then a gated MLP, on hidden states [tokens, dim].

    products: by the name of each product its modules, as the layer calls them, and how wide the output of each is.
    """

    def __init__(self, layer: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        before_attention, before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self._before_attention = RmsNorm(before_attention.weight, before_attention.variance_epsilon)
        self._before_mlp = RmsNorm(before_mlp.weight, before_mlp.variance_epsilon)
        self._dim, self._scale = int(attention.head_dim), float(attention.scaling)
        self._heads, self._kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._qkv = joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self._head_norm: RmsNorm | None = None
        if hasattr(attention, "q_norm"):
            # Queries and keys are normalised together, each head with its own weights: [heads + kv_heads, dim].
            q, k = attention.q_norm, attention.k_norm
            weight = torch.cat((q.weight.expand(self._heads, -1), k.weight.expand(self._kv_heads, -1)))
            self._head_norm = RmsNorm(weight, q.variance_epsilon)
        self._out = joined([attention.o_proj])
        self._gate_and_up = joined([mlp.gate_proj, mlp.up_proj])
        self._down = joined([mlp.down_proj])
        self._activation: Callable[[Tensor], Tensor] = mlp.act_fn
        self.products = {
            name: [(module, int(layer.get_submodule(module).out_features)) for module in modules]
            for name, modules in _PRODUCTS.items()
        }

    def __call__(self, hidden: Tensor, inputs: LayerInputs) -> Tensor:
        """Hidden states of all tokens, or of those selected."""
        attended = self._attend(self._before_attention(hidden), inputs)
        if inputs.selected is not None:
            hidden = inputs.selected.of(inputs.ragged.padded(hidden))
        hidden = hidden + attended
        normed = self._before_mlp(hidden)
        gate, up = inputs.added("gate_and_up", normed, self._gate_and_up(normed)).chunk(2, dim=-1)
        inner = self._activation(gate) * up
        return hidden + inputs.added("down", inner, self._down(inner))

    def _attend(self, hidden: Tensor, inputs: LayerInputs) -> Tensor:
        ragged, rotation, mask, stored, selected, _, _ = inputs
        qkv = inputs.added("qkv", hidden, self._qkv(hidden)).view(hidden.shape[0], -1, self._dim)
        # Queries and keys are rotated together.
        num_rotated = self._heads + self._kv_heads
        qk, v = qkv[:, :num_rotated], qkv[:, num_rotated:]
        if self._head_norm is not None:
            qk = self._head_norm(qk)
        cos, sin = rotation
        qk = torch.addcmul(qk * cos, qk.roll(self._dim // 2, dims=-1), sin)
        qk, v = ragged.padded(qk).transpose(1, 2), ragged.padded(v).transpose(1, 2)
        keys, values = stored.update(qk[:, self._heads :], v)
        width = ragged.width if selected is None else selected.width
        if mask is None and width > 1:
            # is_causal takes the first query to stand at the first key, so no query may be left out.
            width = ragged.width
        allowed = None if mask is None else mask[:, :, -width:]
        attended = attend(qk[:, : self._heads, -width:], keys, values, allowed, self._scale).transpose(1, 2)
        attended = (ragged.flattened(attended) if selected is None else selected.of(attended)).flatten(1)
        return inputs.added("out", attended, self._out(attended))


class RmsNorm:
    """Root mean square normalisation of [..., dim]. weight: [dim], or [heads, dim]."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight.detach()
        self._eps, self._eps_tensor = float(eps), torch.tensor(float(eps))

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            # F.rms_norm takes half as long again in float32, mostly for its mean.
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return x * torch.addcmul(self._eps_tensor, length, length, value=1 / x.shape[-1]).rsqrt_() * self._weight
        if self._weight.dim() == 1:
            return F.rms_norm(x, self._weight.shape, self._weight, self._eps)
        return F.rms_norm(x, x.shape[-1:], eps=self._eps) * self._weight


def joined(linears: Sequence[Any]) -> Linear:
    """One function that gives the layers' outputs for the same input [tokens, in], side by side.

    Small layers are joined into one product, at the price of a copy of their weights: below a size they take as long as
    it takes to call them. The copy is transposed, [in, out], as products of few tokens read it: in float32 that takes
    half to two thirds of the time.
    """
    are_small = all(type(linear) is nn.Linear and linear.weight.numel() < FEWEST_WEIGHTS for linear in linears)
    # Layers of other kinds, such as prepacked ones, have no weights to join.
    biases = [linear.bias for linear in linears if linear.bias is not None] if are_small else []
    if not are_small or len(biases) not in (0, len(linears)):
        return linears[0] if len(linears) == 1 else lambda x: torch.cat([linear(x) for linear in linears], dim=-1)
    weight: Tensor = torch.cat([linear.weight for linear in linears]).detach()
    bias: Tensor | None = torch.cat(biases).detach() if biases else None
    if weight.dtype == torch.bfloat16 and can_prepack(weight.dtype):
        # Prepacking saves nothing at this size in float32. `forward` is taken, since a module's call looks for hooks.
        return PrepackedLinear(weight, bias).forward
    return JoinedLinear(weight.t().contiguous(), bias)


class JoinedLinear:
    """weight: [in, out]. bias: [out]."""

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)
