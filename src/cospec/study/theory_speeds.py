"""What the formulas make of measured costs and acceptances, beside what the clock says."""

from collections.abc import Sequence as Values

from ..core.params import SamplingParams
from ..schedule.auto import Auto
from .results import OURS, PLAIN
from .trials import Trial


def theory_over_plain(
    trials: Values[Trial], planner: Auto, params: SamplingParams, concurrency: int
) -> dict[str, float]:
    """Speed over plain of each trial that the formulas know, from what the planner learned at this concurrency."""
    beliefs = planner.beliefs
    beliefs.num_live = concurrency
    known = [trial for trial in trials if not trial.is_single and trial.name != OURS]
    speeds = {trial.name: trial.ensemble.schedule_for(params).cycle(beliefs).speed for trial in known}
    plain = speeds.get(PLAIN)
    if not plain:
        return {}
    speeds[OURS] = planner.plans[planner.chosen or PLAIN].cycle(beliefs).speed
    return {name: speed / plain for name, speed in speeds.items()}
