"""Whether sampled texts follow the target, token by token: each against the rows that members give after the same
tokens, in one pass and without any drafts."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..ensemble import Ensemble, Prompt
from ..runner import Feed, Runner, Slot
from ..runner.protocol import can_copy

Text = tuple[int, ...]

# Texts that are fed at once.
TEXTS_A_PASS = 16
# Of an excess that is compared with a normal distribution, in tokens squared.
LEAST_VARIANCE = 5.0


class Fit:
    """Holds texts of some prompts against the rows of the target. What a text adds is found once, however often it is
    sampled.

    prompts: of the texts. length: of the longest text that is allowed.
    """

    def __init__(self, ensemble: Ensemble, prompts: Sequence[Prompt], length: int) -> None:
        self._ensemble, self._prompts, self._length = ensemble, prompts, length
        self._found: list[dict[Text, Tensor]] = [{} for _ in prompts]

    def excesses(self, texts: Sequence[Sequence[Text]]) -> Tensor:
        """[sets, length, 2]: by position, how many tokens more than expected fell into each set, and the variance of
        that under the target. texts: of each prompt.

        At each position a set is known before the token is drawn: the tokens that a member or drafter gives a higher
        probability than r does, which is what verification takes back, and r's most likely token.
        """
        sums = torch.zeros((len(self._ensemble.names) + 1, self._length, 2), dtype=torch.float64)
        for prompt, found, own in zip(self._prompts, self._found, texts, strict=True):
            counts = Counter(filter(None, own))
            found.update(_excesses(self._ensemble, prompt, [text for text in counts if text not in found]))
            for text, count in counts.items():
                sums[:, : len(text)] += found[text] * count
        return sums


def _excesses(ensemble: Ensemble, prompt: Prompt, texts: Sequence[Text]) -> Iterator[tuple[Text, Tensor]]:
    """Each text of a prompt with what it adds, [sets, tokens, 2]."""
    for own, rows in _fed(ensemble, prompt, texts):
        log_r = ensemble.combination.log_probs(rows[: len(ensemble.member_names)])
        r = log_r.exp()
        # A lookup that finds nothing has no distribution: no comparison with NaN holds.
        sets = torch.cat([rows.log_softmax(-1) > log_r, (r == r.amax(-1, keepdim=True))[None]])
        tokens = torch.tensor([token for text in own for token in text], device=r.device)
        expected = (sets * r).sum(-1).double()
        hits = sets.gather(-1, tokens.expand(len(sets), -1)[..., None])[..., 0]
        more = torch.stack([hits.double() - expected, expected * (1 - expected)], dim=-1).cpu()
        yield from zip(own, torch.split(more, [len(text) for text in own], dim=1), strict=True)


def p_values(sums: Tensor) -> list[float]:
    """Of each set, the probability of such excesses under the target: of their sum, and of their squares.

    Whatever came before, a token's expected contribution is zero, so that the excesses of positions are uncorrelated.
    The sum shows a fault that biases all positions alike, the squares one that biases them in turn, as members take
    turns. The sum's is a bound, Freedman's inequality (1975), both sides; the squares are compared with chi-square.
    """
    excess, variance = sums.sum(1).unbind(-1)
    bounds = 2 * torch.exp(-excess.square() / (2 * (variance + excess.abs() / 3)).clamp(min=1e-9))
    # An excess of few expected tokens is far from normal.
    is_normal = sums[..., 1] >= LEAST_VARIANCE
    squares = torch.where(is_normal, sums[..., 0].square() / sums[..., 1].clamp(min=LEAST_VARIANCE), 0.0).sum(1)
    return [*bounds.clamp(max=1).tolist(), *map(chi_square_p, squares.tolist(), is_normal.sum(1).tolist())]


def chi_square_p(statistic: float, freedom: int) -> float:
    """The probability that chi-square with so many degrees of freedom is at least this; 1 where there are none."""
    if freedom == 0:
        return 1.0
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _fed(ensemble: Ensemble, prompt: Prompt, texts: Sequence[Text]) -> Iterator[tuple[Sequence[Text], Tensor]]:
    """Some of the texts after the other, and the rows [lanes, tokens of these texts, vocab] that their tokens are drawn
    from. A prompt is fed once for all texts of a slot."""
    lane_prompts = ensemble.rendered(prompt)
    lanes = [
        _Lane(runner, own, min(TEXTS_A_PASS, len(texts)))
        for runner, own in zip(ensemble.runners, lane_prompts, strict=True)
    ]
    try:
        for start in range(0, len(texts), TEXTS_A_PASS):
            own = texts[start : start + TEXTS_A_PASS]
            rows = [lane.rows(own)[:, : ensemble.vocab_size] for lane in lanes]
            yield own, torch.stack([row.to(rows[0]) for row in rows])
    finally:
        for lane in lanes:
            lane.close()


class _Lane:
    """A runner with a prompt in each of some slots."""

    def __init__(self, runner: Runner, prompt: Sequence[int], num_slots: int) -> None:
        self._runner, self._prompt = runner, prompt
        self._slots: list[Slot] = []
        for _ in range(num_slots):
            slot = runner.open()
            if self._slots and can_copy(runner):
                runner.copy(self._slots[0], slot, len(prompt) - 1)
            elif len(prompt) > 1:
                runner.feed([Feed(slot, prompt[:-1], 0)])
            self._slots.append(slot)

    def rows(self, texts: Sequence[Text]) -> Tensor:
        """[tokens of all texts, vocab]."""
        feeds = [
            Feed(slot, [self._prompt[-1], *text[:-1]], len(text))
            for slot, text in zip(self._slots, texts, strict=False)
        ]
        rows = torch.cat(self._runner.feed(feeds))
        for slot in self._slots:
            self._runner.trim(slot, len(self._prompt) - 1)
        return rows

    def close(self) -> None:
        for slot in self._slots:
            self._runner.close(slot)
