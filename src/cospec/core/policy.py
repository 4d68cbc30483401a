"""What the engine asks a schedule, and what it reports to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sheet import Sheet
    from .tokens import Token


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round did to the sequences of one schedule.

    num_live: sequences in the engine; num_moved: those that had a turn; num_decided: positions decided, which are the
    drafts that were accepted, rejected or dropped, and one more for each sequence that settled something. All of these
    with those of other schedules. seconds: of the whole round; seconds_in_models: of its forward passes. has_prefill:
    whether a prompt was fed.
    """

    sheets: Sequence["Sheet"]
    num_live: int
    num_moved: int
    num_decided: int
    num_settled: int
    seconds: float
    seconds_in_models: float
    has_prefill: bool


class Policy:
    """Who is fed next, who may propose, and which cells settle a position; by default that of no drafts at all.

    The engine asks the questions for one sequence's sheet at a time; sequences may share one policy. Questions change
    nothing, neither the sheet nor the policy. What a policy learns, it learns in the events. Lanes are given by index:
    the members', then the drafters'. What a question raises ends its own sequence, and so does an event about one;
    what `on_round` raises ends all sequences of the round that share the policy.
    """

    name = "policy"

    # Questions.

    @property
    def reads_confidence(self) -> bool:
        """Whether the `confidence` of drafts is read: it takes a pass over the proposer's row."""
        return True

    def turn(self, sheet: "Sheet") -> Sequence[int]:
        """The lanes to be fed what they have not seen, in this round, as far as `reach` says.

        By default all members without a row at the frontier.
        """
        return [i for i in sheet.members if not sheet.lanes[i].has(sheet.frontier)]

    def proposer(self, sheet: "Sheet") -> int | None:
        """The lane whose bonus row proposes the token at the frontier, if one may. Asked after settling, and only where
        another token may be drafted."""
        return None

    def cells(self, sheet: "Sheet", position: int) -> Sequence[int]:
        """The members whose rows settle this position: all of them, or one alone, drawn with a mixture's weights. The
        answer must not depend on the tokens of drafts."""
        return sheet.members

    def reach(self, sheet: "Sheet", lane: int) -> int:
        """The last position for which a row of this lane is needed now; what it was not fed before that can wait."""
        return sheet.frontier

    def refiner(self, sheet: "Sheet") -> int | None:
        """The member that takes over the drafters' drafts, if one does: it has a row for each of them. Whether a draft
        is taken over must be certain before it is drawn: the answer must not depend on the drafts' tokens."""
        return None

    def syncs_idle_members(self, sheet: "Sheet") -> bool:
        """Whether members whose turn it is not may be fed settled tokens in a forward pass that runs anyway (lazy KV
        synchronisation): the next token is settled without a row of theirs."""
        return False

    def shadows(self, sheet: "Sheet") -> Sequence[int]:
        """Idle drafters to be fed beside the members, for what their rows say of their acceptance alone."""
        return ()

    def label(self, sheet: "Sheet") -> str:
        """What errors call the policy of this sequence."""
        return self.name

    def plan_of(self, sheet: "Sheet") -> str | None:
        """The plan that a result of this sequence names, where the policy chooses among several."""
        return None

    # Events.

    def on_begin(self, sheet: "Sheet") -> None:
        """A sequence joins the engine."""

    def on_forward(self, lanes: Sequence[int], num_tokens: int, seconds: float) -> None:
        """A forward pass fed these lanes, which one runner serves, so many tokens, those of all sequences together."""

    def on_shadow(self, sheet: "Sheet", lane: int) -> None:
        """An idle drafter that `shadows` named was fed; its rows stand in its lane."""

    def on_settled(self, sheet: "Sheet", tokens: Sequence["Token"]) -> None:
        """The last positions were settled so; their rows are still there, and nothing more is drafted yet."""

    def on_round(self, done: Round) -> None:
        """A round is over; reported once for all sequences that share this policy."""

    def on_end(self, sheet: "Sheet") -> None:
        """A sequence leaves the engine."""
