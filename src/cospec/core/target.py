"""What tokens are drawn from: log of the target, for all sequences at once, from the rows that their lanes keep."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CospecError, InvalidCombination, InvalidSchedule, MemberFailed
from .certain import certain_tokens, has_shortcut
from .combine import Combination, is_member_alone, level
from .rows import LogProbs, by_place, joined, parted
from .select import are_summed, is_cut
from .sheet import Lane, Sheet
from .summed import LazyLogProbs, SummedLogProbs
from .transforms import History, shape_members, shaped, warped


@dataclass(frozen=True)
class Span:
    """Positions start .. stop - 1 of a sheet."""

    sheet: Sheet
    start: int
    stop: int

    def of(self, member: int) -> Tensor:
        """The member's rows [positions, vocab], under member_temperature and member_top_p."""
        return shape_members(self.sheet.lanes[member].between(self.start, self.stop), self.sheet.params)


def stacked(spans: Sequence[Span], members: Sequence[int]) -> Tensor:
    """[members, positions, vocab] of all spans, concatenated, on the first member's device."""
    rows = [joined([span.of(i) for span in spans]) for i in members]
    return rows[0][None] if len(rows) == 1 else torch.stack([row.to(rows[0]) for row in rows])


def log_combined(spans: Sequence[Span], combination: Combination) -> list[Tensor]:
    """log r before the transforms, [positions, vocab] for each span; all of them are combined at once."""
    rows = stacked(spans, spans[0].sheet.members)
    log_r = combination.log_probs(rows)
    if not isinstance(log_r, Tensor) or log_r.shape != rows.shape[1:]:
        given = list(log_r.shape) if isinstance(log_r, Tensor) else type(log_r).__name__
        raise InvalidCombination(
            f"{combination.name} gave {given}, where log-probabilities [positions, vocab] = {list(rows.shape[1:])} "
            "were asked for"
        )
    return parted(log_r, [span.stop - span.start for span in spans])


def unshaped_targets(sheets: Sequence[Sheet]) -> list["Unshaped | None"]:
    """For each sheet log r before the transforms, from the next position on as far as cells are filled: drafted
    positions and one more. None if no position can be settled."""
    return [
        Unshaped(sheet, sheet.position, joined(own), sheet.members, are_logits=_is_alone(sheet)) if own else None
        for sheet, own in zip(sheets, _parts(sheets), strict=True)
    ]


def log_targets(rows: Sequence["Unshaped"]) -> list[LogProbs | CospecError]:
    """Of each, log of what tokens are drawn from, from the next position on.

    A row that is no distribution ends its sequence once it is the next position's. Before, a rejected draft may take it
    away, and so positions from it on are left out.
    """
    return [
        no_distribution(_whose(own.sheet)) if log_r is None else log_r
        for own, log_r in zip(rows, distributions(rows), strict=True)
    ]


def _whose(sheet: Sheet) -> str:
    """The members whose own rows are no distribution, or, where none are, all of them and how they are combined."""
    names = [sheet.lanes[member].name for member in sheet.members]
    lanes = [sheet.lanes[member] for member in sheet.members]
    broken = [name for name, lane in zip(names, lanes, strict=True) if _is_broken(lane, sheet.position)]
    by = f", combined by {sheet.combination.name}," if sheet.num_members > 1 and not broken else ""
    return " + ".join(broken or names) + by


def _is_broken(lane: Lane, position: int) -> bool:
    """Whether the lane's row for the position, if it has one, is no distribution: its maximum is NaN or infinite."""
    return lane.has(position) and not math.isfinite(float(lane.between(position, position + 1).amax()))


def _parts(sheets: Sequence[Sheet]) -> list[list[Tensor]]:
    """Of each, log r before the transforms: stretches of positions that the same members settle, then those that are
    certain without all of their members."""
    filled = [_filled(sheet) for sheet in sheets]
    combinations = {id(sheet.combination): sheet.combination for sheet in sheets}
    # What the same members settle in the same way is combined at once.
    groups: dict[tuple[int, tuple[int, ...]], list[Span]] = defaultdict(list)
    for sheet, own in zip(sheets, filled, strict=True):
        for cells, span in own:
            groups[id(sheet.combination), cells].append(span)
    combined: dict[Span, Tensor] = {}
    for (which, cells), spans in groups.items():
        combined.update(zip(spans, _log_of(cells, spans, combinations[which]), strict=True))
    parts = []
    for sheet, own in zip(sheets, filled, strict=True):
        certain = _log_certain(sheet, own[-1][1].stop if own else sheet.position)
        parts.append([*(combined[span] for _, span in own), *([] if certain is None else [certain])])
    return parts


