"""Faults that others shipped. Each is put in, and the law that holds without it must fail."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from unittest import mock

import pytest
import torch

from cospec import Arithmetic, Contrastive, Mixture, SamplingParams
from cospec.core import verify
from cospec.core.draws import Purpose, probabilities
from cospec.core.noise import noisy_argmax
from cospec.core.propose import Proposal, _drafts
from cospec.core.rows import LogProbs
from cospec.core.settle import Block, verdicts_of
from cospec.core.sheet import Sheet
from cospec.core.target import Span, log_combined, stacked
from cospec.core.tokens import Draft
from cospec.core.verify import Runs, Uniforms, Verdict
from cospec.schedule.mixture import DrawnMember
from cospec.testing.enumeration import EnumeratedDraws

from . import naive
from .cases import TOKENS, Blend, Case

NOTICEABLE = 0.01
ROUNDING = 1e-9

ASYMMETRIC = Blend(Arithmetic([1.6, -0.7]), naive.arithmetic(1.6, -0.7), (31, 32))
MIXED = Blend(Mixture([0.3, 0.7]), naive.mixture(0.3, 0.7), (33, 34))
FIXED = Case(
    blend=MIXED,
    schedule="fixed",
    gamma=2,
    proposer="drafter",
    params=SamplingParams(max_tokens=TOKENS, ignore_eos=True),
)
# Blocks that are accepted in part are common here.
BLOCK = FIXED.but(blend=Blend(MIXED.combination, MIXED.target, (50, 51)), verification="block", gamma=3, sharpness=2.5)
ALTERNATE = FIXED.but(blend=ASYMMETRIC, schedule="alternate", gamma=1, proposer=None)


def log_target_with(change: Callable[[torch.Tensor], torch.Tensor]) -> AbstractContextManager[object]:
    """The target of the position behind a block comes from rows [members, vocab] that were changed so."""

    def faulty(spans: list[Span], combination: object) -> list[torch.Tensor]:
        log_rs = log_combined(spans, combination)
        for span, log_r in zip(spans, log_rs, strict=True):
            if span.sheet.drafts and span.stop == span.sheet.frontier + 1:
                rows = stacked([Span(span.sheet, span.stop - 1, span.stop)], span.sheet.members)[:, 0]
                log_r[-1:] = combination.log_probs(change(rows)[:, None])
        return log_rs

    return mock.patch("cospec.core.target.log_combined", faulty)


def bonus_token_from_one_member() -> AbstractContextManager[object]:
    return log_target_with(lambda rows: rows[:1].expand_as(rows))


def last_row_missing_in_the_mix() -> AbstractContextManager[object]:
    return log_target_with(lambda rows: torch.cat([rows[:1], torch.zeros_like(rows[1:])]))


def faulty_block(run: Runs, accept: Uniforms, replace: Uniforms, *, stops: bool, is_adjusted: bool) -> list[Verdict]:
    """Block verification of one run, except that it may stop at the first failure or replace from max(0, p - q)."""
    ratios = [p / q for p, q in zip(run.p, run.q, strict=True)]
    reach = [1.0]
    for ratio in ratios:
        reach.append(min(1.0, reach[-1] * ratio))
    target, draft = probabilities(run.log_target), [row() for row in run.draft]
    residuals = [(a * p - q).clamp(min=0) for a, p, q in zip(reach, target, draft, strict=False)]
    accepted = 0
    for i in range(1, len(ratios) + 1):
        mass = float(residuals[i].sum()) if i < len(ratios) else 0.0
        h = reach[i] if i == len(ratios) else mass / (mass + 1 - reach[i]) if mass else 0.0
        if accept(0, i - 1) < h:
            accepted = i
        elif stops:
            break
    if accepted == len(ratios):
        return [Verdict(accepted, None)]
    residual = residuals[accepted] if is_adjusted else (target[accepted] - draft[accepted]).clamp(min=0)
    return [Verdict(accepted, *verify.draw(residual[None], [replace(0, accepted)]))]


def block_with(*, stops: bool = False, is_adjusted: bool = True) -> AbstractContextManager[object]:
    return mock.patch("cospec.core.settle.verify_block", partial(faulty_block, stops=stops, is_adjusted=is_adjusted))


def one_stream_for_all_purposes() -> AbstractContextManager[object]:
    """The uniform that drew the draft is the one that accepts and replaces it."""
    uniform = EnumeratedDraws.uniform

    def shared(self: EnumeratedDraws, position: int, purpose: Purpose, epoch: int = 0) -> object:
        return uniform(self, position, Purpose.PROPOSE if purpose != Purpose.SETTLE else purpose, epoch)

    return mock.patch.object(EnumeratedDraws, "uniform", shared)


def drafts_from_the_noise_that_settles() -> AbstractContextManager[object]:
    """Drafted as for coupled verification, but verified by ratios."""

    def by_noise(items: list[Proposal], log_own: torch.Tensor, log_qs: list[LogProbs]) -> list[Draft]:
        tokens = noisy_argmax([(sheet, sheet.frontier, row) for (sheet, _), row in zip(items, log_qs, strict=True)])
        probs = [probabilities(log_q.values)[0] for log_q in log_qs]
        return _drafts(items, [token for (token,) in tokens], probs, [log_q.ids for log_q in log_qs], log_own)

    # The package has a function of the module's name.
    return mock.patch.object(sys.modules[_drafts.__module__], "_draft", by_noise)


def transforms_unread_when_verifying() -> AbstractContextManager[object]:
    def faulty(blocks: list[Block]) -> list[Verdict]:
        spans = [Span(block.sheet, block.start, block.start + len(block.drafts)) for block in blocks]
        unshaped = log_combined(spans, MIXED.combination) if spans else []
        return verdicts_of([replace(b, log_target=LogProbs(log_r)) for b, log_r in zip(blocks, unshaped, strict=True)])

    return mock.patch("cospec.core.settle.verdicts_of", faulty)


def rows_by_role() -> AbstractContextManager[object]:
    """The proposer's row first, whoever it is."""

    def faulty(spans: list[Span], combination: object) -> list[torch.Tensor]:
        orders = []
        for span in spans:
            order = list(span.sheet.members)
            if span.sheet.drafts:
                order.sort(key=lambda member: member != span.sheet.drafts[0].proposer)
            orders.append(order)
        return [combination.log_probs(stacked([span], order)) for span, order in zip(spans, orders, strict=True)]

    return mock.patch("cospec.core.target.log_combined", faulty)


