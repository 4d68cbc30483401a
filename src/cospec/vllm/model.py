"""The ensemble as a model of vLLM: members side by side, log r in place of logits.

Verified against vLLM's interface for text generation: `forward` gives hidden states, `compute_logits` the logits of
some of them, `load_weights` takes what the loader reads.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from vllm.compilation.backends import set_model_tag
from vllm.config import ModelConfig, VllmConfig
from vllm.config.utils import replace
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.utils import initialize_model

from ..core.combine import level
from ..core.transforms import shape_members
from ..errors import UnsupportedModel
from .described import KEY, DescribedMember, Description
from .limits import check

# In front of the names of a member's weights, and of nothing else: `@0.model.norm.weight`.
_WEIGHTS = "@"


class EnsembleModel(nn.Module):
    """Members that are fed the same tokens, and whose rows are combined into log r.

    Their hidden states go through vLLM as one, concatenated; what is sampled, verified and reported is r.
    """

    # Not that it could be cut into stages: so that `check` refuses them, with the reason and what to use instead.
    supports_pp = True

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        check(vllm_config)
        self.described = Description.from_json(getattr(vllm_config.model_config.hf_config, KEY, None))
        self._widths: list[int] = []
        self.secondary_weights = []
        for index, member in enumerate(self.described.members):
            own = _config_of(member, vllm_config)
            # Layers are told apart by their names, in which vLLM wants one whole number: the layer's.
            name = f"member{index}"
            where = f"{prefix}.{name}" if prefix else name
            with set_model_tag(where):
                self.add_module(name, initialize_model(own, prefix=where))
            self.secondary_weights.append(DefaultModelLoader.Source(member.model, None, prefix=f"{_WEIGHTS}{index}."))

    @property
    def members(self) -> list[Any]:
        return [getattr(self, f"member{index}") for index in range(len(self.described.members))]

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """The first member's embeddings; `forward` takes none, since each member has its own."""
        embedded: Tensor = self.members[0].embed_input_ids(input_ids)
        return embedded

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: object = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """[tokens] -> [tokens, widths of all members], the members' last hidden states side by side."""
        if input_ids is None or inputs_embeds is not None:
            raise UnsupportedModel("an ensemble is fed token ids, of which each member has its own embeddings")
        states = [member(input_ids, positions) for member in self.members]
        self._widths = [state.shape[-1] for state in states]
        return torch.cat(states, dim=-1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[rows, widths of all members] -> log r [rows, vocab], as high as the members' logits stand.

        Sampled and reported is softmax of it, which is r; its level is for what multiplies logits, the repetition
        penalty, as it is in cospec.
        """
        size = self.described.vocab_size
        parts = torch.split(hidden_states, self._widths, dim=-1)
        rows = [member.compute_logits(part) for member, part in zip(self.members, parts, strict=True)]
        if any(row is None for row in rows):
            # With tensor parallelism, the process that gathers the columns alone has them.
            return None
        # Columns beyond the tokenizer's entries are padding, of a width of its own in each member.
        logits = shape_members(torch.stack([row[:, :size].float() for row in rows]), self.described.shaping)
        combination = self.described.combination
        return combination.log_probs(logits) + level(combination, logits)

    def make_empty_intermediate_tensors(self, *_: object) -> None:
        """Of a stage of a pipeline, which `check` refuses before."""
        raise AssertionError("an ensemble has no stages")

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Give each member its own. The names of all parameters that were loaded."""
        loaded: set[str] = set()
        for prefix, own in groupby(weights, key=lambda pair: pair[0].partition(".")[0]):
            if prefix.startswith(_WEIGHTS):
                name = f"member{prefix.removeprefix(_WEIGHTS)}"
                loaded |= {f"{name}.{each}" for each in getattr(self, name).load_weights(_without_prefix(own))}
        return loaded


def _without_prefix(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    return ((name.partition(".")[2], tensor) for name, tensor in weights)


def _config_of(member: DescribedMember, vllm_config: VllmConfig) -> VllmConfig:
    """vLLM's configuration for one member: its own architecture, quantisation and sliding window."""
    whole = vllm_config.model_config
    model_config = ModelConfig(
        model=member.model,
        dtype=whole.dtype,
        max_model_len=whole.max_model_len,
        seed=whole.seed,
        trust_remote_code=member.trust_remote_code,
        enforce_eager=whole.enforce_eager,
        skip_tokenizer_init=True,
    )
    if model_config.has_inner_state:
        raise UnsupportedModel(
            f"the member {member.name!r} ({model_config.architecture}) keeps a recurrent state, for which vLLM has no "
            "room beside other members' caches; use cospec serve"
        )
    # Layers that name no window take the cache's, which is the whole model's: each member is given its own.
    cache_config = replace(vllm_config.cache_config, sliding_window=model_config.get_sliding_window())
    return replace(vllm_config, model_config=model_config, quant_config=None, cache_config=cache_config)