def _log_of(cells: tuple[int, ...], spans: Sequence[Span], combination: Combination) -> list[Tensor]:
    """log r before the transforms of what these members settle: all of them together, or one alone. Logits of a member
    that is no other's."""
    sheet = spans[0].sheet
    if _is_alone(sheet):
        return [span.of(cells[0]) for span in spans]
    if len(cells) == sheet.num_members:
        return log_combined(spans, combination)
    log_p = torch.log_softmax(joined([span.of(cells[0]) for span in spans]), dim=-1)
    return parted(log_p, [span.stop - span.start for span in spans])


def _is_alone(sheet: Sheet) -> bool:
    """Whether r is the only member's own distribution."""
    return sheet.num_members == 1 and is_member_alone(sheet.combination)


def _filled(sheet: Sheet) -> list[tuple[tuple[int, ...], Span]]:
    """The positions, from the next one, whose cells are filled: stretches of equal cells."""
    cells = []
    for position in range(sheet.position, _stop(sheet)):
        needed = _cells(sheet, position)
        if not all(sheet.lanes[i].has(position) for i in needed):
            break
        cells.append(needed)
    spans, start = [], sheet.position
    for needed, same in itertools.groupby(cells):
        stop = start + len(list(same))
        spans.append((needed, Span(sheet, start, stop)))
        start = stop
    return spans


def _cells(sheet: Sheet, position: int) -> tuple[int, ...]:
    """The members that settle a position. Raises MemberFailed or InvalidSchedule for what its schedule does wrong."""
    whose = f"the schedule {sheet.schedule.name!r}"
    try:
        needed = tuple(sheet.schedule.cells(sheet, position))
    except Exception as error:
        raise MemberFailed.by(error, whose) from None
    are_legal = needed[0] in sheet.members if len(needed) == 1 else needed == tuple(sheet.members)
    if not are_legal:
        raise InvalidSchedule(
            f"{whose} gave the cells {needed} for position {position}; a position is settled by all "
            f"{sheet.num_members} members in their order, or by one of them"
        )
    return needed


def _stop(sheet: Sheet) -> int:
    """Behind the last position that can be settled now: drafted ones and one more."""
    return min(sheet.frontier + 1, sheet.limit)


def _log_certain(sheet: Sheet, start: int) -> Tensor | None:
    """log r, all on one token, from `start` on as far as the members at hand make it certain."""
    at_hand = [i for i in sheet.members if sheet.lanes[i].has(start)]
    is_partial = 0 < len(at_hand) < sheet.num_members
    if not is_partial or not has_shortcut(sheet.combination, is_greedy=sheet.params.is_argmax):
        return None
    stop = min(_stop(sheet), *(sheet.lanes[i].seen + 1 for i in at_hand))
    if stop <= start:
        return None
    rows = stacked([Span(sheet, start, stop)], at_hand)
    tokens = certain_tokens(sheet.combination, rows, at_hand)
    if not tokens:
        return None
    log_r = rows.new_full((len(tokens), rows.shape[-1]), -math.inf)
    return log_r.scatter_(1, torch.tensor(tokens, device=rows.device)[:, None], 0.0)


@dataclass(frozen=True)
class Unshaped:
    """Log-probabilities [positions, vocab] for positions from `start` on, before the transforms.

    lanes: those whose rows they were made from, all members' together or one. are_logits: whether they are one lane's
    rows as they are, so that each position is normalised up to a constant, which what reads them must not depend on.
    """

    sheet: Sheet
    start: int
    log_probs: Tensor
    lanes: Sequence[int]
    are_logits: bool = False

    def between(self, start: int, stop: int) -> "Unshaped":
        """The same of some of the positions, counted from the first."""
        return replace(self, start=self.start + start, log_probs=self.log_probs[start:stop])

    @property
    def drafted(self) -> list[int]:
        """The tokens drafted at these positions, as far as some are."""
        return [draft.token for draft in self.sheet.drafts[self.start - self.sheet.position :]]

    def level(self) -> Tensor | float:
        """How much higher the logits stand that they were made from, [positions, 1], where a penalty reads it."""
        if self.are_logits or self.sheet.params.repetition_penalty == 1:
            return 0.0
        levels = self.log_probs.new_zeros(self.log_probs.shape[0], 1)
        lanes = [self.sheet.lanes[i] for i in self.lanes]
        # Where a member has no row, all of r is on one token, at any level.
        stop = min(self.start + len(levels), *(lane.seen + 1 for lane in lanes))
        if stop > self.start:
            rows = [lane.between(self.start, stop) for lane in lanes]
            levels[: stop - self.start] = level(self.sheet.combination, torch.stack([row.to(rows[0]) for row in rows]))
        return levels


