"""Deciding: a sequence's drafts are verified against the target, and where nothing is drafted a token is drawn."""

from collections import defaultdict
from collections.abc import Sequence as Values
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CospecError, MemberFailed
from .drafts import Draft
from .noise import noisy_argmax
from .policy import Policy, is_coupled
from .sampling import Purpose, probabilities
from .sheet import Sequence, Settled
from .target import Span, distributions, joined, log_targets, no_distribution
from .verify import Runs, Verdict, verify_block, verify_coupled, verify_token


def settle(items: Values[tuple[Sequence, Policy]]) -> list[list[Settled] | CospecError]:
    """Of each sequence, decide all positions whose cells are filled and commit them, up to the text's end.

    A CospecError stands for a sequence that cannot go on, such as one whose rows are no distribution. What a
    combination raises is raised before anything is decided, and so is what verification raises.
    """
    targets = log_targets(items)
    blocks = {
        index: Block(
            sequence,
            sequence.position,
            sequence.drafts[: target.shape[0]],
            target[: len(sequence.drafts)],
            policy.verification,
        )
        for index, ((sequence, policy), target) in enumerate(zip(items, targets, strict=True))
        if isinstance(target, Tensor) and sequence.drafts
    }
    verdicts = dict(zip(blocks, _verdicts([*blocks.values()]), strict=True)) if blocks else {}
    outcomes: list[list[Settled] | CospecError] = []
    free: list[tuple[Sequence, list[Settled], Tensor]] = []
    for index, ((sequence, _), target) in enumerate(zip(items, targets, strict=True)):
        if isinstance(target, CospecError):
            outcomes.append(target)
            continue
        settled = _committed(blocks[index], verdicts[index]) if index in blocks else []
        outcomes.append(settled)
        if target is not None and _is_open(sequence, settled, target):
            free.append((sequence, settled, target[-1:]))
    # Nothing is drafted there, and all cells are filled: the target's own token, for free.
    tokens = noisy_argmax([(sequence, sequence.position, log_r) for sequence, _, log_r in free])
    for (sequence, settled, _), (token,) in zip(free, tokens, strict=True):
        settled.append(Settled(token))
        sequence.commit(settled[-1])
    return outcomes


def _is_open(sequence: Sequence, settled: list[Settled], log_r: Tensor) -> bool:
    """Whether a token may follow these in this round: there is a row for it, and they end neither in a token that
    replaced a draft nor in the text's end."""
    has_ended = bool(settled) and (settled[-1].replaced is not None or settled[-1].token in sequence.end_ids)
    return len(settled) < log_r.shape[0] and not has_ended


@dataclass(frozen=True)
class Block:
    """Drafts of a sequence at positions from `start` on, and log of what they are verified against, [drafts, vocab]."""

    sequence: Sequence
    start: int
    drafts: Values[Draft]
    log_target: Tensor
    verification: str

    def uniform(self, index: int, purpose: Purpose) -> float:
        return self.sequence.draws.uniform(self.start + index, purpose, self.sequence.epoch)


def _verdicts(blocks: Values[Block]) -> list[Verdict]:
    """Of each. Raises MemberFailed where verification raises anything, and has changed nothing then."""
    try:
        return verdicts_of(blocks)
    except Exception as error:
        raise MemberFailed.by(error, "verification") from error


def verdicts_of(blocks: Values[Block]) -> list[Verdict]:
    """Of each; those verified alike are verified at once."""
    verdicts: dict[int, Verdict] = {}
    alike: dict[tuple[str, torch.device, torch.dtype], list[int]] = defaultdict(list)
    for index, block in enumerate(blocks):
        how = "coupled" if is_coupled(block.verification, block.sequence.params) else block.verification
        alike[how, block.log_target.device, block.log_target.dtype].append(index)
    for (how, *_), same in alike.items():
        verified = _coupled if how == "coupled" else _by_ratio
        verdicts.update(zip(same, verified([blocks[i] for i in same]), strict=True))
    return [verdicts[i] for i in range(len(blocks))]


def _coupled(blocks: Values[Block]) -> list[Verdict]:
    tokens = noisy_argmax([(block.sequence, block.start, block.log_target) for block in blocks])
    drafted = [[draft.token for draft in block.drafts] for block in blocks]
    return [verify_coupled(*each) for each in zip(drafted, tokens, strict=True)]


def _by_ratio(blocks: Values[Block]) -> list[Verdict]:
    """On one device, and all token by token or all as blocks."""
    drafts = [draft for block in blocks for draft in block.drafts]
    log_target = joined([block.log_target for block in blocks])
    runs = Runs(
        lengths=[len(block.drafts) for block in blocks],
        tokens=torch.tensor([draft.token for draft in drafts], device=log_target.device),
        target=probabilities(log_target),
        draft=torch.stack([draft.probs.to(log_target) for draft in drafts if draft.probs is not None]),
    )
    verify = verify_block if blocks[0].verification == "block" else verify_token
    return verify(
        runs,
        accept=lambda run, i: blocks[run].uniform(i, Purpose.ACCEPT),
        replace=lambda run, i: blocks[run].uniform(i, Purpose.REPLACE),
    )


def _committed(block: Block, verdict: Verdict) -> list[Settled]:
    """Commit what comes of the drafts."""
    sequence = block.sequence
    settled = []
    for draft in block.drafts[: verdict.accepted]:
        settled.append(Settled(draft.token, proposer=draft.proposer, confidence=draft.confidence))
        sequence.commit(settled[-1])
    if verdict.token is not None:
        rejected = block.drafts[verdict.accepted]
        sequence.rollback()
        settled.append(
            Settled(
                verdict.token,
                replaced=rejected.token,
                rejected=rejected.proposer,
                confidence=rejected.confidence,
            )
        )
        sequence.commit(settled[-1])
    return settled


def refine(sequence: Sequence, lane: int, verification: str) -> None:
    """A member verifies the drafters' drafts against its own distribution, so that what is left is a sample of that.

    How many tokens that gives depends on what is drafted before and on draws that no later verdict sees: a stopping
    rule, so that all of them may be put to the next verification as drafts of this member.
    """
    first = sequence.num_refined
    raw, start = sequence.drafts[first:], sequence.position + first
    span = Span(sequence, start, start + len(raw))
    (log_p,) = distributions([(sequence, start, torch.log_softmax(span.of(lane), dim=-1))])
    if isinstance(log_p, CospecError):
        raise log_p
    if log_p is None:
        raise no_distribution(sequence.lanes[lane].name)
    (verdict,) = verdicts_of([Block(sequence, start, raw, log_p, verification)])
    probs = [None] * len(raw) if is_coupled(verification, sequence.params) else [*probabilities(log_p)]
    accepted = [replace(draft, proposer=lane, probs=probs[i]) for i, draft in enumerate(raw[: verdict.accepted])]
    replacement = None
    if verdict.token is not None:
        rejected = raw[verdict.accepted]
        replacement = replace(rejected, token=verdict.token, proposer=lane, probs=probs[verdict.accepted])
    sequence.refine(accepted, replacement)
