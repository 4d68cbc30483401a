"""Log-probabilities that an ensemble gives a text: read as a prompt, or, where members have prompts of their own, said
under a constraint that allows nothing else."""

from collections.abc import Sequence as Values
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from ..core.params import SamplingParams
from ..ensemble import Prompt
from ..runner import Tokenizer
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


@dataclass(frozen=True)
class Given:
    """A text after what stands before it. before: a prompt, or its first tokens where the text changes the last ones.
    tokens: the text's, and those of both. whole: all tokens."""

    before: Prompt
    tokens: tuple[int, ...]
    whole: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, prompt: str, text: str) -> "Given":
        """Where no prompt stands before a text, its own first token does."""
        whole = tuple(tokenizer.encode(prompt + text))
        alone = tuple(tokenizer.encode(prompt)) if prompt else whole[:1]
        num = max(1, _num_shared(alone, whole))
        before = prompt if prompt and num == len(alone) else whole[:num]
        return cls(before=before, tokens=whole[num:], whole=whole)


def _num_shared(one: Values[int], other: Values[int]) -> int:
    """How many they begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def given_logprobs(trial: Trial, texts: Values[Given]) -> list[TextLogprob]:
    """Of each text; members with prompts of their own see those.

    num_tokens is 0 where the target gives the text no chance. Raises InvalidPilot where a text fails.
    """
    plain = trial.ensemble.with_plan(schedule="plain", gamma=None, proposer=None, first=None, verification="token")
    if any(source.prompt is not None for source in plain.sources):
        params = [_forcing(text.tokens, plain.vocab_size) for text in texts]
        results = plain.generate([text.before for text in texts], params)
        logprobs = [result.logprobs or [] for result in results]
    else:
        results = plain.generate([text.whole for text in texts], SamplingParams(max_tokens=1, prompt_logprobs=0))
        logprobs = [
            [entry for entry in (result.prompt_logprobs or [])[-len(text.tokens) :] if entry]
            for result, text in zip(results, texts, strict=True)
        ]
    check(trial.name, results)
    return [_summed([entry.logprob for entry in entries]) for entries in logprobs]


def _forcing(tokens: Values[int], vocab_size: int) -> SamplingParams:
    forced = Forced(tokens, vocab_size)
    return SamplingParams(max_tokens=len(tokens), ignore_eos=True, logprobs=0, constraint=forced)


def _summed(logprobs: Values[float]) -> TextLogprob:
    total = sum(logprobs)
    return TextLogprob(total=total, num_tokens=len(logprobs)) if isfinite(total) else TextLogprob(total=0, num_tokens=0)
