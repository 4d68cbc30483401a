"""An ensemble behind transformers' `generate`: `model.generate(..., custom_generate=cospec.custom_generate(ensemble))`."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput

from .core.params import SamplingParams
from .ensemble import SEED_BITS, Ensemble
from .errors import InvalidSampling, MemberFailed, shown

Generate: TypeAlias = Callable[..., Tensor | GenerateDecoderOnlyOutput]

# What logits processors stand for: their attribute, our field, and its place in the order of the transforms. What forbids
# tokens and what penalises them may change places.
_PROCESSORS: dict[str, tuple[str | None, str | None, int]] = {
    "SuppressTokensLogitsProcessor": ("suppress_tokens", "logit_bias", 0),
    "MinLengthLogitsProcessor": ("min_length", "min_tokens", 0),
    "MinNewTokensLengthLogitsProcessor": ("min_new_tokens", "min_tokens", 0),
    "RepetitionPenaltyLogitsProcessor": ("penalty", "repetition_penalty", 0),
    "TemperatureLogitsWarper": ("temperature", "temperature", 1),
    "TopKLogitsWarper": ("top_k", "top_k", 2),
    "TopPLogitsWarper": ("top_p", "top_p", 3),
    "MinPLogitsWarper": ("min_p", "min_p", 4),
    # All that is drawn from is normalised.
    "LogitNormalization": (None, None, 5),
}
# Fields of a generation config that say how transformers' own decoding computes, and have no effect on a text.
_OF_COMPUTING = frozenset(
    [
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "disable_compile",
        "compile_config",
        "low_memory",
        "prefill_chunk_size",
        "continuous_batching_config",
        "transformers_version",
        "early_stopping",
        "bos_token_id",
        "decoder_start_token_id",
        "length_penalty",
        "assistant_lookbehind",
        "target_lookbehind",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "max_matching_ngram_size",
    ]
)
# Those that are followed: most of them as the logits processors and stopping criteria that `generate` makes of them.
_FOLLOWED = frozenset(
    [
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "suppress_tokens",
        "renormalize_logits",
        "eos_token_id",
        "pad_token_id",
        "num_return_sequences",
        "return_dict_in_generate",
    ]
)
# What `generate` hands a model, of which only the mask says something of the tokens.
_INPUTS = frozenset(
    ["attention_mask", "position_ids", "logits_to_keep", "use_cache", "past_key_values", "cache", "cache_position"]
)


def custom_generate(ensemble: Ensemble, *, streamer: Any = None, params: SamplingParams | None = None) -> Generate:
    """What `custom_generate=` takes: `generate`'s inputs decoded by the ensemble, in `generate`'s form.

    Of a generation config max_length, max_new_tokens, min_length, min_new_tokens, do_sample, temperature, top_k, top_p,
    min_p, repetition_penalty, suppress_tokens, eos_token_id, pad_token_id, num_return_sequences and
    return_dict_in_generate are followed; whatever else would change a text or add to the result is refused by name.
    Sequences end at eos_token_id; where that is the model's own default, at the ends of all members. The draws follow
    torch's seed.

    params: what a generation config has no field for (seed, presence_penalty, stop, ...). streamer: for one sequence;
    transformers hands one that is given to `generate` itself to no custom function.

    Raises InvalidSampling for what is refused, and what Ensemble.generate raises.
    """

    def decode(
        model: Any,
        input_ids: Tensor,
        logits_processor: Iterable[Any] = (),
        stopping_criteria: Iterable[Any] = (),
        generation_config: GenerationConfig | None = None,
        **inputs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        config = generation_config or model.generation_config
        _check(model, config, inputs)
        call = Call(model=model, config=config, input_ids=input_ids, mask=inputs.get("attention_mask"))
        own = call.params(params or SamplingParams(), logits_processor, stopping_criteria, ensemble.end_ids)
        answers = _decoded(ensemble, call.prompts, own, _streamed_to(streamer, input_ids))
        sequences = call.padded(answers)
        return GenerateDecoderOnlyOutput(sequences=sequences) if config.return_dict_in_generate else sequences

    return decode


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of `generate`. input_ids, mask: [rows, width]; what the mask leaves out, or nothing where it is None, is
    padding."""

    model: Any
    config: GenerationConfig
    input_ids: Tensor
    mask: Tensor | None

    @property
    def width(self) -> int:
        return self.input_ids.shape[1]

    @property
    def prompts(self) -> list[list[int]]:
        """The rows without their padding."""
        kept = torch.ones_like(self.input_ids) if self.mask is None else self.mask[:, -self.width :]
        return [row[own.bool()].tolist() for row, own in zip(self.input_ids, kept, strict=True)]

    def params(
        self, params: SamplingParams, processors: Iterable[Any], criteria: Iterable[Any], end_ids: Sequence[int]
    ) -> list[SamplingParams]:
        """Those of each row, its seed its own. Raises InvalidSampling."""
        given: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
        given |= self._lengths_and_ends(criteria, end_ids) | _of_processors(processors, self.width, params)
        if not self.config.do_sample:
            given["temperature"] = 0.0
        given["min_tokens"] = min(given["min_tokens"], given["max_tokens"])
        seed = int(torch.randint(2**SEED_BITS, ())) if params.seed is None else params.seed
        shared = replace(params, **given)
        return [replace(shared, seed=seed + row) for row in range(len(self.input_ids))]

    def _lengths_and_ends(self, criteria: Iterable[Any], end_ids: Sequence[int]) -> dict[str, Any]:
        found: dict[str, Any] = {"ignore_eos": True, "stop_token_ids": ()}
        for each in criteria:
            name = type(each).__name__
            if name == "MaxLengthCriteria":
                found["max_tokens"] = max(each.max_length - self.width, 0)
            elif name == "EosTokenCriteria":
                ends = {*each.eos_token_id.tolist()}
                # The model's own ends are a default, of one member; the others' stand beside them.
                is_default = ends == _ids(self.model.generation_config.eos_token_id)
                found["stop_token_ids"] = sorted(ends | {*end_ids} if is_default else ends)
            else:
                raise InvalidSampling(f"the stopping criterion {name} is not supported by cospec.custom_generate")
        return found

    def padded(self, answers: Sequence[Sequence[int]]) -> Tensor:
        """[rows, width + the longest answer]: the inputs as they came, each with its answer, padded behind."""
        longest = max(map(len, answers))
        pad = next(iter(sorted(_ids(self.config.pad_token_id) or _ids(self.config.eos_token_id))), 0)
        rows = [[*answer, *[pad] * (longest - len(answer))] for answer in answers]
        new = torch.tensor(rows, dtype=self.input_ids.dtype, device=self.input_ids.device).view(len(rows), longest)
        return torch.cat([self.input_ids, new], dim=1)


