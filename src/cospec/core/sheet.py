"""One sequence's score sheet: what is settled, what is drafted, and a lane for each member and drafter.

Positions count from the first token of the output; the prompt's are negative. Only `receive`, `extend`, `decline`,
`refine`, `commit`, `rollback` and `cut` change a sequence, and each leaves the invariants of `_check` standing.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import CospecError
from ..runner import Slot
from .drafts import Draft
from .sampling import Draws, SamplingParams


@dataclass(eq=False)
class Lane:
    """What one sequence keeps for one member or drafter.

    prompt: the member's own. length: tokens in its cache. rows [count, vocab]: logits for the last `count`
    positions up to `seen`, the last of which is the bonus. seconds: its share of the calls that it was fed in,
    prompt_seconds: of those that fed the prompt.
    """

    name: str
    prompt: tuple[int, ...]
    slot: Slot
    length: int = 0
    rows: Tensor | None = None
    calls: int = 0
    tokens_fed: int = 0
    seconds: float = 0.0
    prompt_seconds: float = 0.0

    @property
    def seen(self) -> int:
        """The position that the last row is for: how many tokens after the prompt it was fed."""
        return self.length - len(self.prompt)

    @property
    def first(self) -> int:
        """The first position with a row."""
        return self.seen + 1 - (0 if self.rows is None else self.rows.shape[0])

    def has(self, position: int) -> bool:
        return self.first <= position <= self.seen

    def between(self, start: int, stop: int) -> Tensor:
        """Rows for positions start .. stop - 1, [stop - start, vocab]."""
        assert self.rows is not None
        assert self.first <= start < stop <= self.seen + 1
        return self.rows[start - self.first : stop - self.first]


@dataclass
class Tally:
    """A proposer's drafts that were put to verification, and those that stood; `dropped` were never looked at.

    proposed_at, accepted_at: the same by place, how many undecided drafts stood before one.
    """

    proposed_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)
    dropped: int = 0

    @property
    def proposed(self) -> int:
        return sum(self.proposed_at)

    @property
    def accepted(self) -> int:
        return sum(self.accepted_at)

    def add(self, place: int, *, is_accepted: bool) -> None:
        missing = place + 1 - len(self.proposed_at)
        for counts in (self.proposed_at, self.accepted_at):
            counts.extend([0] * missing)
        self.proposed_at[place] += 1
        self.accepted_at[place] += is_accepted


@dataclass(frozen=True)
class Settled:
    """One decided position. proposer: the lane whose draft stood, None for a draw from r. replaced: the
    draft that was rejected here, and `rejected` who had proposed it. confidence: of the draft, whatever became of it.
    """

    token: int
    proposer: int | None = None
    replaced: int | None = None
    rejected: int | None = None
    confidence: float | None = None


@dataclass(eq=False)
class Sequence:
    """A text in the making.

    lanes: the members', then the drafters'. end_ids: tokens that end it. limit: the most tokens of output.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    draws: Draws
    lanes: list[Lane]
    num_members: int
    end_ids: frozenset[int]
    limit: int
    output: list[int] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    # Counts rollbacks and refinements. A draft's draws are keyed by it: what a verdict has looked at is never used
    # again.
    epoch: int = 0
    # Where a drafter last had nothing to propose: the lane -> (frontier, epoch).
    declined: dict[int, tuple[int, int]] = field(default_factory=dict)
    # By proposer, what r or a member made of its drafts; and what r made of all that were put to it.
    tallies: dict[int, Tally] = field(default_factory=dict)
    verified: Tally = field(default_factory=Tally)
    finish_reason: str | None = None
    error: CospecError | None = None
    # Rows before this position are no longer wanted; see `wanted`.
    scored: int = 0
    # Whether the last token was a draft that stood.
    ends_in_draft: bool = False
    # What a planner keeps with the text; nobody else looks at it.
    notes: Any = None

    @property
    def members(self) -> range:
        return range(self.num_members)

    @property
    def position(self) -> int:
        """The next position to settle."""
        return len(self.output)

    @property
    def frontier(self) -> int:
        """The next position to draft."""
        return len(self.output) + len(self.drafts)

    @property
    def wants_logprobs(self) -> bool:
        return self.params.logprobs is not None or self.scored < 0

    @property
    def is_unscored(self) -> bool:
        """Whether a log-probability that is wanted was not reported yet."""
        return self.scored < (self.position if self.params.logprobs is not None else 0)

    @property
    def wanted(self) -> int:
        """The first position whose rows are still wanted: to settle it, or to report its log-probability."""
        return min(self.scored, self.position) if self.wants_logprobs else self.position

    @property
    def num_draftable(self) -> int:
        """How many more tokens may be drafted: none behind an end token, none beyond the limit."""
        if self.drafts and self.drafts[-1].token in self.end_ids:
            return 0
        return self.limit - self.frontier

    @property
    def num_refined(self) -> int:
        """How many drafts, from the first, are members' own; what follows are a drafter's."""
        return next((i for i, draft in enumerate(self.drafts) if draft.proposer not in self.members), len(self.drafts))

    def has_declined(self, lane: int) -> bool:
        """Whether the drafter had nothing to propose at the frontier."""
        return self.declined.get(lane) == (self.frontier, self.epoch)

    def unseen(self, lane: Lane) -> list[int]:
        """What the lane was not fed yet: prompt, output and drafts."""
        drafted = [draft.token for draft in self.drafts]
        if lane.seen < 0:
            return [*lane.prompt[lane.length :], *self.output, *drafted]
        return [*self.output[lane.seen :], *drafted[max(0, lane.seen - len(self.output)) :]]

    def num_rows_wanted(self, lane: Lane, num_tokens: int) -> int:
        """For how many of the next `num_tokens` tokens the row is wanted."""
        seen = lane.seen + num_tokens
        return max(0, seen + 1 - max(self.wanted, lane.seen + 1))

    def receive(self, lane: Lane, num_tokens: int, rows: Tensor) -> None:
        """The lane was fed `num_tokens` and answered with `rows`, the last ones."""
        kept = lane.rows if rows.shape[0] == num_tokens else None
        lane.length += num_tokens
        lane.rows = torch.cat([kept, rows]) if kept is not None else rows if rows.shape[0] else None
        self._check()

    def extend(self, draft: Draft) -> None:
        """A proposer drafted the token at the frontier."""
        self.drafts.append(draft)

    def decline(self, lane: int) -> None:
        """A drafter has nothing to propose at the frontier."""
        self.declined[lane] = (self.frontier, self.epoch)

    def refine(self, accepted: list[Draft], replacement: Draft | None) -> None:
        """A member takes over the drafters' drafts: those that it accepts are its own now, and where it rejects one
        its replacement stands, and all behind goes."""
        first = self.num_refined
        raw, self.drafts[first:] = self.drafts[first:], accepted
        self._tally_refined(raw, len(accepted))
        self.epoch += 1
        if replacement is not None:
            self._trim_lanes(self.frontier)
            self.drafts.append(replacement)
        self._check()

    def commit(self, settled: Settled) -> None:
        """The next position is decided. A draft that stands there becomes output; else all drafts must go first."""
        self.ends_in_draft = bool(self.drafts)
        if self.drafts:
            draft = self.drafts.pop(0)
            assert draft.token == settled.token
            self._tally_verified(draft, is_accepted=True)
        self.output.append(settled.token)

    def rollback(self) -> None:
        """Forget all drafts and all that lanes know of them; the first of them was rejected, the rest not looked at."""
        rejected, *unseen = self.drafts
        self._tally_verified(rejected, is_accepted=False)
        for draft in unseen:
            self._tally(draft.proposer).dropped += 1
            self.verified.dropped += 1
        self.drafts.clear()
        self.epoch += 1
        self._trim_lanes(self.position)
        self._check()

    def cut(self, length: int) -> None:
        """The text ends after `length` tokens of output: whatever was settled behind them goes."""
        del self.output[length:]
        self.drafts.clear()

    def forget(self) -> None:
        """Drop the rows that are no longer wanted."""
        for lane in self.lanes:
            unwanted = self.wanted - lane.first
            if lane.rows is not None and unwanted > 0:
                lane.rows = lane.rows[unwanted:] if unwanted < lane.rows.shape[0] else None

    def _trim_lanes(self, seen: int) -> None:
        """No lane knows more than the tokens before the position `seen`."""
        for lane in self.lanes:
            extra = lane.seen - seen
            if extra > 0:
                lane.length -= extra
                lane.rows = None if lane.rows is None or extra >= lane.rows.shape[0] else lane.rows[:-extra]

    def _tally_verified(self, draft: Draft, *, is_accepted: bool) -> None:
        for tally in (self._tally(draft.proposer), self.verified):
            tally.add(draft.place, is_accepted=is_accepted)

    def _tally_refined(self, raw: list[Draft], num_accepted: int) -> None:
        for index, draft in enumerate(raw):
            tally = self._tally(draft.proposer)
            if index > num_accepted:
                tally.dropped += 1
            else:
                tally.add(draft.place, is_accepted=index < num_accepted)

    def _tally(self, proposer: int) -> Tally:
        return self.tallies.setdefault(proposer, Tally())

    def _check(self) -> None:
        for lane in self.lanes:
            assert lane.seen <= self.frontier, "a lane was fed what is not there"
