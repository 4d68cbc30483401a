"""The forward pass of a Llama-like decoder in as few operations as possible, for a CPU.

Fed a few tokens, a small model spends most of its time between operations, in Python and dispatch, and a large one a
tenth. transformers' modules serve many architectures and call many small operations; this pass serves those that
`can_fuse` accepts, with their own weights.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from .adapter import HEAD, Adapter
from .attention import attend, repeated
from .batch import ForwardBatch
from .cache import SlotCache, SlotLayer
from .hidden import HiddenRows, counts_of
from .invariant import Sizes
from .joined import product
from .lowrank import LowRank, LowRanks, RowAdapters
from .masks import Masks
from .ragged import Ragged, Selection

# Architectures whose layers are all: norm, attention with rotary positions, norm, gated MLP, each half with a residual.
_ARCHITECTURES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# Rotary embeddings whose angles depend on the position alone, and not on the length of the sequence.
_STATIC_ROTATIONS = ("default", "linear", "llama3", "yarn")
_FIRST_POSITIONS = 256

# A layer's products, by the modules whose outputs each gives side by side.
PRODUCTS = {
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

    Padding goes through attention alone, which is the least of a token's cost. sizes: the numbers of tokens that passes
    are filled up to, of those that keep to no blocks.
    """

    padding = 1 / 8

    def __init__(self, model: PreTrainedModel, sizes: Sizes | None = None) -> None:
        config, body = model.config, model.model
        self._sizes = sizes
        self._masks = Masks(config, model.dtype, may_omit=True)
        self._share = int(config.num_attention_heads) // int(config.num_key_value_heads)
        self._embed: Callable[[Tensor], Tensor] = body.embed_tokens
        self._rotations = Rotations(body.rotary_emb, model.dtype)
        self._layers = [FusedLayer(layer, config) for layer in body.layers]
        self._norm = RmsNorm(body.norm.weight, body.norm.variance_epsilon)
        self._head: Linear = model.lm_head
        self._num_columns: int = model.lm_head.out_features
        # What adapters add to each layer's products, by their names in `FusedLayer.products`, and to the head's.
        self.terms: list[Terms] = [{} for _ in self._layers]
        self.head_term: LowRank | None = None

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """Take these adapters in place of others. All of their modules are the model's."""
        low_ranks = LowRanks(adapters)
        self.head_term = low_ranks.of([(HEAD, self._num_columns)])
        self.terms = []
        for index, layer in enumerate(self._layers):
            parts = {
                name: [(f"model.layers.{index}.{module}", width) for module, width in own]
                for name, own in layer.products.items()
            }
            terms = {name: low_ranks.of(own) for name, own in parts.items()}
            self.terms.append({name: term for name, term in terms.items() if term is not None})

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

    def __call__(
        self,
        input_ids: Tensor,
        batch: ForwardBatch,
        num_logits: Sequence[int],
        cache: SlotCache,
        handed: HiddenRows | None = None,
    ) -> Tensor:
        cache.batch = batch
        counts = counts_of(num_logits, handed)
        masks = self._masks.of(batch)
        ragged = Ragged.of(input_ids, batch, self._sizes)
        rotation = self._rotations.at(ragged.flattened(batch.position_ids), batch.length)
        hidden = self._embed(ragged.flattened(input_ids))
        all_tokens = TokenAdapters.of(batch.adapters, ragged, None)
        # Once for all layers that compute all tokens.
        whole = masks
        if ragged.blocks is None:
            whole = {kind: repeated(own, self._share) for kind, own in masks.items()}
        for layer, layer_type, stored, terms in zip(
            self._layers, self._masks.layer_types, cache.slot_layers, self.terms, strict=True
        ):
            selected = Selection.last(counts, ragged) if layer is self._layers[-1] else None
            adapters = all_tokens if selected is None else TokenAdapters.of(batch.adapters, ragged, selected)
            mask = whole[layer_type] if selected is None else masks[layer_type]
            inputs = LayerInputs(ragged, rotation, mask, stored, selected, terms, adapters)
            hidden = layer(hidden, inputs)
        hidden = self._norm(hidden)
        if handed is not None:
            handed.take(hidden)
        logits = self._head(hidden)
        if self.head_term is not None and adapters is not None:
            logits = self.head_term(hidden, logits, adapters.selected)
        return logits[: sum(counts)] if handed is None else handed.chosen(logits[: sum(counts)], num_logits)


