"""Feeding: what each lane is fed in a round, and the forward passes that do it.

A lane is fed for one of four reasons: it is its turn; its prompt is read in chunks; its model runs anyway and it is
behind (lazy KV synchronisation); or it is an idle drafter whose acceptance is to be known (a shadow). A prompt that
several sequences have, such as samples of one, is read once and copied.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..errors import CospecError, InvalidSchedule, MemberFailed
from ..runner import Feed, Runner
from ..runner.protocol import can_copy, server_of
from .faults import guarded, isolate_failures
from .live import Live
from .passes import Fed, ForwardPass, Passes, PassItem
from .prefill import PrefillBudget
from .sheet import Lane, Sheet

logger = logging.getLogger(__name__)

# Where rows are kept for log-probabilities, idle lanes are fed after so many positions, to bound the memory of the
# rows.
MOST_UNSCORED = 64
# Prompts of fewer tokens are read by each sequence: they cost little beside the round that the others would wait.
SHORTEST_SHARED = 16


@dataclass(frozen=True)
class Participant:
    """A member or drafter: a name, and the runner that it may share with others."""

    name: str
    runner: Runner


@dataclass(frozen=True)
class Turn:
    """What a schedule answers for one sequence and round.

    lanes: to be fed what they have not seen, each up to a position. syncs: whether members that wait may be fed settled
    tokens. shadows: idle drafters to be fed for what their rows say alone.
    """

    lanes: Sequence[tuple[Lane, int]]
    syncs: bool = False
    shadows: Sequence[Lane] = ()


class LaneFeed(NamedTuple):
    """What a lane is fed. is_turn: whether the schedule requires it, so that its failure ends the sequence. is_shadow:
    whether it is fed for its acceptance estimate alone."""

    live: Live
    lane: Lane
    feed: Feed
    is_turn: bool = True
    is_shadow: bool = False


@dataclass
class RoundFeeds:
    """What a round fed. moved: the sequences that had a turn. seconds: in forward passes. has_prefill: whether a prompt
    was fed."""

    moved: Sequence[Live]
    seconds: float = 0.0
    has_prefill: bool = False


Batches = dict[int, list[LaneFeed]]
"""By runner: what is fed to it in one forward pass."""


class Feeding:
    """Feeds lanes, one forward pass for each runner and round, however many sequences and members share it.

    participants: the members, then the drafters. num_at_once: how many forward passes may run side by side.
    """

    def __init__(self, participants: Sequence[Participant], num_members: int, num_at_once: int = 1) -> None:
        self._participants = tuple(participants)
        self._num_members = num_members
        self._vocab_size = min(participant.runner.vocab_size for participant in participants[:num_members])
        self._passes = Passes(num_at_once, self._on_retry)
        self._budgets: dict[int, PrefillBudget] = defaultdict(PrefillBudget)
        # Members of which a failed batch was reported.
        self._reported: set[str] = set()

    def feed(self, lives: Sequence[Live]) -> RoundFeeds:
        """Ask each sequence's schedule whose turn it is, and feed those lanes, and others that are behind."""
        turns = self._drafting_first(self._turns(lives))
        batches: Batches = {}
        for budget in self._budgets.values():
            budget.begin()
        for live, turn in turns.items():
            live.prompt_pending = []
            for lane, reach in turn.lanes:
                if self._awaits_prompt(batches, lives, live, lane):
                    live.prompt_pending.append(lane)
                else:
                    self._add_turn(batches, live, lane, reach, has_others=len(lives) > 1)
        for live, turn in turns.items():
            if turn.syncs:
                self._add_idle_members(batches, live, turn)
        for live, turn in turns.items():
            for lane in turn.shadows:
                self._add_shadow(batches, live, lane)
        feeds = RoundFeeds([*turns])
        self._forward([*batches.values()], feeds)
        return feeds

    def trim(self, live: Live) -> None:
        """Make the slots forget what the sheet's lanes have forgotten. A runner that cannot ends the sequence."""
        for participant, lane in zip(self._participants, live.sheet.lanes, strict=True):
            if lane.slot.length == lane.length:
                continue
            error = guarded(lane.name, participant.runner.trim, lane.slot, lane.length)
            if error is None and lane.slot.length != lane.length:
                kept = lane.slot.length
                error = MemberFailed(f"{lane.name} keeps {kept} tokens in a slot that was trimmed to {lane.length}")
            if error is not None:
                live.fail(error)

    def release(self, live: Live) -> None:
        """Give the sequence's slots back."""
        live.sheet.release()
        for participant, lane in zip(self._participants, live.sheet.lanes, strict=True):
            error = guarded(lane.name, participant.runner.close, lane.slot)
            if error is not None:
                # The sequence is over, and its text is right: this concerns whoever keeps the runner.
                logger.error("a slot could not be closed: %s", error)

    def close(self) -> None:
        """Give the threads back."""
        self._passes.close()

    def _turns(self, lives: Sequence[Live]) -> dict[Live, Turn]:
        """Each sequence's turn; one whose schedule raises is failed, and has none."""
        asked = isolate_failures(lambda some: [self._turn(live) for live in some], lives, Live.schedule_label)
        turns = {}
        for live, turn in zip(lives, asked, strict=True):
            if isinstance(turn, CospecError):
                live.fail(turn)
                turn = Turn(())
            turns[live] = turn
        return turns

    def _turn(self, live: Live) -> Turn:
        sheet, schedule = live.sheet, live.sheet.schedule
        if sheet.is_finished:
            # Only log-probabilities are missing; the last row needed is the one for the last token.
            return Turn([(lane, sheet.position - 1) for lane in _behind(sheet)] if live.awaits_scores else ())
        if live.prompt_pending:
            lanes = live.prompt_pending
        elif sheet.wants_logprobs and sheet.position - sheet.scored >= MOST_UNSCORED:
            lanes = _behind(sheet)
        else:
            lanes = _lanes(sheet, schedule.turn(sheet), "turn", range(len(sheet.lanes)))
        if not lanes:
            return Turn(())
        feeds_drafter = any(self._is_drafter(lane) for lane in lanes)
        return Turn(
            [(lane, schedule.reach(sheet, lane.index)) for lane in lanes],
            schedule.syncs_idle_members(sheet),
            () if feeds_drafter else _lanes(sheet, schedule.shadows(sheet), "shadows", sheet.drafters),
        )

    def _drafting_first(self, turns: dict[Live, Turn]) -> dict[Live, Turn]:
        """While some sequences are drafting the others wait, so that members run for many sequences at once. A drafter
        that is still to read its prompt is waited for by none."""
        drafting = {
            live: turn
            for live, turn in turns.items()
            if any(self._is_drafter(lane) and lane.seen >= 0 for lane, _ in turn.lanes)
        }
        return drafting or turns

    def _awaits_prompt(self, batches: Batches, lives: Sequence[Live], live: Live, lane: Lane) -> bool:
        """Whether another lane reads the same prompt in this round. Where one has read it, what it keeps is copied, but
        for the last token, whose row is needed."""
        size, runner = len(lane.prompt), self._runner(lane)
        if lane.length or size < SHORTEST_SHARED or live.sheet.num_rows_wanted(lane, size) > 1 or not can_copy(runner):
            return False
        others = [other for each in lives for other in each.sheet.lanes if other is not lane]
        alike = [other for other in others if other.prompt == lane.prompt and self._runner(other) is runner]
        for other in alike:
            if other.length >= size - 1 and guarded(lane.name, runner.copy, other.slot, lane.slot, size - 1) is None:
                live.sheet.take_over(lane, size - 1)
                return False
        fed = {id(each.lane) for each in batches.get(self._runner_key(lane), ())}
        return any(id(other) in fed for other in alike)

    def _add_turn(self, batches: Batches, live: Live, lane: Lane, reach: int, *, has_others: bool) -> None:
        """Feed a lane whose turn it is what it has not seen, or a chunk of it."""
        tokens = live.sheet.unseen(lane)[: max(0, reach - lane.seen)]
        if self._is_drafter(lane) and self._is_beyond(lane, len(tokens)):
            live.sheet.decline(lane.index)
            return
        chunk = tokens
        # A prompt takes its share of the round where other sequences wait for it.
        if lane.seen < 0 and has_others:
            chunk = tokens[: self._budgets[self._runner_key(lane)].take(len(tokens))]
            if len(chunk) < len(tokens):
                live.prompt_pending.append(lane)
        if chunk:
            feed = LaneFeed(live, lane, _with_rows(live.sheet, lane, chunk))
            batches.setdefault(self._runner_key(lane), []).append(feed)

    def _add_idle_members(self, batches: Batches, live: Live, turn: Turn) -> None:
        """Feed waiting members what is settled, where their model runs anyway: the tokens cost about as much later, and
        a batch whose sequences are all fed one token is neither padded nor copied."""
        sheet, in_turn = live.sheet, {lane.index for lane, _ in turn.lanes}
        # This round settles the last token and no rows are reported, so that feeding idle members would be wasted.
        if not sheet.wants_logprobs and sheet.position + 1 >= sheet.limit:
            return
        for lane in sheet.lanes[: self._num_members]:
            batch = batches.get(self._runner_key(lane))
            # A prompt is left until it is known to be needed.
            if batch is None or lane.index in in_turn or lane.seen < 0 or lane.name in live.failed_idle:
                continue
            tokens = sheet.unseen(lane)
            if tokens:
                rows = sheet.num_rows_wanted(lane, len(tokens)) if sheet.wants_logprobs else 0
                feed = Feed(lane.slot, tokens, rows, sheet.num_settled(lane))
                batch.append(LaneFeed(live, lane, feed, is_turn=False))

    def _add_shadow(self, batches: Batches, live: Live, lane: Lane) -> None:
        """Feed an idle drafter all that it has not seen."""
        tokens = live.sheet.unseen(lane)
        if tokens and lane.name not in live.failed_idle and not self._is_beyond(lane, len(tokens)):
            shadow = LaneFeed(live, lane, _with_rows(live.sheet, lane, tokens), is_turn=False, is_shadow=True)
            batches.setdefault(self._runner_key(lane), []).append(shadow)

    def _forward(self, batches: Sequence[list[LaneFeed]], feeds: RoundFeeds) -> None:
        """One forward pass a batch, whose rows go to the lanes."""
        asked = [
            (self._server(batch[0].lane), [PassItem(each.lane.name, each.feed, each.lane.length) for each in batch])
            for batch in batches
        ]
        for batch, outcomes in zip(batches, self._passes.run(asked), strict=True):
            passes: dict[ForwardPass, list[LaneFeed]] = defaultdict(list)
            for each, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Fed):
                    passes[outcome.forward].append(each)
                elif each.is_turn:
                    each.live.fail(outcome)
                else:
                    # Nobody waits for it yet, and it may never have a turn.
                    each.live.failed_idle.add(each.lane.name)
            for forward, own in passes.items():
                self._account(forward, own, feeds)
            for each, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Fed):
                    share = outcome.forward.seconds / outcome.forward.num_feeds
                    each.live.sheet.receive(each.lane, len(each.feed.tokens), self._cut(outcome.rows), share)
                    if each.is_shadow:
                        sheet = each.live.sheet
                        each.live.report(sheet.schedule.on_shadow, sheet, each.lane.index)

    def _account(self, forward: ForwardPass, fed: Sequence[LaneFeed], feeds: RoundFeeds) -> None:
        """Count a forward pass, and report it to the schedules of its sequences, once to each."""
        has_prefill = any(each.lane.seen < 0 for each in fed)
        if has_prefill:
            self._budgets[self._runner_key(fed[0].lane)].learn(forward.num_tokens, forward.seconds)
        feeds.seconds += forward.seconds
        feeds.has_prefill |= has_prefill
        by_schedule: dict[int, list[LaneFeed]] = defaultdict(list)
        for each in fed:
            by_schedule[id(each.live.sheet.schedule)].append(each)
        for own in by_schedule.values():
            live, lanes = own[0].live, sorted({each.lane.index for each in own})
            live.report(live.sheet.schedule.on_forward, lanes, forward.num_tokens, forward.seconds)

    def _cut(self, rows: Tensor) -> Tensor:
        """Without the padded columns beyond the shared vocabulary."""
        return rows if rows.shape[-1] == self._vocab_size else rows[:, : self._vocab_size]

    def _runner(self, lane: Lane) -> Runner:
        return self._participants[lane.index].runner

    def _server(self, lane: Lane) -> Runner:
        """The runner whose forward passes compute the lane's rows."""
        return server_of(self._runner(lane))

    def _runner_key(self, lane: Lane) -> int:
        return id(self._server(lane))

    def _is_drafter(self, lane: Lane) -> bool:
        return lane.index >= self._num_members

    def _is_beyond(self, lane: Lane, num_tokens: int) -> bool:
        """Whether so many tokens more do not fit into the context of the lane's model."""
        context = self._runner(lane).context
        return context is not None and lane.length + num_tokens > context

    def _on_retry(self, item: PassItem, num_feeds: int, error: Exception) -> None:
        name = item.name
        if name not in self._reported:
            # Where all sequences then go on, as where only a large batch fills the memory, only their speed shows it.
            self._reported.add(name)
            kind = type(error).__name__
            logger.warning("%s raised %s for %d sequences at once; they are fed one by one", name, kind, num_feeds)


def _behind(sheet: Sheet) -> list[Lane]:
    """The members that lack a row for a settled token."""
    return [lane for lane in sheet.lanes[: sheet.num_members] if lane.seen < sheet.position - 1]


def _lanes(sheet: Sheet, indices: Sequence[int], question: str, allowed: range) -> list[Lane]:
    """The lanes that a schedule names. Raises InvalidSchedule for one that there is not, or twice."""
    named = [*indices]
    if len({*named}) != len(named) or not all(index in allowed for index in named):
        raise InvalidSchedule(
            f"the schedule {sheet.schedule.name!r} answered {question} with the lanes {named}; each must be one of "
            f"{[*allowed]}, and stand there once"
        )
    return [sheet.lanes[index] for index in named]


def _with_rows(sheet: Sheet, lane: Lane, tokens: list[int]) -> Feed:
    """These tokens, with the rows of them that are needed."""
    return Feed(lane.slot, tokens, sheet.num_rows_wanted(lane, len(tokens)), sheet.num_settled(lane))
