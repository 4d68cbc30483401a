"""The forward pass of a Llama-like decoder in one call."""

import importlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..adapter import Adapter
from ..batch import ForwardBatch, RaggedBatch
from ..cache import SlotCache
from ..fused import PRODUCTS, FusedForward, Rotations
from ..hidden import HiddenRows, counts_of
from ..joined import whole_of
from ..lowrank import LowRank
from ..masks import Masks
from ..panels import PanelLinear, tiles

# A pass of more tokens spends most of its time in arithmetic, of which torch's attention takes less.
MOST_TOKENS = 512


def can_compile(model: PreTrainedModel) -> bool:
    """Whether `CompiledForward` supports a model that `FusedForward` does: each layer's products are panels, all of one
    type."""
    layers, head = model.model.layers, model.lm_head
    products = [product for layer in layers for product in _products(layer).values()]
    norms = [norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    return (
        all(isinstance(product, PanelLinear) for product in products)
        and len({product.stored for product in products}) == 1
        and (type(head) is nn.Linear or isinstance(head, PanelLinear))
        and model.config.hidden_act == "silu"
        and len({norm.variance_epsilon for norm in (*norms, model.model.norm)}) == 1
    )


class _Widths(NamedTuple):
    """Numbers of a row of each, those that fill the last panels up among them."""

    hidden: int
    qkv: int
    gates: int
    attended: int


class _Addressed(list[Tensor]):
    """Tensors whose addresses were taken, and which are kept for that."""

    def address(self, tensor: Tensor) -> int:
        self.append(tensor)
        return tensor.data_ptr()


class Terms(NamedTuple):
    """What adapters add, as a compiled pass takes it. held: what it has the addresses of."""

    address: int
    held: _Addressed

    @classmethod
    def of(cls, layers: Sequence[Mapping[str, LowRank]], steps: Any) -> "Terms":
        """layers: of each the terms by the names of its products."""
        held, rows = _Addressed(), []
        for terms in layers:
            for name in steps.PRODUCTS:
                term = terms.get(name)
                if term is None:
                    rows.append(steps.Term(0, 0, 0, 0, 0))
                    continue
                spans = torch.tensor([(0, 0), *((span.start, span.stop) for span in term.spans)])
                down, up = _wide(term.down.t()), _wide(term.up)
                rows.append(steps.Term(*map(held.address, (down, up, spans)), up.shape[0], up.shape[1]))
        table = held.address(torch.tensor(rows))
        return cls(table, held)


class CompiledForward:
    """The forward pass of a model that `can_compile` accepts.

    All is computed in float32, whatever the model's type, and so are keys and values kept; of a model in bfloat16 rows
    are rounded to it before a product where the CPU multiplies in it. The bits of a row are a function of the tokens
    before it alone. Passes of more than MOST_TOKENS, of fixed shapes, and all of them where an adapter changes the
    head, are left to `fused`.
    """

    padding = FusedForward.padding

    def __init__(self, model: PreTrainedModel, fused: FusedForward) -> None:
        self._steps, self._attention = (
            importlib.import_module(f"{__package__}.{name}") for name in ("steps", "attention")
        )
        self._fused = fused
        body, config, attention = model.model, model.config, model.model.layers[0].self_attn
        self._embed: Any = body.embed_tokens
        head: Any = model.lm_head
        # A layer of torch's own sums in an order that the number of rows decides.
        self._head = head if isinstance(head, PanelLinear) else PanelLinear(head.weight, head.bias, is_wide=True)
        self._rotations = Rotations(body.rotary_emb, torch.float32)
        self._dim, self._head_dim = int(config.hidden_size), int(attention.head_dim)
        self._heads, self._kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        products = _products(body.layers[0])
        self._stored = products["down"].stored
        # Of the rows that products take in bfloat16.
        is_paired = self._stored == tiles().PAIRED
        self._factors_width = max(product.in_features for product in products.values()) if is_paired else 0
        self._widths = _Widths(
            products["down"].width,
            products["qkv"].width,
            products["gate_and_up"].width,
            self._heads * self._head_dim,
        )
        self._held = _Addressed()
        windows = Masks(config, model.dtype, may_omit=True).windows
        layers = [self._arguments(layer, window or 0) for layer, window in zip(body.layers, windows, strict=True)]
        norms = (body.norm, getattr(attention, "q_norm", body.norm))
        floats = torch.tensor([attention.scaling, *(norm.variance_epsilon for norm in norms)])
        self._terms = Terms.of(fused.terms, self._steps)
        self._constants = (
            self._held.address(torch.tensor(layers)),
            len(layers),
            self._held.address(floats),
            self._held.address(_wide(body.norm.weight)),
            self._widths.hidden,
            self._widths.qkv,
            self._widths.gates,
            self._dim,
            self._heads,
            self._kv_heads,
            self._head_dim,
            int(config.intermediate_size),
        )

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        self._fused.adapt(adapters)
        self._terms = Terms.of(self._fused.terms, self._steps)

    def part(self, model: PreTrainedModel) -> "CompiledForward":
        return CompiledForward(model, self._fused.part(model))

    def __call__(
        self,
        input_ids: Tensor,
        batch: ForwardBatch,
        num_logits: Sequence[int],
        cache: SlotCache,
        handed: HiddenRows | None = None,
    ) -> Tensor:
        if not cache.is_allocated:
            # Before `fused` allocates it in the model's type.
            like = torch.empty(0, self._kv_heads, 0, self._head_dim, dtype=torch.float32)
            for layer in cache.slot_layers:
                layer.lazy_initialization(like, like)
        if not isinstance(batch, RaggedBatch) or not self._takes(batch):
            return self._fused(input_ids, batch, num_logits, cache, handed)
        embedded = self._embed(input_ids.flatten() if batch.tokens is None else input_ids[batch.tokens])
        decoded = self._decoded(embedded, batch, counts_of(num_logits, handed), cache)
        if handed is not None:
            handed.take(decoded)
            decoded = handed.chosen(decoded, num_logits)
        logits: Tensor = self._head(decoded)
        return logits

    def _takes(self, batch: RaggedBatch) -> bool:
        # With invariant numerics all passes are computed in the same way.
        return self._fused.head_term is None and (batch.blocks is not None or sum(batch.counts) <= MOST_TOKENS)

    def _decoded(self, hidden: Tensor, batch: RaggedBatch, num_logits: Sequence[int], cache: SlotCache) -> Tensor:
        """The last norm's outputs [sum of num_logits, dim]. hidden: [tokens, dim], of embeddings."""
        num_tokens, num_chosen, longest = hidden.shape[0], sum(num_logits), max(batch.starts) + batch.width
        cache.batch = batch
        cache.reserve(batch.num_slots, batch.length)
        hidden = hidden.float().contiguous()
        if self._widths.hidden > self._dim:
            hidden = F.pad(hidden, (0, self._widths.hidden - self._dim))
        ids = torch.tensor(_ids(batch, num_logits))
        cos, sin = self._rotations.tables(longest)
        threads = torch.get_num_threads()
        # Room for what the steps hand over: see `PassArguments`.
        sizes = (self._dim, self._widths.qkv, self._widths.attended, self._widths.gates)
        normed, *others = accumulate((0, *(num_tokens * size for size in sizes)))
        own_width = self._attention.room(self._heads // self._kv_heads, longest, self._head_dim)
        room = hidden.new_empty(others[-1] + threads * own_width)
        factors = torch.empty(num_tokens, self._factors_width, dtype=torch.bfloat16)
        first, first_id = room.data_ptr(), ids.data_ptr()
        arguments = self._steps.PassArguments(
            *self._constants,
            cache.addresses().ctypes.data,
            num_tokens,
            num_chosen,
            hidden.data_ptr(),
            *(first_id + ids.itemsize * num_tokens * count for count in range(3)),
            first_id + ids.itemsize * (2 * num_tokens + num_chosen),
            0 if batch.adapters is None else self._terms.address,
            cos.data_ptr(),
            sin.data_ptr(),
            *(first + room.itemsize * offset for offset in (normed, *others)),
            own_width,
            factors.data_ptr(),
            factors.shape[1],
        )
        self._steps.decode(self._stored, arguments, threads)
        return room[: num_chosen * self._dim].view(num_chosen, self._dim)

    def _arguments(self, layer: Any, window: int) -> Any:
        """Those of a layer, without its cache."""
        attention, products = layer.self_attn, _products(layer)
        head_norm = 0
        if hasattr(attention, "q_norm"):
            of_queries, of_keys = attention.q_norm.weight, attention.k_norm.weight
            parts = (of_queries.expand(self._heads, -1), of_keys.expand(self._kv_heads, -1))
            head_norm = self._held.address(_wide(torch.cat(parts)))
        addresses = {name: [*map(self._held.address, product.tensors())] for name, product in products.items()}
        return self._steps.LayerArguments(
            before_attention=self._held.address(_wide(layer.input_layernorm.weight)),
            qkv=addresses["qkv"][0],
            qkv_bias=addresses["qkv"][1],
            head_norm=head_norm,
            window=window,
            out=addresses["out"][0],
            out_bias=addresses["out"][1] if products["out"].has_bias else 0,
            before_mlp=self._held.address(_wide(layer.post_attention_layernorm.weight)),
            gates=addresses["gate_and_up"][0],
            gates_bias=addresses["gate_and_up"][1],
            down=addresses["down"][0],
            down_bias=addresses["down"][1] if products["down"].has_bias else 0,
        )


def _wide(weight: Tensor) -> Tensor:
    return weight.detach().float().contiguous()


def _products(layer: Any) -> dict[str, Any]:
    """Each of a layer's products by its name, None where it is none."""
    return {name: whole_of([layer.get_submodule(each) for each in names]) for name, names in PRODUCTS.items()}


def _ids(batch: RaggedBatch, num_logits: Sequence[int]) -> list[int]:
    """Of each token its position; then of each its slot; then which tokens' logits are wanted, ascending; then of each
    token its adapter."""
    rows = [*zip(batch.slots, batch.starts, batch.counts, num_logits, batch.adapter_ids, strict=True)]
    positions = [at for _, start, count, _, _ in rows for at in range(start, start + count)]
    slots = [slot for slot, _, count, _, _ in rows for _ in range(count)]
    adapters = [adapter for _, _, count, _, adapter in rows for _ in range(count)]
    chosen: list[int] = []
    end = 0
    for _, _, count, wanted, _ in rows:
        end += count
        chosen += range(end - wanted, end)
    return [*positions, *slots, *chosen, *adapters]
