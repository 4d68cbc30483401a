"""Settling: decide positions of one sequence's sheet, from the first, as long as their cells are filled."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .combine import Combination
from .drafts import Draft
from .errors import MemberFailed
from .sampling import History, Purpose, draw, shape, shape_members
from .schedule import Schedule
from .sequence import Lane, Sequence, Settled
from .verify import Run, Verdict, verify_block, verify_coupled, verify_token


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What decides a sequence's text and its speed: the target, the schedule, the verification."""

    combination: Combination
    schedule: Schedule
    verification: str


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
    verdict = _verify(sequence, run, log_r[: len(run)], verification)
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


def _verify(sequence: Sequence, drafts: list[Draft], log_r: Tensor, verification: str) -> Verdict:
    start, epoch = sequence.position, sequence.epoch
    if verification == "coupled":
        return verify_coupled([draft.token for draft in drafts], _noisy_argmax(sequence, start, log_r))
    run = Run(
        tokens=torch.tensor([draft.token for draft in drafts], device=log_r.device),
        target=log_r.exp(),
        draft=torch.stack([draft.probs for draft in drafts]).to(log_r),
    )
    verify = verify_block if verification == "block" else verify_token
    return verify(
        run,
        accept=lambda i: sequence.draws.uniform(start + i, Purpose.ACCEPT, epoch),
        replace=lambda i: sequence.draws.uniform(start + i, Purpose.REPLACE, epoch),
    )


def propose(sequence: Sequence, lane: int, verification: str) -> None:
    """Draft the token at the frontier from the lane's bonus row, under the transforms of the target."""
    position = sequence.frontier
    row = sequence.lanes[lane].between(position, position + 1)
    log_q = _shaped(sequence, position, torch.log_softmax(shape_members(row, sequence.params), dim=-1))
    _require_distribution(log_q, sequence.lanes[lane].name)
    probs = log_q[0].exp()
    if verification == "coupled":
        token = _noisy_argmax(sequence, position, log_q)[0]
    else:
        token = draw(probs, sequence.draws.uniform(position, Purpose.PROPOSE, sequence.epoch))
    sequence.extend(Draft(token, lane, probs))


def log_combined(sequence: Sequence, combination: Combination, start: int, stop: int) -> Tensor:
    """log r before the transforms for positions start .. stop - 1, [positions, vocab]."""
    rows = _stacked([sequence.lanes[member] for member in sequence.members], start, stop)
    return combination.log_probs(shape_members(rows, sequence.params))


def _log_target(sequence: Sequence, policy: Policy) -> Tensor | None:
    """log of what tokens are drawn from, for the positions whose cells are filled: drafted ones and one more."""
    start = sequence.position
    cells = policy.schedule.cells(sequence, start)
    stop = min(sequence.lanes[i].seen for i in cells) + 1
    # Cells are asked for position by position where they may differ, and they differ only where nothing is drafted.
    stop = min(stop, sequence.frontier + 1, sequence.limit)
    if stop <= start or any(not sequence.lanes[i].has(start) for i in cells):
        return None
    lanes = [sequence.lanes[i] for i in cells]
    if len(cells) == sequence.num_members:
        log_r = log_combined(sequence, policy.combination, start, stop)
    else:
        log_r = torch.log_softmax(shape_members(_stacked(lanes, start, stop)[0], sequence.params), dim=-1)
    log_r = _shaped(sequence, start, log_r)
    _require_distribution(log_r, " + ".join(lane.name for lane in lanes))
    return log_r


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
