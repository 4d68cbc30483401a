"""One sequence's score sheet: what is settled, what is drafted, and a lane for each member and drafter.

Positions count from the first token of the output; the prompt's are negative. Only a sheet's own verbs change it
(`receive`, `take_over`, `extend`, `decline`, `refine`, `commit`, `rollback`, `cut`, `forget`, `mark_scored`, `finish`,
`release`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CospecError
from ..runner import Slot
from .combine import Combination
from .counts import DraftCounts, LaneCounts
from .draws import Draws
from .params import SamplingParams
from .policy import Policy
from .tokens import Draft, Token
from .verify import is_coupled


@dataclass(eq=False)
class Lane:
    """What one sequence keeps for one member or drafter.

    index: the lane's, members first. prompt: the member's own. slot: its place in the runner. length: tokens fed to it.
    rows: logits [positions, vocab] for the last positions up to `seen`, the last of which is the bonus, in the
    stretches that they were fed in: they are joined where they are read.
    """

    index: int
    name: str
    prompt: tuple[int, ...]
    slot: Slot
    length: int = 0
    rows: tuple[Tensor, ...] = ()
    counts: LaneCounts = field(default_factory=LaneCounts)

    @property
    def seen(self) -> int:
        """The position that the last row is for: tokens fed after the prompt; negative while the prompt is fed."""
        return self.length - len(self.prompt)

    @property
    def first(self) -> int:
        """The first position with a row."""
        return self.seen + 1 - _num_rows(self.rows)

    def has(self, position: int) -> bool:
        """Whether the lane has a row for this position."""
        seen = self.seen
        return position <= seen and seen - _num_rows(self.rows) < position

    def between(self, start: int, stop: int) -> Tensor:
        """Rows for positions start .. stop - 1, [stop - start, vocab]."""
        first = self.first
        assert first <= start < stop <= self.seen + 1
        own = _sliced(self.rows, start - first, stop - first)
        return own[0] if len(own) == 1 else torch.cat(own)

    def forget_after(self, seen: int) -> None:
        """Keep nothing of what was fed beyond the position `seen`."""
        extra = self.seen - seen
        if extra > 0:
            count = _num_rows(self.rows) - extra
            self.length -= extra
            self.rows = _sliced(self.rows, 0, count)


def _num_rows(rows: Sequence[Tensor]) -> int:
    # Not len(), which torch has in Python.
    return sum([each.shape[0] for each in rows])


def _sliced(rows: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
    """Of stretches one after the other, what lies between two positions."""
    own = []
    for each in rows:
        size = each.shape[0]
        if start <= 0 and stop >= size:
            own.append(each)
        elif start < size and stop > 0:
            own.append(each[max(start, 0) : stop])
        start, stop = start - size, stop - size
    return tuple(own)


@dataclass(eq=False, kw_only=True, repr=False)
class Sheet:
    """The score sheet.

    combination, params: together they are the target r. schedule, verification: how it is reached. lanes: the members',
    then the drafters'. end_ids: tokens that end the sequence. limit: the most tokens of output. scored: the first
    position whose log-probability was not reported yet.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    draws: Draws
    combination: Combination
    schedule: Policy
    verification: str
    lanes: list[Lane]
    num_members: int
    end_ids: frozenset[int]
    limit: int
    scored: int = 0
    output: list[int] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    # Counts rollbacks and refinements. Draws for drafts are keyed by it, so that a number that decided a rejection is
    # never used again.
    epoch: int = 0
    # Where a drafter last had nothing to propose: lane -> (frontier, epoch).
    declined: dict[int, tuple[int, int]] = field(default_factory=dict)
    # By proposer, its drafts as r, or a member that took them over, verified them; and all drafts that r verified.
    proposers: dict[int, DraftCounts] = field(default_factory=dict)
    verified: DraftCounts = field(default_factory=DraftCounts)
    finish_reason: str | None = None
    error: CospecError | None = None
    # Whether the last token of output is an accepted draft.
    ends_in_draft: bool = False
    # Counts the verbs, so that the engine can tell a round that changed nothing.
    num_changes: int = 0

    @property
    def members(self) -> range:
        """The members' lanes, by index."""
        return range(self.num_members)

    @property
    def drafters(self) -> range:
        """The lanes of drafters that are no members."""
        return range(self.num_members, len(self.lanes))

    @property
    def position(self) -> int:
        """The next position to settle."""
        return len(self.output)

    @property
    def frontier(self) -> int:
        """The next position to draft."""
        return len(self.output) + len(self.drafts)

    @property
    def is_coupled(self) -> bool:
        """Whether drafts are verified by the token alone; see `verify.is_coupled`."""
        return is_coupled(self.verification, self.params.temperature)

    @property
    def is_finished(self) -> bool:
        """Whether no token follows; log-probabilities may still be missing."""
        return self.finish_reason is not None

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are reported, of the output or of what is left of the prompt."""
        return self.params.logprobs is not None or self.scored < 0

    @property
    def is_unscored(self) -> bool:
        """Whether a log-probability that is wanted was not reported yet."""
        return self.scored < (self.position if self.params.logprobs is not None else 0)

    @property
    def wanted(self) -> int:
        """The first position whose rows are still needed: to settle it, or to report its log-probability."""
        return min(self.scored, self.position) if self.wants_logprobs else self.position

    @property
    def num_draftable(self) -> int:
        """How many more tokens may be drafted: none behind an end token, none beyond the limit."""
        if self.drafts and self.drafts[-1].token in self.end_ids:
            return 0
        return self.limit - self.frontier

    @property
    def num_refined(self) -> int:
        """How many drafts, from the first, are members' own; those behind them are a drafter's."""
        return next((i for i, draft in enumerate(self.drafts) if draft.proposer not in self.members), len(self.drafts))

    @property
    def num_drafts_decided(self) -> int:
        """Drafts so far that were accepted, rejected or dropped, by r or by a member that took them over."""
        return sum(counts.drafted for counts in self.proposers.values())

    def has_declined(self, lane: int) -> bool:
        """Whether the drafter had nothing to propose at the frontier."""
        return self.declined.get(lane) == (self.frontier, self.epoch)

    def unseen(self, lane: Lane) -> list[int]:
        """The tokens that the lane was not fed yet: prompt, output and drafts."""
        drafted = [draft.token for draft in self.drafts]
        if lane.seen < 0:
            return [*lane.prompt[lane.length :], *self.output, *drafted]
        return [*self.output[lane.seen :], *drafted[max(0, lane.seen - len(self.output)) :]]

    def num_rows_wanted(self, lane: Lane, num_tokens: int) -> int:
        """For how many of the next `num_tokens` tokens the row is needed."""
        seen = lane.seen + num_tokens
        return max(0, seen + 1 - max(self.wanted, lane.seen + 1))

    def num_settled(self, lane: Lane) -> int:
        """How many of the lane's tokens, fed or not, are certain to stay: its prompt and the output."""
        return len(lane.prompt) + self.position

    # The verbs.

    def receive(self, lane: Lane, num_tokens: int, rows: Tensor, seconds: float) -> None:
        """The lane was fed `num_tokens` in a forward pass, of which `seconds` are its share; rows: of the last ones."""
        kept = lane.rows if rows.shape[0] == num_tokens else ()
        counts = lane.counts
        counts.calls += 1
        counts.tokens_fed += num_tokens
        counts.seconds += seconds
        counts.prompt_seconds += seconds if lane.seen < 0 else 0.0
        lane.length += num_tokens
        lane.rows = (*kept, rows) if rows.shape[0] else ()
        self._changed()

    def take_over(self, lane: Lane, num_tokens: int) -> None:
        """The first tokens of the lane's prompt were copied from another sequence's."""
        lane.length += num_tokens
        self._changed()

    def extend(self, draft: Draft) -> None:
        """A proposer drafted the token at the frontier."""
        self.drafts.append(draft)
        self.num_changes += 1

    def decline(self, lane: int) -> None:
        """A drafter has nothing to propose at the frontier."""
        if not self.has_declined(lane):
            self.declined[lane] = (self.frontier, self.epoch)
            self.num_changes += 1

    def refine(self, accepted: Sequence[Draft], replacement: Draft | None) -> None:
        """A member takes over the drafters' drafts: those that it accepts become its own. Where it rejects one, its
        replacement stands there and all drafts behind go."""
        first = self.num_refined
        raw, self.drafts[first:] = self.drafts[first:], accepted
        for index, draft in enumerate(raw):
            self._count(draft, is_verified=index <= len(accepted), is_accepted=index < len(accepted))
        self.epoch += 1
        if replacement is not None:
            self._trim(self.frontier)
            self.drafts.append(replacement)
        self._changed()

    def commit(self, token: Token) -> None:
        """The next position is decided. A draft that stands there becomes output; otherwise all drafts must go
        first."""
        self.ends_in_draft = bool(self.drafts)
        if self.drafts:
            draft = self.drafts.pop(0)
            assert draft.token == token.token
            self._count(draft, is_accepted=True)
            self.verified.verify(draft.place, is_accepted=True)
        self.output.append(token.token)
        self.num_changes += 1

    def rollback(self) -> None:
        """The first draft was rejected: forget all drafts, and all that lanes know of them."""
        assert self.drafts, "there is no draft to reject"
        for index, draft in enumerate(self.drafts):
            self._count(draft, is_verified=index == 0, is_accepted=False)
        self.verified.verify(self.drafts[0].place, is_accepted=False)
        self.verified.dropped += len(self.drafts) - 1
        self.drafts.clear()
        self.epoch += 1
        self._trim(self.position)
        self._changed()

    def cut(self, length: int) -> None:
        """The sequence ends after `length` tokens of output: what was settled behind them goes."""
        del self.output[length:]
        self.drafts.clear()
        self._trim(length)
        self._changed()

    def forget(self) -> None:
        """Drop the rows that are no longer needed."""
        wanted = self.wanted
        for lane in self.lanes:
            first = lane.first
            if lane.rows and first < wanted:
                lane.rows = _sliced(lane.rows, wanted - first, lane.seen + 1 - first)

    def release(self) -> None:
        """The sequence has left the engine: drop all rows."""
        for lane in self.lanes:
            lane.rows = ()

    def mark_scored(self, stop: int) -> None:
        """The log-probabilities of all positions before `stop` are reported."""
        self.scored = stop
        self.num_changes += 1

    def finish(self, reason: str, error: CospecError | None = None) -> None:
        """No token follows. reason: stop, length, abort or error. The first error stays."""
        if self.error is None:
            self.finish_reason, self.error = reason, error
        self.num_changes += 1

    def _count(self, draft: Draft, *, is_accepted: bool, is_verified: bool = True) -> None:
        counts = self.proposers.setdefault(draft.proposer, DraftCounts())
        if is_verified:
            counts.verify(draft.place, is_accepted=is_accepted)
        else:
            counts.dropped += 1

    def _trim(self, seen: int) -> None:
        for lane in self.lanes:
            lane.forget_after(seen)

    def _changed(self) -> None:
        """Count the change, and assert that no lane knows of tokens that the sheet does not have."""
        self.num_changes += 1
        for lane in self.lanes:
            assert lane.seen <= self.frontier, "a lane was fed what is not there"
