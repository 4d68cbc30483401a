"""What tokens are drawn from: log of the target, for all sequences at once, from the rows that their lanes keep."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence as Values
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CospecError, MemberFailed
from ..schedule import Schedule
from .certain import certain_tokens, has_shortcut
from .combine import Combination
from .noise import by_place
from .policy import Policy
from .sampling import History, shape, shape_members, warp
from .sheet import Sequence


@dataclass(frozen=True)
class Span:
    """Positions start .. stop - 1 of a sequence."""

    sequence: Sequence
    start: int
    stop: int

    def of(self, member: int) -> Tensor:
        """The member's rows [positions, vocab], shaped as members are."""
        return shape_members(self.sequence.lanes[member].between(self.start, self.stop), self.sequence.params)


def stacked(spans: Values[Span], members: Values[int]) -> Tensor:
    """[members, positions, vocab] of all spans, one behind the other, on the first member's device."""
    rows = [joined([span.of(i) for span in spans]) for i in members]
    return torch.stack([row.to(rows[0]) for row in rows])


def joined(rows: list[Tensor]) -> Tensor:
    """One behind the other. Those of members on different devices go to the first one's."""
    return rows[0] if len(rows) == 1 else torch.cat([row.to(rows[0]) for row in rows])


def parted(rows: Tensor, lengths: list[int]) -> list[Tensor]:
    """What was one behind the other, by itself."""
    return [rows] if len(lengths) == 1 else [*torch.split(rows, lengths)]


def log_combined(spans: Values[Span], combination: Combination) -> list[Tensor]:
    """log r before the transforms, [positions, vocab] for each span; all of them are combined at once."""
    log_r = combination.log_probs(stacked(spans, spans[0].sequence.members))
    return parted(log_r, [span.stop - span.start for span in spans])


def log_targets(items: Values[tuple[Sequence, Policy]]) -> list[Tensor | CospecError | None]:
    """For each sequence, log of what tokens are drawn from, from the first position on as far as it is certain:
    drafted ones and one more. None if nothing is."""
    parts = _parts(items)
    known = [i for i, own in enumerate(parts) if own]
    if not known:
        return [None] * len(items)
    log_rs = distributions([(items[i][0], items[i][0].position, joined(parts[i])) for i in known])
    targets: list[Tensor | CospecError | None] = [None] * len(items)
    for i, log_r in zip(known, log_rs, strict=True):
        sequence, _ = items[i]
        names = (sequence.lanes[member].name for member in sequence.members)
        targets[i] = no_distribution(" + ".join(names)) if log_r is None else log_r
    return targets


def _parts(items: Values[tuple[Sequence, Policy]]) -> list[list[Tensor]]:
    """Of each, log r before the transforms: stretches of positions that the same members settle, then those that are
    certain without all of their members."""
    filled = [_filled(sequence, policy.schedule) for sequence, policy in items]
    combinations = {id(policy.combination): policy.combination for _, policy in items}
    # What the same members settle in the same way is combined at once.
    groups: dict[tuple[int, tuple[int, ...]], list[Span]] = defaultdict(list)
    for (_, policy), own in zip(items, filled, strict=True):
        for cells, span in own:
            groups[id(policy.combination), cells].append(span)
    combined: dict[Span, Tensor] = {}
    for (which, cells), spans in groups.items():
        combined.update(zip(spans, _log_of(cells, spans, combinations[which]), strict=True))
    parts = []
    for (sequence, policy), own in zip(items, filled, strict=True):
        certain = _log_certain(sequence, policy.combination, own[-1][1].stop if own else sequence.position)
        parts.append([*(combined[span] for _, span in own), *([] if certain is None else [certain])])
    return parts


def _log_of(cells: tuple[int, ...], spans: Values[Span], combination: Combination) -> list[Tensor]:
    """log r before the transforms of what these members settle: all of them together, or one alone."""
    if len(cells) == spans[0].sequence.num_members:
        return log_combined(spans, combination)
    (member,) = cells
    log_p = torch.log_softmax(joined([span.of(member) for span in spans]), dim=-1)
    return parted(log_p, [span.stop - span.start for span in spans])


def _filled(sequence: Sequence, schedule: Schedule) -> list[tuple[tuple[int, ...], Span]]:
    """The positions, from the first, whose cells are filled: stretches of equal cells."""
    cells = []
    for position in range(sequence.position, _stop(sequence)):
        needed = tuple(schedule.cells(sequence, position))
        if not all(sequence.lanes[i].has(position) for i in needed):
            break
        cells.append(needed)
    spans, start = [], sequence.position
    for needed, same in itertools.groupby(cells):
        stop = start + len(list(same))
        spans.append((needed, Span(sequence, start, stop)))
        start = stop
    return spans


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
    rows = stacked([Span(sequence, start, stop)], heard)
    tokens = certain_tokens(combination, rows, heard)
    if not tokens:
        return None
    log_r = rows.new_full((len(tokens), rows.shape[-1]), -math.inf)
    return log_r.scatter_(1, torch.tensor(tokens, device=rows.device)[:, None], 0.0)


def distributions(items: Values[tuple[Sequence, int, Tensor]]) -> list[Tensor | CospecError | None]:
    """Log-probabilities [positions, vocab] of each sequence for positions from `start` on, under its transforms, but
    for temperature 0, of which nothing but the maximum is looked at. None where a row is no distribution; an error
    where a transform raised it."""
    shaped = _shaped(items)
    rows = [log_p for log_p in shaped if isinstance(log_p, Tensor)]
    are_ones = iter(_are_distributions(rows))
    return [log_p if isinstance(log_p, CospecError) or next(are_ones) else None for log_p in shaped]


def _shaped(items: Values[tuple[Sequence, int, Tensor]]) -> list[Tensor | CospecError]:
    """Under the transforms. Those that look at nothing but the row are the same for many, and done at once."""
    shaped: list[Tensor | CospecError] = [log_probs for _, _, log_probs in items]
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, (sequence, start, log_probs) in enumerate(items):
        params = sequence.params
        if params.is_identity or params.is_argmax:
            # What changes nothing, and what is drawn by the row's maximum, where it stands.
            continue
        if not params.is_biased:
            alike[*params.warpers, log_probs.device, log_probs.dtype].append(i)
            continue
        try:
            shaped[i] = shape(log_probs, params, _history(sequence, start), tuple(sequence.end_ids))
        except CospecError as error:
            shaped[i] = error
    for same in alike.values():
        log_probs = warp(joined([items[i][2] for i in same]), items[same[0]][0].params)
        for i, part in zip(same, parted(log_probs, [items[i][2].shape[0] for i in same]), strict=True):
            shaped[i] = part
    return shaped


def _history(sequence: Sequence, start: int) -> History:
    output = [*sequence.output, *(draft.token for draft in sequence.drafts)]
    return History(prompt=sequence.prompt, output=output, start=start)


def _are_distributions(rows: Values[Tensor]) -> list[bool]:
    """Of each [positions, vocab], whether all rows are. A row's maximum is NaN if any entry is, and -inf if all are."""
    are_ones = [False] * len(rows)
    for same in by_place(rows):
        are_finite = [*map(math.isfinite, joined([rows[i] for i in same]).amax(-1).tolist())]
        end = 0
        for i in same:
            start, end = end, end + rows[i].shape[0]
            are_ones[i] = all(are_finite[start:end])
    return are_ones


def no_distribution(whose: str) -> MemberFailed:
    return MemberFailed(
        f"{whose} gave a row that is no distribution (NaN or infinite logits, or every token forbidden)"
    )
