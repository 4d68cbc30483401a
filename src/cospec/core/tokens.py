"""What a position holds: a drafted token, then a settled one, with its log-probability where one is wanted."""

from dataclasses import dataclass

from torch import Tensor

from .summed import LazyLogProbs


@dataclass(frozen=True)
class Draft:
    """A drafted token, not yet decided.

    proposer: the lane that drew it. probs: [vocab], the distribution it was drawn from; None where verification needs
    the token alone (coupled, and temperature 0), and where `log_probs`, of one position, say it. ids: where given,
    probs are [columns], of these tokens, ascending, and all others have none. place: the number of undecided drafts
    before it. confidence: the proposer's own probability of the token, before the target's transforms; None where the
    schedule does not read it.
    """

    token: int
    proposer: int
    probs: Tensor | None
    place: int
    confidence: float | None
    ids: Tensor | None = None
    log_probs: LazyLogProbs | None = None


@dataclass(frozen=True)
class Token:
    """A settled token.

    text: what it made certain of the sequence's text. proposer: the lane whose draft was accepted, None for a draw from
    r. replaced: the draft that was rejected here, rejected: the lane that had proposed it. confidence: the draft's,
    accepted or not, where it was computed.
    """

    token: int
    text: str = ""
    proposer: int | None = None
    replaced: int | None = None
    rejected: int | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """log r of the token at a position, and the most probable tokens there with theirs, in descending order.

    position: counts from the first token of output; the prompt's are negative.
    """

    position: int
    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
