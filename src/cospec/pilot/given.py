"""Log-probabilities that an ensemble gives a text: read as a prompt, or, where members have prompts of their own, said
under a constraint that allows nothing else."""

from collections.abc import Sequence as Values
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from ..errors import InvalidPrompt
from ..sampling import SamplingParams
from .ledger import TextLogprob
from .timed import check
from .trials import Trial


@dataclass(frozen=True)
class Forced:
    """A constraint that allows one text alone. log r is reported from before it."""

    tokens: Values[int]
    vocab_size: int

    def allowed(self, output: Values[int], start: int, count: int) -> Tensor:
        mask = torch.zeros((count, self.vocab_size), dtype=torch.bool)
        for row in range(count):
            mask[row, self.tokens[min(start + row, len(self.tokens) - 1)]] = True
        return mask


def given_logprobs(trial: Trial, pairs: Values[tuple[str, str]]) -> list[TextLogprob]:
    """Of each continuation after its prompt, (prompt, continuation); members with prompts of their own see those.

    num_tokens is 0 where the target gives the text no chance. Raises InvalidPrompt for a continuation that makes no
    token, InvalidPilot where a text fails.
    """
    plain = trial.ensemble.with_plan(schedule="plain", gamma=None, proposer=None, first=None, verification="token")
    tokenizer = plain.tokenizer
    assert tokenizer is not None
    # Where nothing stands before a text, its own first token does.
    starts = [[*tokenizer.encode(prompt)] if prompt else [*tokenizer.encode(text)][:1] for prompt, text in pairs]
    wholes = [tokenizer.encode(prompt + text) for prompt, text in pairs]
    for (prompt, text), before, whole in zip(pairs, starts, wholes, strict=True):
        if len(whole) <= len(before):
            raise InvalidPrompt(f"the text {text!r} after {prompt[-40:]!r} makes no token; give a longer one")
    tails = [whole[len(before) :] for before, whole in zip(starts, wholes, strict=True)]
    if any(source.prompt is not None for source in plain.sources):
        params = [_forcing(tail, plain.vocab_size) for tail in tails]
        results = plain.generate([prompt or start for (prompt, _), start in zip(pairs, starts, strict=True)], params)
        logprobs = [result.logprobs or [] for result in results]
    else:
        results = plain.generate(wholes, SamplingParams(max_tokens=1, prompt_logprobs=0))
        logprobs = [
            [entry for entry in (result.prompt_logprobs or [])[-len(tail) :] if entry]
            for result, tail in zip(results, tails, strict=True)
        ]
    check(trial.name, results)
    return [_summed([entry.logprob for entry in entries]) for entries in logprobs]


def _forcing(tokens: Values[int], vocab_size: int) -> SamplingParams:
    forced = Forced(tokens, vocab_size)
    return SamplingParams(max_tokens=len(tokens), ignore_eos=True, logprobs=0, constraint=forced)


def _summed(logprobs: Values[float]) -> TextLogprob:
    total = sum(logprobs)
    return TextLogprob(total=total, num_tokens=len(logprobs)) if isfinite(total) else TextLogprob(total=0, num_tokens=0)