def _check(model: Any, config: GenerationConfig, inputs: dict[str, Any]) -> None:
    """Raises InvalidSampling for what would be ignored."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise InvalidSampling("cospec.custom_generate decodes with causal models, and this one has an encoder")
    for name in [name for name, value in inputs.items() if value is not None and name not in _INPUTS]:
        raise InvalidSampling(f"{name} is not supported by cospec.custom_generate; give input_ids and attention_mask")
    defaults = GenerationConfig._get_default_generation_params()
    for name, value in vars(config).items():
        if name.startswith("_") or name in _FOLLOWED | _OF_COMPUTING or value in (None, False, 0, [], {}):
            continue
        if name not in defaults or value != defaults[name]:
            raise InvalidSampling(f"{name} = {shown(value)} is not supported by cospec.custom_generate; leave it out")


def _of_processors(processors: Iterable[Any], width: int, params: SamplingParams) -> dict[str, Any]:
    """SamplingParams' fields. Raises InvalidSampling for a processor of another kind, or in another order than ours."""
    biases, least, last = dict(params.logit_bias), params.min_tokens, 0
    found: dict[str, Any] = {}
    for each in processors:
        name = type(each).__name__
        if name not in _PROCESSORS:
            raise InvalidSampling(
                f"the logits processor {name} is not supported by cospec.custom_generate; it takes "
                f"{', '.join(_PROCESSORS)}"
            )
        attribute, field, place = _PROCESSORS[name]
        if place < last:
            raise InvalidSampling(f"the logits processor {name} stands behind one that cospec applies after it")
        last = place
        value = getattr(each, attribute) if attribute else None
        if field == "logit_bias":
            biases |= dict.fromkeys(value.tolist(), -math.inf)
        elif field == "min_tokens":
            least = max(least, value - (width if attribute == "min_length" else 0))
        elif field is not None:
            found[field] = value
    return found | {"logit_bias": biases, "min_tokens": least}


def _ids(ids: Any) -> set[int]:
    """Token ids of a generation config: none, one, a list or a tensor."""
    listed = ids.tolist() if isinstance(ids, Tensor) else ids
    return set() if listed is None else {listed} if isinstance(listed, int) else {*listed}


def _streamed_to(streamer: Any, input_ids: Tensor) -> Any:
    """The streamer, which has been given the prompt. Raises InvalidSampling for several sequences."""
    if streamer is not None:
        if len(input_ids) > 1:
            raise InvalidSampling(f"a streamer takes one sequence, got {len(input_ids)}")
        streamer.put(input_ids.cpu())
    return streamer


def _decoded(
    ensemble: Ensemble, prompts: list[list[int]], params: list[SamplingParams], streamer: Any
) -> list[list[int]]:
    """The tokens of each answer, its end included. Raises MemberFailed for a sequence that failed."""
    answers: list[list[int]] = [[] for _ in prompts]
    for event in ensemble.stream(prompts, params):
        if streamer is not None:
            for token in event.tokens:
                streamer.put(torch.tensor([token.token]))
        if event.result is not None:
            if event.result.error is not None:
                raise MemberFailed(event.result.error)
            answers[event.prompt_index] = event.result.token_ids
    if streamer is not None:
        streamer.end()
    return answers