def distributions(items: Sequence[Unshaped]) -> list[LogProbs | CospecError | None]:
    """Of each the log-probabilities under its sheet's transforms, up to the first row that is no distribution; without
    the positions behind a draft that these forbid, where rows are selected from.

    At temperature 0 the temperature is left out of rows that are not selected from, since only the maximum is read.
    None where the first row is no distribution; an error where a transform raised it.
    """
    log_ps = _shaped(items)
    known = [(item, log_p) for item, log_p in zip(items, log_ps, strict=True) if isinstance(log_p, LogProbs)]
    counts = iter(_num_distributions(known))
    return [log_p if isinstance(log_p, CospecError) else _first(log_p, next(counts)) for log_p in log_ps]


def _first(log_p: LogProbs, count: int) -> LogProbs | None:
    """The first `count` rows."""
    if count == len(log_p):
        return log_p
    return log_p.between(0, count) if count else None


def _shaped(items: Sequence[Unshaped]) -> list[LogProbs | CospecError]:
    """Under the transforms. Those that read nothing but the row are the same for many sheets, and done at once."""
    all_shaped: list[LogProbs | CospecError] = [LogProbs(item.log_probs) for item in items]
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        sheet, params = item.sheet, item.sheet.params
        # Rows that are selected from have columns of their own, or sums.
        is_selected = is_cut(item.log_probs) if params.cuts else are_summed(item.log_probs)
        own = i if is_selected else None
        if params.is_argmax and own is None:
            # Only the row's maximum is read.
            continue
        if params.is_identity and not item.are_logits:
            all_shaped[i] = SummedLogProbs.of(item.log_probs, 1.0, torch.Tensor.detach)
            continue
        if not params.is_biased:
            alike[*params.warpers, item.log_probs.device, item.log_probs.dtype, own].append(i)
            continue
        output = [*sheet.output, *(draft.token for draft in sheet.drafts)]
        history = History(prompt=sheet.prompt, output=output, start=item.start)
        try:
            all_shaped[i] = shaped(item.log_probs, params, history, tuple(sheet.end_ids), item.level(), item.drafted)
        except Exception as error:  # a constraint is others' code
            all_shaped[i] = MemberFailed.by(error, "a transform of the sampling parameters").with_traceback(None)
    for same in alike.values():
        logits = joined([items[i].log_probs for i in same])
        if len(same) == 1:
            all_shaped[same[0]] = warped(logits, items[same[0]].sheet.params, items[same[0]].drafted)
            continue
        log_probs = warped(logits, items[same[0]].sheet.params)
        for i, part in zip(same, parted(log_probs.values, [len(items[i].log_probs) for i in same]), strict=True):
            all_shaped[i] = LogProbs(part)
    return all_shaped


def _num_distributions(known: Sequence[tuple[Unshaped, LogProbs]]) -> list[int]:
    """Of each, how many rows from the first on are ones."""
    counts, whole = [0] * len(known), []
    for i, (_, log_p) in enumerate(known):
        if isinstance(log_p, LazyLogProbs):
            counts[i] = _num_finite([row.highest for row in log_p.rows])
        elif log_p.ids is not None:
            counts[i] = _num_finite(log_p.values.numpy()[:, 0].tolist())
        else:
            whole.append(i)
    telling = [_telling(*known[i]) for i in whole]
    for places in by_place(telling) if whole else ():
        highest = joined([telling[place].values for place in places]).amax(-1).tolist()
        end = 0
        for place in places:
            start, end = end, end + len(telling[place])
            counts[whole[place]] = _num_finite(highest[start:end])
    return counts


def _num_finite(values: Sequence[float]) -> int:
    """How many are finite before the first that is not."""
    return len([*itertools.takewhile(math.isfinite, values)])


def _telling(item: Unshaped, log_p: LogProbs) -> LogProbs:
    """Rows of the whole vocabulary whose maxima are finite where those of log_p are: NaN if any entry is, and -inf if
    all are. What a transform has normalised is NaN throughout or nowhere, so that one probability tells."""
    params = item.sheet.params
    is_unchanged = params.is_identity and not item.are_logits
    return log_p if params.temperature == 0 or is_unchanged else LogProbs(log_p.values[:, :1].exp())


def no_distribution(whose: str) -> MemberFailed:
    """The error for a row that no token can be drawn from."""
    return MemberFailed(
        f"{whose} gave a row that is no distribution (NaN or infinite logits, or every token forbidden)"
    )
