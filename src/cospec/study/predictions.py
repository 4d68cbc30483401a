"""Theory: the speed over plain that the formulas of `schedule` predict from measured costs and acceptances.

All that a study knows of the planner and of theory stands here.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.counts import Counts
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..schedule import Plan
from ..schedule.theory import Estimates
from .methods import Method, PlannedMethod
from .results import OURS, PLAIN

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MethodEstimates:
    """Costs as `auto` measured them, and acceptances from the counts of one method's own drafts.

    The acceptances of `auto` are running means that follow the latest sequences; a prediction for all prompts needs
    those of all. measured: by `auto`. names: of the lanes.
    """

    measured: Estimates
    names: Sequence[str]
    counts: Counts

    @property
    def num_members(self) -> int:
        return self.measured.num_members

    def server(self, lane: int) -> int:
        return self.measured.server(lane)

    def seconds(self, lane: int, num_tokens: float, share: float = 1.0) -> float:
        return self.measured.seconds(lane, num_tokens, share)

    def engine_seconds(self, num_decided: float, share: float = 1.0) -> float:
        return self.measured.engine_seconds(num_decided, share)

    def acceptance(self, proposer: int, target: int | None, place: int | None = None) -> float:
        """accepted / proposed at this place in a block, or at the last place before it that was reached.

        Without a place, over all places; as `auto` measured it where this proposer proposed nothing. All targets are
        taken together: a fixed plan has one for each proposer, and `auto` mostly that of the plan it chose.
        """
        drafts = self.counts.proposers.get(self.names[proposer])
        if drafts is None or drafts.acceptance is None:
            return self.measured.acceptance(proposer, target, place)
        reached = [i for i, num in enumerate(drafts.proposed_at) if num and place is not None and i <= place]
        if not reached:
            return drafts.acceptance
        return drafts.accepted_at[reached[-1]] / drafts.proposed_at[reached[-1]]


def predictions(
    ensemble: Ensemble,
    params: SamplingParams,
    methods: Sequence[Method],
    counts: Mapping[str, Counts],
    concurrency: int = 1,
) -> dict[str, float]:
    """Predicted speed over plain of each method that theory covers, for so many sequences at once.

    counts: method -> what its measured sequences cost. Empty before `auto` has measured costs and acceptances, and
    without `plain`. `auto` is predicted as the plan that it chose last.
    """
    planner = ensemble.with_plan(Plan(verification=ensemble.plan.verification)).planner_for(params)
    if planner is None or PLAIN not in counts or not (planner.chosen or planner.beliefs.acceptances):
        return {}
    planner.beliefs.num_live = concurrency
    schedules = {
        method.name: method.ensemble.schedule_for(params)
        for method in methods
        if isinstance(method, PlannedMethod) and not method.is_single and method.ensemble.plan.name != OURS
    }
    if planner.chosen:
        schedules[OURS] = planner.plans[planner.chosen]
    plain_speed = planner.plans[PLAIN].cycle(planner.beliefs).speed
    speeds = {}
    for name, schedule in schedules.items():
        estimates = MethodEstimates(planner.beliefs, ensemble.names, counts.get(name, Counts()))
        try:
            speed = schedule.cycle(estimates).speed
        except Exception as error:  # another package's formula may raise anything, and is no part of decoding
            logger.warning("no theory of %s: %s: %s", name, type(error).__name__, error)
        else:
            speeds[name] = _with_prefill(speed / plain_speed, counts[PLAIN], concurrency)
    return speeds


def _with_prefill(ratio: float, plain: Counts, concurrency: int) -> float:
    """Speed over plain of whole sequences, from that of decoding alone: every method spends the same on the prompt.

    Sequences that are decoded at once each count all seconds of the clock, and of a forward pass only their share.
    """
    prompt = plain.prompt_seconds
    decoding = plain.seconds / concurrency - prompt
    return (prompt + decoding) / (prompt + decoding / ratio)
