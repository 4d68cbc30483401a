"""What the formulas make of measured costs and acceptances, beside what the clock says."""

from collections.abc import Sequence as Values

from ..core.sampling import SamplingParams
from ..schedule.planner import Planner
from ..schedule.theory import cycle
from .results import OURS, PLAIN
from .trials import Trial


def theory_over_plain(
    trials: Values[Trial], planner: Planner, params: SamplingParams, concurrency: int
) -> dict[str, float]:
    """Speed over plain of each trial that the formulas know, from what the planner learned at this concurrency."""
    planner.num_rows = concurrency
    known = [trial for trial in trials if not trial.is_single and trial.name != OURS]
    speeds = {trial.name: cycle(trial.ensemble.schedule_for(params), planner).speed for trial in known}
    plain = speeds.get(PLAIN)
    if not plain:
        return {}
    speeds[OURS] = cycle(planner.candidates[planner.chosen], planner).speed
    return {name: speed / plain for name, speed in speeds.items()}
