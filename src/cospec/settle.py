"""Settling: decide positions of one sequence's sheet, from the first, as long as their cells are filled."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .combine import Combination
from .drafts import Draft
from .errors import MemberFailed
from .sampling import History, Purpose, draw, shape, shape_members
from .schedule import Schedule
from .sequence import Lane, Sequence, Settled
from .shortcuts import certain_tokens, has_shortcut
from .verify import Run, Verdict, verify_block, verify_coupled, verify_token


class Observer(Protocol):
    """Who wants to know what calls cost and what rows say; lanes by index."""

    def on_call(self, lane: int, num_rows: int, num_tokens: int, seconds: float) -> None:
        """A runner took so long for a call of so many sequences, the longest fed so many tokens."""
        ...

    def on_round(self, num_live: int, num_feeds: int, seconds: float) -> None:
        """A round took so long outside its calls."""
        ...

    def on_settled(self, sequence: Sequence, first: int, count: int) -> None:
        """Positions first .. first + count - 1 were settled, and their rows are still there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What decides a sequence's text and its speed: the target, the schedule, the verification."""

    combination: Combination
    schedule: Schedule
    verification: str
    observer: Observer | None = None


def settle(sequence: Sequence, policy: Policy) -> list[Settled]:
    """Decide all positions whose cells are filled and commit them, up to the text's end."""
    log_r = _log_target(sequence, policy)
    if log_r is None:
        return []
    run = sequence.drafts[: log_r.shape[0]]
    settled = _settle_run(sequence, run, log_r, policy.verification) if run else []
    has_ended = bool(settled) and (settled[-1].replaced is not None or settled[-1].token in sequence.end_ids)
    if len(run) < log_r.shape[0] and not has_ended:
        # Nothing is drafted here, and all cells are filled: the target's own token, for free.
        settled.append(Settled(_noisy_argmax(sequence, sequence.position, log_r[-1:])[0]))
        sequence.commit(settled[-1])
    return settled


def _settle_run(sequence: Sequence, run: list[Draft], log_r: Tensor, verification: str) -> list[Settled]:
    """Verify the drafts of `run` against log_r [len(run) or one more, vocab]; commit what comes of it."""
    verdict = _verify(sequence, sequence.position, run, log_r[: len(run)], verification)
    settled = []
    for draft in run[: verdict.accepted]:
        settled.append(Settled(draft.token, proposer=draft.proposer))
        sequence.commit(settled[-1])
    if verdict.token is not None:
        rejected = run[verdict.accepted]
        sequence.rollback()
        settled.append(Settled(verdict.token, replaced=rejected.token, rejected=rejected.proposer))
        sequence.commit(settled[-1])
    return settled


def _verify(sequence: Sequence, start: int, drafts: list[Draft], log_p: Tensor, verification: str) -> Verdict:
    """The drafts at positions from `start` on, against log p [len(drafts), vocab]."""
    epoch = sequence.epoch
    if verification == "coupled":
        return verify_coupled([draft.token for draft in drafts], _noisy_argmax(sequence, start, log_p))
    run = Run(
        tokens=torch.tensor([draft.token for draft in drafts], device=log_p.device),
        target=log_p.exp(),
        draft=torch.stack([draft.probs for draft in drafts]).to(log_p),
    )
    verify = verify_block if verification == "block" else verify_token
    return verify(
        run,
        accept=lambda i: sequence.draws.uniform(start + i, Purpose.ACCEPT, epoch),
        replace=lambda i: sequence.draws.uniform(start + i, Purpose.REPLACE, epoch),
    )


