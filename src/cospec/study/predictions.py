"""What theory makes of the measured acceptances and costs, beside what the clock says."""

from collections.abc import Mapping
from collections.abc import Sequence as Values
from dataclasses import dataclass
from typing import Any

from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..schedule import Plan
from ..schedule.auto import Auto
from .methods import Method


@dataclass(frozen=True)
class Tallied:
    """Costs as the planner measured them, and acceptances as a method's own drafts had them, over all prompts.

    A planner forgets, so as to keep up with the text at hand; a figure for all prompts must not.
    names: of the lanes. counts: what the method's texts cost, as in a study.
    """

    planner: Auto
    names: Values[str]
    counts: Mapping[str, Any]

    @property
    def num_members(self) -> int:
        return self.planner.beliefs.num_members

    def seconds(self, lane: int, num_tokens: float, share: float = 1.0) -> float:
        """As the planner has it."""
        return self.planner.beliefs.seconds(lane, num_tokens, share)

    def acceptance(self, proposer: int, target: int | None, place: int | None = None) -> float:
        """accepted / proposed at that place, or at the last before it that was reached; the planner's if none was.

        Whoever they were put to: a fixed plan has one target for each proposer, the members that it draws taken
        together, and `auto` mostly the one of the plan that it chose.
        """
        proposed, accepted = (
            self.counts.get(key, {}).get(self.names[proposer], {}) for key in ("proposed_at", "accepted_at")
        )
        total = sum(proposed.values())
        if not total:
            return self.planner.beliefs.acceptance(proposer, target, place)
        reached = [at for at in range(place + 1) if proposed.get(str(at))] if place is not None else []
        if not reached:
            return float(sum(accepted.values()) / total)
        return float(accepted[str(reached[-1])] / proposed[str(reached[-1])])


def predictions(
    ensemble: Ensemble, params: SamplingParams, methods: Values[Method], counts: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Speed over plain by theory of each method that it knows, for one text at a time.

    Nothing before `auto` has measured what calls cost, and nothing without `plain`. counts: method -> what its texts
    cost. `auto` counts as the plan that it chose last, once it has.
    """
    planner = ensemble.with_plan(Plan(schedule="auto", verification=ensemble.plan.verification)).planner_for(params)
    if planner is None or not planner.beliefs.acceptances or not counts.get("plain"):
        return {}
    planner.beliefs.num_live = 1
    schedules = {
        method.name: ensemble.with_plan(method.plan).schedule_for(params)
        for method in methods
        if method.plan is not None and method.plan.schedule != "auto"
    }
    if planner.chosen:
        schedules["auto"] = planner.plans[planner.chosen]
    plain = planner.plans["plain"].cycle(planner.beliefs).speed
    return {
        name: _with_prompts(
            schedule.cycle(Tallied(planner, ensemble.names, counts.get(name, {}))).speed / plain, counts["plain"]
        )
        for name, schedule in schedules.items()
    }


def _with_prompts(ratio: float, plain: Mapping[str, Any]) -> float:
    """Speed over plain of whole texts, from that of decoding alone: every method feeds the prompt first."""
    prompt, decoding = plain["prompt seconds"], plain["seconds"] - plain["prompt seconds"]
    return float((prompt + decoding) / (prompt + decoding / ratio))
