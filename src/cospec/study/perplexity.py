"""Log-probabilities that an ensemble gives to a reference text.

The text is scored as part of a prompt; where members have prompts of their own, it is decoded under a constraint that
allows no other text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import isfinite

import torch
from torch import Tensor

from ..core.events import Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble, Prompt
from ..prompts import Chat
from ..runner import Tokenizer
from .ledger import TextLogprob
from .methods import PlannedMethod, first_error
from .timing import check


@dataclass(frozen=True)
class ForcedText:
    """A constraint that allows one text alone. Log-probabilities are reported from before it."""

    tokens: Sequence[int]
    vocab_size: int

    def allowed(self, output: Sequence[int], start: int, count: int) -> Tensor:
        """[count, vocab_size], bool: the text's token at each of the positions from `start` on; any behind the text."""
        mask = torch.ones((count, self.vocab_size), dtype=torch.bool)
        for row, token in enumerate(self.tokens[start : start + count]):
            mask[row] = False
            mask[row, token] = True
        return mask


@dataclass(frozen=True, kw_only=True)
class ReferenceText:
    """A text after a prompt. before: the prompt, or its first tokens where tokenizing both together changes its last
    ones. tokens: those of the text."""

    before: Prompt
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, prompt: str, text: str) -> "ReferenceText":
        """Tokenize prompt and text together. Where the prompt is empty, the text's first token takes its place."""
        whole = tuple(tokenizer.encode(prompt + text))
        alone = tuple(tokenizer.encode(prompt)) if prompt else whole[:1]
        # At least one token must stand before the text, or nothing predicts its first.
        shared = takewhile(lambda pair: pair[0] == pair[1], zip(alone, whole, strict=False))
        num = max(1, sum(1 for _ in shared))
        before = prompt if prompt and num == len(alone) else _as_text(tokenizer, whole[:num])
        return cls(before=before, tokens=whole[num:])

    @classmethod
    def answering(cls, tokenizer: Tokenizer, chat: Chat, text: str) -> "ReferenceText":
        """The text as the answer to a chat."""
        return cls(before=chat, tokens=answer_tokens(tokenizer, text))


def _as_text(tokenizer: Tokenizer, ids: tuple[int, ...]) -> Prompt:
    """The text of these ids, which goes into a member's own chat too; the ids themselves where it is that of others."""
    text = tokenizer.decode(ids)
    return text if tuple(tokenizer.encode(text)) == ids else ids


def answer_tokens(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """A text as it stands behind a rendered chat, without special tokens."""
    encode = getattr(tokenizer, "encode_part", tokenizer.encode)
    return tuple(encode(text))


def text_logprobs(method: PlannedMethod, texts: Sequence[ReferenceText]) -> list[TextLogprob]:
    """The log-probability that the method's ensemble gives each text; members see their own prompts where they have
    some.

    num_tokens is 0 where the target makes the text impossible. Raises InvalidPilot where a sequence fails.
    """
    plain = method.ensemble.with_plan(schedule="plain", gamma=None, proposer=None, first=None, verification="token")
    if plain.has_own_prompts or any(_differ(plain, text.before) for text in texts):
        results = _forced(plain, texts, [len(text.tokens) for text in texts])
        failed = [i for i, result in enumerate(results) if result.error]
        # A row that another token can be drawn from is none of a failing member: the target forbids the text there.
        others = _forced(plain, [texts[i] for i in failed], [len(results[i].token_ids) for i in failed], num_free=1)
        forbidden = {i for i, other in zip(failed, others, strict=True) if not other.error}
        entries = [[] if i in forbidden else result.logprobs or [] for i, result in enumerate(results)]
        results = [result for i, result in enumerate(results) if i not in forbidden]
    else:
        wholes = [(*plain.rendered(text.before)[0], *text.tokens) for text in texts]
        results = plain.generate(wholes, SamplingParams(max_tokens=0, prompt_logprobs=0))
        entries = [
            [entry for entry in (result.prompt_logprobs or [])[-len(text.tokens) :] if entry]
            for result, text in zip(results, texts, strict=True)
        ]
    check(method.name, len(texts), first_error(results))
    return [_summed([entry.logprob for entry in own]) for own in entries]


def _differ(ensemble: Ensemble, prompt: Prompt) -> bool:
    """Whether the members are given different prompts for this one, as those of different chat templates are."""
    return isinstance(prompt, Chat) and len(set(ensemble.rendered(prompt)[: len(ensemble.member_names)])) > 1


def _forced(
    ensemble: Ensemble, texts: Sequence[ReferenceText], lengths: Sequence[int], num_free: int = 0
) -> list[Result]:
    """Decode the first tokens of each text, as many as its length, and then `num_free` tokens that may be any."""
    params = [
        SamplingParams(
            max_tokens=length + num_free,
            ignore_eos=True,
            logprobs=0,
            constraint=ForcedText(text.tokens[:length], ensemble.vocab_size),
        )
        for text, length in zip(texts, lengths, strict=True)
    ]
    return ensemble.generate([text.before for text in texts], params)


def _summed(logprobs: Sequence[float]) -> TextLogprob:
    total = sum(logprobs)
    return TextLogprob(total=total, num_tokens=len(logprobs)) if isfinite(total) else TextLogprob(total=0, num_tokens=0)