def refine(sequence: Sequence, lane: int, verification: str) -> None:
    """A member verifies the drafters' drafts against its own distribution, so that what is left is a sample of that.

    How many tokens that gives depends on what is drafted before and on draws that no later verdict sees: a stopping
    rule, so that all of them may be put to the next verification as drafts of this member.
    """
    first = sequence.num_refined
    raw, start = sequence.drafts[first:], sequence.position + first
    rows = sequence.lanes[lane].between(start, start + len(raw))
    log_p = _log_member(sequence, lane, start, rows)
    verdict = _verify(sequence, start, raw, log_p, verification)
    probs = log_p.exp()
    accepted = [replace(draft, proposer=lane, probs=probs[i]) for i, draft in enumerate(raw[: verdict.accepted])]
    replacement = None
    if verdict.token is not None:
        rejected = raw[verdict.accepted]
        replacement = replace(rejected, token=verdict.token, proposer=lane, probs=probs[verdict.accepted])
    sequence.refine(accepted, replacement)


def propose(sequence: Sequence, lane: int, verification: str) -> None:
    """Draft the token at the frontier from the lane's bonus row, under the transforms of the target.

    A drafter whose row allows no token has none to propose.
    """
    position = sequence.frontier
    row = sequence.lanes[lane].between(position, position + 1)
    log_q = _shaped(sequence, position, torch.log_softmax(shape_members(row, sequence.params), dim=-1))
    if lane not in sequence.members and not log_q.amax().isfinite():
        sequence.decline(lane)
        return
    _require_distribution(log_q, sequence.lanes[lane].name)
    probs = log_q[0].exp()
    if verification == "coupled":
        token = _noisy_argmax(sequence, position, log_q)[0]
    else:
        token = draw(probs, sequence.draws.uniform(position, Purpose.PROPOSE, sequence.epoch))
    sequence.extend(Draft(token, lane, probs, place=len(sequence.drafts)))


def log_combined(sequence: Sequence, combination: Combination, start: int, stop: int) -> Tensor:
    """log r before the transforms for positions start .. stop - 1, [positions, vocab]."""
    rows = _stacked([sequence.lanes[member] for member in sequence.members], start, stop)
    return combination.log_probs(shape_members(rows, sequence.params))


def _log_member(sequence: Sequence, lane: int, start: int, rows: Tensor) -> Tensor:
    """log p of one member under the transforms of the target, for rows from `start` on, [positions, vocab]."""
    log_p = torch.log_softmax(shape_members(rows, sequence.params), dim=-1)
    log_p = _shaped(sequence, start, log_p)
    _require_distribution(log_p, sequence.lanes[lane].name)
    return log_p


def _log_target(sequence: Sequence, policy: Policy) -> Tensor | None:
    """log of what tokens are drawn from, from the first position on as far as it is certain: drafted ones and one
    more. None if nothing is."""
    position = sequence.position
    parts = []
    for cells, count in _filled(sequence, policy.schedule):
        parts.append(_log_cells(sequence, policy.combination, cells, position, position + count))
        position += count
    certain = _log_certain(sequence, policy.combination, position)
    if certain is not None:
        parts.append(certain)
    if not parts:
        return None
    log_r = _shaped(sequence, sequence.position, torch.cat(parts) if len(parts) > 1 else parts[0])
    _require_distribution(log_r, " + ".join(sequence.lanes[i].name for i in sequence.members))
    return log_r


def _filled(sequence: Sequence, schedule: Schedule) -> list[tuple[tuple[int, ...], int]]:
    """The positions, from the first, whose cells are filled: runs of equal cells with their lengths."""
    cells = []
    for position in range(sequence.position, _stop(sequence)):
        needed = tuple(schedule.cells(sequence, position))
        if not all(sequence.lanes[i].has(position) for i in needed):
            break
        cells.append(needed)
    return [(needed, len(list(same))) for needed, same in itertools.groupby(cells)]


def _stop(sequence: Sequence) -> int:
    """Behind the last position that can be settled now: drafted ones and one more."""
    return min(sequence.frontier + 1, sequence.limit)


def _log_cells(sequence: Sequence, combination: Combination, cells: tuple[int, ...], start: int, stop: int) -> Tensor:
    if len(cells) == sequence.num_members:
        return log_combined(sequence, combination, start, stop)
    rows = _stacked([sequence.lanes[i] for i in cells], start, stop)[0]
    return torch.log_softmax(shape_members(rows, sequence.params), dim=-1)