def draws_used_again_after_a_rollback() -> AbstractContextManager[object]:
    rollback = Sheet.rollback

    def faulty(self: Sheet) -> None:
        rollback(self)
        self.epoch -= 1

    return mock.patch.object(Sheet, "rollback", faulty)


def draws_used_again_after_a_refinement() -> AbstractContextManager[object]:
    refine = Sheet.refine

    def faulty(self: Sheet, *args: object) -> None:
        refine(self, *args)
        self.epoch -= 1

    return mock.patch.object(Sheet, "refine", faulty)


def refined_drafts_said_to_be_the_drafters() -> AbstractContextManager[object]:
    """Kept with the distribution that the drafter drew them from, not the member's that they have now."""
    refine = Sheet.refine

    def faulty(self: Sheet, accepted: list[object], replacement: object) -> None:
        raw = self.drafts[self.num_refined :]
        kept = [replace(draft, probs=old.probs) for draft, old in zip(accepted, raw, strict=False)]
        refine(self, kept, replacement)

    return mock.patch.object(Sheet, "refine", faulty)


def chain_of_one_member() -> AbstractContextManager[object]:
    """Whoever is drawn for a position, the first member's row decides it."""
    return mock.patch.object(DrawnMember, "cells", return_value=(0,))


def certain_without_the_weight_not_heard() -> AbstractContextManager[object]:
    def faulty(combination: Mixture, logits: torch.Tensor, members: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        best = torch.softmax(logits, dim=-1).sum(0).topk(2, dim=-1)
        return best.values[:, 0] > best.values[:, 1], best.indices[:, 0]

    return mock.patch("cospec.core.certain._of_mixture", faulty)


def expert_alone_whatever_is_plausible() -> AbstractContextManager[object]:
    def faulty(expert: torch.Tensor, plausibility: float) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(expert.shape[0], dtype=torch.bool), expert.argmax(-1)

    return mock.patch("cospec.core.certain._of_expert", faulty)


def unlikely_drafts_dropped() -> AbstractContextManager[object]:
    """Not drafting on behind an unlikely draft is a stopping rule; taking the draft itself back is none."""
    extend = Sheet.extend

    def faulty(self: Sheet, draft: Draft) -> None:
        if draft.probs[draft.token] < 0.4:
            self.decline(draft.proposer)
        else:
            extend(self, draft)

    return mock.patch.object(Sheet, "extend", faulty)


def drafts_of_all_drafters_alike() -> AbstractContextManager[object]:
    """Kept with the distribution that the first one was drawn from, whoever drew them."""
    extend = Sheet.extend

    def faulty(self: Sheet, draft: Draft) -> None:
        extend(self, replace(draft, probs=self.drafts[0].probs) if self.drafts else draft)

    return mock.patch.object(Sheet, "extend", faulty)


HOT = SamplingParams(max_tokens=TOKENS, ignore_eos=True, temperature=0.4, top_p=0.8)

CASCADE = FIXED.but(schedule="cascade", gamma=(2, 3))
GREEDY_3 = FIXED.but(
    blend=Blend(Mixture([0.4, 0.35, 0.25]), naive.mixture(0.4, 0.35, 0.25), (41, 42, 43)),
    params=SamplingParams(max_tokens=4, ignore_eos=True, temperature=0),
)
PLAUSIBLE = CASCADE.but(blend=Blend(Contrastive(0.8, plausibility=0.2), naive.contrastive(0.8, 0.2), (8, 9)))

FAULTS = {
    "draws used again after a refinement": (draws_used_again_after_a_refinement, CASCADE),
    "draws used again after a refinement, in blocks": (
        draws_used_again_after_a_refinement,
        CASCADE.but(verification="block"),
    ),
    "refined drafts said to be the drafter's": (refined_drafts_said_to_be_the_drafters, CASCADE),
    "unlikely drafts dropped": (unlikely_drafts_dropped, FIXED),
    "a chain of one member": (chain_of_one_member, FIXED.but(schedule="mixture")),
    "drafts of all drafters alike": (drafts_of_all_drafters_alike, FIXED.but(schedule="mixture", proposer="each")),
    "certain without the weight not heard": (certain_without_the_weight_not_heard, GREEDY_3),
    "the expert alone, whatever is plausible": (expert_alone_whatever_is_plausible, PLAUSIBLE),
    "bonus token from one member": (bonus_token_from_one_member, FIXED),
    "last row missing in the mix": (last_row_missing_in_the_mix, FIXED),
    "block stops at the first failure": (partial(block_with, stops=True), BLOCK),
    "block replaces from p - q": (partial(block_with, is_adjusted=False), BLOCK),
    "one stream for all purposes": (one_stream_for_all_purposes, FIXED),
    "one stream, in blocks": (one_stream_for_all_purposes, BLOCK),
    "noise shared with a ratio test": (drafts_from_the_noise_that_settles, BLOCK),
    "temperature and top-p unread": (transforms_unread_when_verifying, FIXED.but(params=HOT)),
    "temperature and top-p unread, in blocks": (
        transforms_unread_when_verifying,
        FIXED.but(params=HOT, verification="block"),
    ),
    "rows by role": (rows_by_role, ALTERNATE),
    "rows by role, in blocks": (rows_by_role, ALTERNATE.but(gamma=2, verification="block")),
    "draws used again": (draws_used_again_after_a_rollback, BLOCK),
}


# Each case once: several faults are put into one.
SOUND = {id(case): case for _, case in FAULTS.values()}.values()


@pytest.mark.larger
@pytest.mark.parametrize("case", SOUND, ids=lambda case: f"{case.schedule} {case.verification}")
def test_there_is_nothing_to_notice_without_a_fault(case):
    assert case.distance() < ROUNDING


@pytest.mark.larger
@pytest.mark.parametrize("name", FAULTS)
def test_the_law_notices(name):
    fault, case = FAULTS[name]
    with fault():
        assert case.distance() > NOTICEABLE


def test_the_faulty_block_verifier_is_right_without_its_faults():
    with block_with():
        assert BLOCK.distance() < ROUNDING


# No fault, and why: token by token nobody looks at what was drafted behind a rejection, so that its draws are as good
# as new. Block verification has looked at them.
@pytest.mark.parametrize("fault", [draws_used_again_after_a_rollback, drafts_from_the_noise_that_settles])
def test_token_verification_may_use_the_draws_of_dropped_drafts_again(fault):
    with fault():
        assert BLOCK.but(verification="token").distance() < ROUNDING
