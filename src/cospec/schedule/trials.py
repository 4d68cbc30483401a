"""What `auto` may lose by trying plans: a bounded share of the time that it has decoded for."""

import math
from dataclasses import dataclass, field

# Trials may lose the time of so many tokens of each sequence at the start, no more than this share of the first text's,
# and this share of all decoding time besides; none begins unless so many tokens' time is left.
FIRST_TOKENS, FIRST_SHARE, SHARE, LEAST_TOKENS = 6.0, 0.06, 0.01, 1.5


@dataclass(eq=False)
class Window:
    """A measurement window: rounds in which all sequences run one plan.

    bucket: of the number of sequences. part: of a window's usual length, after which it is over. baseline: of a trial
    the tokens a second of the plan that is held to be the fastest; 0 for a window of that plan itself. most_lost:
    seconds of a trial's loss that end it. is_new: whether the plan was not known before at this number of sequences.
    is_exploration: whether it is to measure what predictions need, and is over as soon as it has. about: the plan whose
    prediction lacks something that this window is to measure, where there is one.
    tokens, seconds: of all sequences together, while all ran the plan. tokens_mixed, seconds_mixed: while only some
    did, which is part of what a trial costs. prompt_seconds: of drafters, which read their prompts for it.
    choosing_seconds: that it took to choose the plan.
    """

    plan: str
    bucket: int = 1
    part: float = 1.0
    baseline: float = 0.0
    most_lost: float = 0.0
    is_new: bool = False
    is_exploration: bool = False
    about: str = ""
    tokens: int = 0
    seconds: float = 0.0
    tokens_mixed: int = 0
    seconds_mixed: float = 0.0
    prompt_seconds: float = 0.0
    choosing_seconds: float = 0.0

    @property
    def is_trial(self) -> bool:
        """Whether another plan is held to be the fastest."""
        return self.baseline > 0

    @property
    def lost(self) -> float:
        """Seconds that a trial took more than the fastest plan would have, by its predicted speed, and to be chosen."""
        if not self.is_trial:
            return 0.0
        seconds, tokens = self.seconds + self.seconds_mixed, self.tokens + self.tokens_mixed
        return self.choosing_seconds + self.prompt_seconds + max(0.0, seconds - tokens / self.baseline)


@dataclass
class TrialBudget:
    """Seconds that trials have lost, and may lose. Speeds are a sequence's, in tokens a second: while a plan is tried,
    all sequences wait for it.

    A trial ends after a few tokens, or with the cycle in which all that is left is spent. So what all trials lose stays
    under `first_tokens` tokens' time, `SHARE` of all decoding time, and one cycle of a plan that was tried.

    num_expected: of all sequences, the tokens that were decoded and those that may follow. How many come behind these
    nobody knows; as many again as were decoded are counted on.
    """

    first_tokens: float = FIRST_TOKENS
    elapsed: float = 0.0
    num_expected: int = 0
    # The last trial, or the present one. It goes on to cost while sequences leave its plan one after the other.
    trial: Window = field(default_factory=lambda: Window(""))
    _lost_before: float = 0.0

    def begin(self, trial: Window) -> None:
        """From now on this trial is paid for."""
        self._lost_before, self.trial = self.lost, trial

    @property
    def lost(self) -> float:
        """Seconds that all trials have lost."""
        return self._lost_before + self.trial.lost

    def allows_a_trial(self, speed: float, *, at_start: bool = True) -> bool:
        """Whether enough is left for one to say something, with or without what is given at the start."""
        given = 0.0 if at_start else self.first_tokens
        return self.left(speed) * speed - given >= LEAST_TOKENS

    def least_worth(self, speed: float, num_live: int) -> float:
        """Tokens a second at which a plan makes up, over the tokens that are expected, for all that its trial may lose,
        where the fastest one writes `speed`, of all sequences together."""
        seconds = 1 / speed - self.left(speed / num_live) / max(1, self.num_expected)
        return 1 / seconds if seconds > 0 else math.inf

    def left(self, speed: float) -> float:
        """Seconds, where the plan that is held to be the fastest writes so many tokens a second."""
        return self.first_tokens / speed + SHARE * self.elapsed - self.lost
