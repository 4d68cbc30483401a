"""Settling: decide positions of one sequence's sheet, from the first, as long as their cells are filled."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Sequence as Values
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .combine import Combination
from .drafts import Draft
from .errors import CospecError, MemberFailed
from .observer import Observer
from .sampling import History, Purpose, draw, gumbel, shape, shape_members
from .schedule import Schedule
from .sequence import Sequence, Settled
from .shortcuts import certain_tokens, has_shortcut
from .verify import Run, Verdict, verify_block, verify_coupled, verify_token


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What decides a sequence's text and its speed: the target, the schedule, the verification."""

    combination: Combination
    schedule: Schedule
    verification: str
    observer: Observer | None = None


def settle(items: Values[tuple[Sequence, Policy]]) -> list[list[Settled] | CospecError]:
    """Of each sequence, decide all positions whose cells are filled and commit them, up to the text's end.

    A CospecError stands for a sequence that cannot go on, such as one whose rows are no distribution. What a
    combination raises is raised before anything is decided.
    """
    log_rs = _log_targets(items)
    outcomes: list[list[Settled] | CospecError] = []
    free: list[tuple[Sequence, list[Settled], Tensor]] = []
    for (sequence, policy), log_r in zip(items, log_rs, strict=True):
        settled = _settled(sequence, log_r, policy.verification)
        outcomes.append(settled)
        if isinstance(log_r, Tensor) and isinstance(settled, list) and _is_open(sequence, settled, log_r):
            free.append((sequence, settled, log_r[-1:]))
    # Nothing is drafted there, and all cells are filled: the target's own token, for free.
    tokens = _noisy_argmaxes([(sequence, sequence.position, log_r) for sequence, _, log_r in free])
    for (sequence, settled, _), (token,) in zip(free, tokens, strict=True):
        settled.append(Settled(token))
        sequence.commit(settled[-1])
    return outcomes


def _settled(sequence: Sequence, log_r: Tensor | CospecError | None, verification: str) -> list[Settled] | CospecError:
    """What comes of the sequence's drafts."""
    if log_r is None:
        return []
    if isinstance(log_r, CospecError):
        return log_r
    try:
        return _settle_drafts(sequence, log_r, verification)
    except Exception as error:
        return MemberFailed.by(error, "verification")


def _is_open(sequence: Sequence, settled: list[Settled], log_r: Tensor) -> bool:
    """Whether a token may follow these in this round: there is a row for it, and they end neither in a token that
    replaced a draft nor in the text's end."""
    has_ended = bool(settled) and (settled[-1].replaced is not None or settled[-1].token in sequence.end_ids)
    return len(settled) < log_r.shape[0] and not has_ended


def _settle_drafts(sequence: Sequence, log_r: Tensor, verification: str) -> list[Settled]:
    """Verify the drafts that log_r [positions, vocab] reaches; commit what comes of it."""
    run = sequence.drafts[: log_r.shape[0]]
    if not run:
        return []
    verdict = _verify(sequence, sequence.position, run, log_r[: len(run)], verification)
    settled = []
    for draft in run[: verdict.accepted]:
        settled.append(Settled(draft.token, proposer=draft.proposer, confidence=draft.confidence))
        sequence.commit(settled[-1])
    if verdict.token is not None:
        rejected = run[verdict.accepted]
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