class Rotations:
    """Rotary embeddings, computed once for each position."""

    def __init__(self, rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
        self._rotary = rotary
        self._like = torch.empty(0, dtype=dtype)
        self._compute(_FIRST_POSITIONS)

    def at(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines at positions [tokens] below `length`, [tokens, 1, dim] each."""
        cos, sin = self.tables(length)
        return cos[positions], sin[positions]

    def tables(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines at all positions below `length` and some more, [positions, 1, dim] each."""
        if length > self._cos.shape[0]:
            self._compute(2 * length)
        return self._cos, self._sin

    def _compute(self, length: int) -> None:
        # In blocks of fixed positions: a position's angles do not depend on how many there are.
        starts = range(0, length, _FIRST_POSITIONS)
        angles = [self._rotary(self._like, torch.arange(start, start + _FIRST_POSITIONS)[None]) for start in starts]
        cos, sin = (torch.cat(parts, dim=1) for parts in zip(*angles, strict=True))
        first, second = sin[0, :, None].chunk(2, dim=-1)
        # rotate_half(x) * sin = roll(x) * (-sin of the first half, sin of the second).
        self._cos, self._sin = cos[0, :, None].contiguous(), torch.cat((-first, second), dim=-1)


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
        all_tokens = rows.at(ragged.flattened(ids))
        return cls(all_tokens, all_tokens if selected is None else rows.at(selected.of(ids)))


Terms = Mapping[str, LowRank]
"""What adapters add to a layer's products, by their names in `FusedLayer.products`."""


class LayerInputs(NamedTuple):
    """What a layer takes beside hidden states.

    rotation: see `Rotations.at`. mask: None where none is needed, as `attend` takes it. selected: None where all tokens
    are wanted. adapters: None where no token has one.
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
        self._qkv = product([attention.q_proj, attention.k_proj, attention.v_proj])
        self._head_norm: RmsNorm | None = None
        if hasattr(attention, "q_norm"):
            # Queries and keys are normalised together, each head with its own weights: [heads + kv_heads, dim].
            q, k = attention.q_norm, attention.k_norm
            weight = torch.cat((q.weight.expand(self._heads, -1), k.weight.expand(self._kv_heads, -1)))
            self._head_norm = RmsNorm(weight, q.variance_epsilon)
        self._out = product([attention.o_proj])
        self._gate_and_up = product([mlp.gate_proj, mlp.up_proj])
        self._down = product([mlp.down_proj])
        self._activation: Callable[[Tensor], Tensor] = mlp.act_fn
        self.products = {
            name: [(module, int(layer.get_submodule(module).out_features)) for module in modules]
            for name, modules in PRODUCTS.items()
        }

    def __call__(self, hidden: Tensor, inputs: LayerInputs) -> Tensor:
        """Hidden states of all tokens, or of those selected."""
        attended = self._attend(self._before_attention(hidden), inputs)
        if inputs.selected is not None:
            hidden = inputs.selected.of(inputs.ragged.padded(hidden))
        hidden = attended.add_(hidden)
        normed = self._before_mlp(hidden)
        gate, up = inputs.added("gate_and_up", normed, self._gate_and_up(normed)).chunk(2, dim=-1)
        inner = self._activation(gate).mul_(up)
        return inputs.added("down", inner, self._down(inner)).add_(hidden)

    def _attend(self, hidden: Tensor, inputs: LayerInputs) -> Tensor:
        ragged, rotation, mask, stored, selected, _, _ = inputs
        qkv = inputs.added("qkv", hidden, self._qkv(hidden)).view(hidden.shape[0], -1, self._dim)
        # Queries and keys are rotated together.
        num_rotated = self._heads + self._kv_heads
        qk, v = qkv[:, :num_rotated], qkv[:, num_rotated:]
        if self._head_norm is not None:
            qk = self._head_norm(qk)
        cos, sin = rotation
        qk = (qk * cos).addcmul_(qk.roll(self._dim // 2, -1), sin)
        qk, v = ragged.padded(qk).transpose(1, 2), ragged.padded(v).transpose(1, 2)
        keys, values = stored.update(qk[:, self._heads :], v)
        width = ragged.width if selected is None else selected.width
        if mask is None and width > 1:
            # is_causal takes the first query to stand at the first key, so no query may be left out.
            width = ragged.width
        queries = qk[:, : self._heads]
        if width < ragged.width:
            queries = queries[:, :, -width:]
            mask = None if mask is None else mask[:, :, -width:]
        attending = attend if ragged.blocks is None else ragged.blocks.attend
        attended = attending(queries, keys, values, mask, self._scale).transpose(1, 2)
        attended = (ragged.flattened(attended) if selected is None else selected.of(attended)).flatten(1)
        return inputs.added("out", attended, self._out(attended))


class RmsNorm:
    """Root mean square normalisation of [..., dim]. weight: [dim], or [heads, dim]."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight.detach()
        self._wide = torch.promote_types(weight.dtype, torch.float32)
        self._eps = torch.tensor(float(eps), dtype=self._wide)

    def __call__(self, x: Tensor) -> Tensor:
        # F.rms_norm takes twice as long, mostly for its mean; conversions that change nothing would take a third more.
        is_wide = x.dtype == self._wide
        wide = x if is_wide else x.to(self._wide)
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        normed = wide * torch.addcmul(self._eps, length, length, value=1 / x.shape[-1]).rsqrt_()
        return (normed if is_wide else normed.to(x.dtype)).mul_(self._weight)