def _log_certain(sequence: Sequence, combination: Combination, start: int) -> Tensor | None:
    """log r, all on one token, from `start` on as far as the members heard so far make it certain; see shortcuts."""
    heard = [i for i in sequence.members if sequence.lanes[i].has(start)]
    is_partly_heard = 0 < len(heard) < sequence.num_members
    if not is_partly_heard or not has_shortcut(combination, is_greedy=sequence.params.is_argmax):
        return None
    stop = min(_stop(sequence), *(sequence.lanes[i].seen + 1 for i in heard))
    if stop <= start:
        return None
    rows = shape_members(_stacked([sequence.lanes[i] for i in heard], start, stop), sequence.params)
    tokens = certain_tokens(combination, rows, heard)
    if not tokens:
        return None
    log_r = rows.new_full((len(tokens), rows.shape[-1]), -math.inf)
    return log_r.scatter_(1, torch.tensor(tokens, device=rows.device)[:, None], 0.0)


def _stacked(lanes: list[Lane], start: int, stop: int) -> Tensor:
    """[lanes, positions, vocab], on the first lane's device."""
    rows = [lane.between(start, stop) for lane in lanes]
    return torch.stack([row.to(rows[0]) for row in rows])


def _shaped(sequence: Sequence, start: int, log_probs: Tensor) -> Tensor:
    """`log_probs` for positions from `start` on, under the transforms."""
    if sequence.params.is_identity:
        return log_probs
    history = History(
        prompt=sequence.prompt,
        output=[*sequence.output, *(draft.token for draft in sequence.drafts)],
        start=start,
    )
    return shape(log_probs, sequence.params, history, tuple(sequence.end_ids))


def _noisy_argmax(sequence: Sequence, start: int, log_probs: Tensor) -> list[int]:
    """argmax log p + G at positions from `start` on: a draw from p (the Gumbel-max trick)."""
    if sequence.params.temperature > 0:
        log_probs = log_probs + sequence.draws.gumbel(start, log_probs.shape[0], log_probs)
    return log_probs.argmax(-1).tolist()


def _require_distribution(log_probs: Tensor, whose: str) -> None:
    # A row's maximum is NaN if any entry is, and -inf if all are; a sum of maxima is finite only if each is.
    if not math.isfinite(log_probs.amax(-1).sum().item()):
        raise MemberFailed(
            f"{whose} gave a row that is no distribution (NaN or infinite logits, or every token forbidden)"
        )


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log r, and the most probable tokens of r at its position with theirs, the first first."""

    position: int
    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def score(sequence: Sequence, policy: Policy) -> list[TokenLogprob]:
    """log r of each settled token, of the prompt's too if wanted, whose rows are all there and not yet reported."""
    if not sequence.wants_logprobs:
        return []
    start = sequence.scored
    stop = min(sequence.position, *(sequence.lanes[i].seen + 1 for i in sequence.members))
    if sequence.params.logprobs is None:
        stop = min(stop, 0)
    if stop <= start:
        return []
    sequence.scored = stop
    log_r = log_combined(sequence, policy.combination, start, stop)
    text = (*sequence.prompt, *sequence.output)[len(sequence.prompt) + start : len(sequence.prompt) + stop]
    of_token = log_r.gather(1, torch.tensor(text, device=log_r.device)[:, None])[:, 0].tolist()
    values, ids = log_r.topk(min(_num_top(sequence, start), log_r.shape[-1]), dim=-1)
    rows = zip(range(start, stop), text, of_token, ids.tolist(), values.tolist(), strict=True)
    return [
        TokenLogprob(position, token, logprob, tuple(zip(top, top_values, strict=True))[: _num_top(sequence, position)])
        for position, token, logprob, top, top_values in rows
    ]


def _num_top(sequence: Sequence, position: int) -> int:
    """How many alternatives are wanted from `position` on."""
    params = sequence.params
    prompt, output = params.prompt_logprobs or 0, params.logprobs or 0
    return max(prompt, output) if position < 0 else output