def _verify(sequence: Sequence, start: int, drafts: list[Draft], log_p: Tensor, verification: str) -> Verdict:
    """The drafts at positions from `start` on, against log p [len(drafts), vocab]."""
    epoch = sequence.epoch
    if verification == "coupled":
        return verify_coupled([draft.token for draft in drafts], _noisy_argmax(sequence, start, log_p))
    run = Run(
        tokens=torch.tensor([draft.token for draft in drafts], device=log_p.device),
        target=log_p.exp(),
        draft=torch.stack([draft.probs.to(log_p) for draft in drafts]),
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


def propose(items: Values[tuple[Sequence, int, str]]) -> list[CospecError | None]:
    """Each sequence drafts the token at its frontier from a lane's bonus row, under the transforms of the target.

    items: sequence, lane, verification. A drafter whose row allows no token has none to propose. An error stands for a
    sequence that drafted nothing: its member's row is no distribution, or its transforms raised it.
    """
    rows = [
        shape_members(sequence.lanes[lane].between(sequence.frontier, sequence.frontier + 1), sequence.params)
        for sequence, lane, _ in items
    ]
    outcomes: list[CospecError | None] = [None] * len(items)
    drafting: list[tuple[tuple[Sequence, int, str], Tensor, Tensor]] = []
    for same in _by_place(rows):
        log_own = torch.log_softmax(torch.cat([rows[i] for i in same]), dim=-1)
        for i, own in zip(same, log_own, strict=True):
            sequence, lane, _ = items[i]
            try:
                log_q = _shaped(sequence, sequence.frontier, own[None])[0]
            except CospecError as error:
                outcomes[i] = error
                continue
            if _are_distributions(log_q):
                drafting.append((items[i], own, log_q))
            elif lane in sequence.members:
                outcomes[i] = _no_distribution(sequence.lanes[lane].name)
            else:
                sequence.decline(lane)
    _draft(drafting)
    return outcomes


def _by_place(rows: list[Tensor]) -> list[list[int]]:
    """Indices of the rows that can stand in one tensor: those on one device and of one type."""
    same: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        same[row.device, row.dtype].append(index)
    return list(same.values())


def _draft(items: list[tuple[tuple[Sequence, int, str], Tensor, Tensor]]) -> None:
    """Draw a token each from log q [vocab], and let it stand as a draft. items: who drafts, its own log-probabilities
    and those under the transforms."""
    drawn: list[tuple[int, Tensor]] = []
    for (sequence, _, verification), _, log_q in items:
        position, probs = sequence.frontier, log_q.exp()
        if verification == "coupled":
            token = _noisy_argmax(sequence, position, log_q[None])[0]
        else:
            token = draw(probs, sequence.draws.uniform(position, Purpose.PROPOSE, sequence.epoch))
        drawn.append((token, probs))
    for ((sequence, lane, _), log_own, _), (token, probs) in zip(items, drawn, strict=True):
        confidence = math.exp(log_own[token].item())
        sequence.extend(Draft(token, lane, probs, place=len(sequence.drafts), confidence=confidence))


@dataclass(frozen=True)
class Span:
    """Positions start .. stop - 1 of a sequence."""

    sequence: Sequence
    start: int
    stop: int

    def rows(self, members: Iterable[int]) -> Tensor:
        """[members, positions, vocab], on the first one's device, as the members are shaped."""
        rows = [self.sequence.lanes[i].between(self.start, self.stop) for i in members]
        return shape_members(torch.stack([row.to(rows[0]) for row in rows]), self.sequence.params)


def log_combined(spans: Values[Span], combination: Combination) -> list[Tensor]:
    """log r before the transforms, [positions, vocab] for each span; all of them are combined at once."""
    rows = [span.rows(span.sequence.members) for span in spans]
    if len(rows) == 1:
        return [combination.log_probs(rows[0])]
    log_r = combination.log_probs(torch.cat(rows, dim=1))
    return [*torch.split(log_r, [span.stop - span.start for span in spans])]


def _log_member(sequence: Sequence, lane: int, start: int, rows: Tensor) -> Tensor:
    """log p of one member under the transforms of the target, for rows from `start` on, [positions, vocab]."""
    log_p = torch.log_softmax(shape_members(rows, sequence.params), dim=-1)
    log_p = _shaped(sequence, start, log_p)
    if not _are_distributions(log_p):
        raise _no_distribution(sequence.lanes[lane].name)
    return log_p


def _log_targets(items: Values[tuple[Sequence, Policy]]) -> list[Tensor | MemberFailed | None]:
    """For each sequence, log of what tokens are drawn from, from the first position on as far as it is certain:
    drafted ones and one more. None if nothing is."""
    parts: list[list[Tensor | None]] = []
    # Where all members are combined: a combination's places in `parts`, and what is to stand there.
    combined: dict[int, list[tuple[int, int, Span]]] = defaultdict(list)
    for index, (sequence, policy) in enumerate(items):
        start, own = sequence.position, list[Tensor | None]()
        for cells, count in _filled(sequence, policy.schedule):
            span = Span(sequence, start, start + count)
            if len(cells) == sequence.num_members:
                combined[id(policy.combination)].append((index, len(own), span))
                own.append(None)
            else:
                own.append(torch.log_softmax(span.rows(cells)[0], dim=-1))
            start += count
        certain = _log_certain(sequence, policy.combination, start)
        parts.append(own if certain is None else [*own, certain])
    for places in combined.values():
        combination = items[places[0][0]][1].combination
        log_rs = log_combined([span for _, _, span in places], combination)
        for (index, part, _), log_r in zip(places, log_rs, strict=True):
            parts[index][part] = log_r
    return [_target(sequence, own) for (sequence, _), own in zip(items, parts, strict=True)]


def _target(sequence: Sequence, parts: list[Tensor | None]) -> Tensor | MemberFailed | None:
    """The parts as one, under the transforms."""
    filled = [part for part in parts if part is not None]
    if not filled:
        return None
    # Members may be on different devices, and each position's row is that of its own.
    log_r = torch.cat([part.to(filled[0]) for part in filled]) if len(filled) > 1 else filled[0]
    log_r = _shaped(sequence, sequence.position, log_r)
    if not _are_distributions(log_r):
        return _no_distribution(" + ".join(sequence.lanes[i].name for i in sequence.members))
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


def _log_certain(sequence: Sequence, combination: Combination, start: int) -> Tensor | None:
    """log r, all on one token, from `start` on as far as the members heard so far make it certain; see shortcuts."""
    heard = [i for i in sequence.members if sequence.lanes[i].has(start)]
    is_partly_heard = 0 < len(heard) < sequence.num_members
    if not is_partly_heard or not has_shortcut(combination, is_greedy=sequence.params.is_argmax):
        return None
    stop = min(_stop(sequence), *(sequence.lanes[i].seen + 1 for i in heard))
    if stop <= start:
        return None
    rows = Span(sequence, start, stop).rows(heard)
    tokens = certain_tokens(combination, rows, heard)
    if not tokens:
        return None
    log_r = rows.new_full((len(tokens), rows.shape[-1]), -math.inf)
    return log_r.scatter_(1, torch.tensor(tokens, device=rows.device)[:, None], 0.0)


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
    return _noisy_argmaxes([(sequence, start, log_probs)])[0]


def _noisy_argmaxes(items: Values[tuple[Sequence, int, Tensor]]) -> list[list[int]]:
    """The same for each sequence, `start` and log p [positions, vocab]; the noise of all is drawn at once."""
    tokens: list[list[int]] = [[] for _ in items]
    for same in _by_place([log_probs for _, _, log_probs in items]):
        rows = torch.cat([items[i][2] for i in same])
        keys = [key for i in same for key in _noise_keys(*items[i])]
        sampled = {row: key for row, key in enumerate(keys) if key is not None}
        if sampled:
            noise = gumbel([*sampled.values()], rows)
            rows = rows.index_add(0, torch.tensor([*sampled], device=rows.device), noise)
        best = iter(rows.argmax(-1).tolist())
        for i in same:
            tokens[i] = [next(best) for _ in range(items[i][2].shape[0])]
    return tokens


def _noise_keys(sequence: Sequence, start: int, log_probs: Tensor) -> Values[int | None]:
    """None where nothing is left to chance."""
    count = log_probs.shape[0]
    return sequence.draws.noise_keys(start, count) if sequence.params.temperature > 0 else [None] * count


def _are_distributions(log_probs: Tensor) -> bool:
    # A row's maximum is NaN if any entry is, and -inf if all are; a sum of maxima is finite only if each is.
    return math.isfinite(log_probs.amax(-1).sum().item())


def _no_distribution(whose: str) -> MemberFailed:
    return MemberFailed(
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
    (log_r,) = log_combined([Span(sequence, start, stop)], policy.combination)
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
