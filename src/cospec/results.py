"""What decoding gives back: events as they come, a result a text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from .core.engine import Live, Request, Token, Update
from .core.score import TokenLogprob
from .core.sheet import Lane, Tally
from .schedule.planner import Planner


@dataclass(frozen=True)
class MemberStats:
    """What a result cost one member: calls in which it was fed, tokens fed, its share of the calls' seconds.

    prompt_seconds: of those, the ones that fed the prompt.
    """

    calls: int
    tokens_fed: int
    seconds: float
    prompt_seconds: float


@dataclass(frozen=True)
class ProposerStats:
    """Drafts put to verification and those that stood (acceptance = accepted / proposed).

    `dropped` were never looked at, since a draft before them was rejected. proposed_at, accepted_at: the same by
    place, which is how many undecided drafts stood before one; so proposed_at[0] counts blocks of drafts.
    """

    proposed: int
    accepted: int
    dropped: int
    proposed_at: tuple[int, ...]
    accepted_at: tuple[int, ...]

    @property
    def blocks(self) -> int:
        """How many blocks of drafts were put to verification."""
        return self.proposed_at[0] if self.proposed_at else 0

    @property
    def drafted(self) -> int:
        """How many tokens were drafted, whether looked at or not."""
        return self.proposed + self.dropped


@dataclass(frozen=True, kw_only=True)
class Result:
    """One decoded text.

    token_ids: with the end token, if one ended it. finish_reason: stop, length, abort or error (then `error` says why).
    logprobs: log r of each token, if asked for; prompt_logprobs: of the prompt's, the first being None.
    plan: what `auto` held to be the fastest when the text ended, None where the plan was fixed or nothing measured yet.
    proposers: each one's drafts, verified by r or, under `cascade`, by a member that made them its own. verified: all
    drafts that were put to r, once each.
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
    plan: str | None
    verification: str
    seed: int
    seconds: float
    members: dict[str, MemberStats]
    drafters: dict[str, MemberStats]
    proposers: dict[str, ProposerStats]
    verified: ProposerStats
    prompt_index: int
    index: int

    def to_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Event:
    """What one round did to one text: tokens settled with their text, and the result once it is finished.

    logprobs: those that became known, of earlier tokens maybe, and of the prompt's at negative positions.
    """

    prompt_index: int
    index: int
    tokens: Sequence[Token]
    logprobs: Sequence[TokenLogprob]
    result: Result | None


@dataclass
class Origin:
    """Where a live sequence came from, and the log-probabilities it has had so far."""

    prompt_index: int
    index: int
    request: Request
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def event(self, live: Live, update: Update) -> Event:
        """The update as the user sees it."""
        self.logprobs.extend(update.logprobs)
        result = self._result(live) if update.is_finished else None
        return Event(self.prompt_index, self.index, update.tokens, update.logprobs, result)

    def _result(self, live: Live) -> Result:
        sequence, params = live.sequence, live.sequence.params
        of_output = [entry for entry in self.logprobs if 0 <= entry.position < len(sequence.output)]
        of_prompt = [entry for entry in self.logprobs if entry.position < 0]
        members, drafters = sequence.lanes[: sequence.num_members], sequence.lanes[sequence.num_members :]
        return Result(
            text=live.text.text if live.text else "",
            token_ids=list(sequence.output),
            finish_reason=sequence.finish_reason or "abort",
            error=str(sequence.error) if sequence.error else None,
            logprobs=of_output if params.logprobs is not None else None,
            prompt_logprobs=[None, *of_prompt] if params.prompt_logprobs is not None else None,
            prompt_tokens=len(sequence.prompt),
            completion_tokens=len(sequence.output),
            schedule=live.policy.schedule.name,
            plan=(live.policy.observer.chosen or None) if isinstance(live.policy.observer, Planner) else None,
            verification=live.policy.verification,
            seed=self.request.draws.seed,
            seconds=live.seconds,
            members={lane.name: _member_stats(lane) for lane in members},
            drafters={lane.name: _member_stats(lane) for lane in drafters},
            proposers={sequence.lanes[i].name: _proposer_stats(tally) for i, tally in sorted(sequence.tallies.items())},
            verified=_proposer_stats(sequence.verified),
            prompt_index=self.prompt_index,
            index=self.index,
        )


def _member_stats(lane: Lane) -> MemberStats:
    return MemberStats(lane.calls, lane.tokens_fed, lane.seconds, lane.prompt_seconds)


def _proposer_stats(tally: Tally) -> ProposerStats:
    return ProposerStats(
        tally.proposed, tally.accepted, tally.dropped, tuple(tally.proposed_at), tuple(tally.accepted_at)
    )
