"""What decoding gives back: an event for each sequence that a round moved, and a result at its end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from .counts import Counts, DraftCounts, LaneCounts
from .sheet import Sheet
from .tokens import Token, TokenLogprob


@dataclass(frozen=True, kw_only=True)
class Result:
    """One decoded sequence.

    token_ids: with the end token, if one ended it. finish_reason: stop, length, abort or error (`error` says why).
    logprobs: log r of each token, where asked for; prompt_logprobs: of the prompt's, the first being None.
    schedule: that was asked for. plan: what ran; of those that `auto` measures the one that it held to be the fastest
    at the end, and before it holds any the one that the sequence ran last.
    members, drafters: name -> what decoding cost it. proposers: name -> its drafts, verified by r or, under `cascade`,
    by the member that took them over. verified: all drafts that r verified, once each.
    seconds: from joining the engine to the end. prompt_index, index: which prompt, which of its n samples.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    error: str | None
    logprobs: list[TokenLogprob] | None
    prompt_logprobs: list[TokenLogprob | None] | None
    prompt_tokens: int
    completion_tokens: int
    schedule: str
    plan: str
    verification: str
    seed: int
    seconds: float
    members: dict[str, LaneCounts]
    drafters: dict[str, LaneCounts]
    proposers: dict[str, DraftCounts]
    verified: DraftCounts
    prompt_index: int
    index: int

    @property
    def counts(self) -> Counts:
        """What the sequence cost, to be added to others'."""
        return Counts(
            tokens=self.completion_tokens,
            seconds=self.seconds,
            lanes=self.members | self.drafters,
            proposers=self.proposers,
            verified=self.verified,
            plans={self.plan: 1} if self.is_plan_chosen else {},
        )

    @property
    def is_plan_chosen(self) -> bool:
        """Whether the schedule chose another one's plan, as `auto` does."""
        return self.plan.split()[:1] != [self.schedule]

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Event:
    """What one round did to one sequence: the tokens that it settled, and the result once it is finished.

    id: the engine's, unique in it. logprobs: those that became known, of earlier tokens maybe, and of the prompt's at
    negative positions. sheet: to be read only.
    """

    id: int
    prompt_index: int
    index: int
    tokens: Sequence[Token]
    logprobs: Sequence[TokenLogprob]
    result: Result | None
    sheet: Sheet = field(repr=False)
