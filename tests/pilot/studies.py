"""Small studies for the tests: tiny models on disk, a few prompts, and runners that misbehave."""

from pathlib import Path

from cospec import Ensemble
from cospec.study.criteria import Criteria
from cospec.study.energy import Meter
from cospec.study.environment import binding
from cospec.study.ledger import Ledger
from cospec.study.methods import ours
from cospec.study.pilot import Pilot
from cospec.study.pilot_results import results
from cospec.study.pilot_settings import PilotSettings
from cospec.study.prices import Machine, Prices
from cospec.study.questions import Question
from cospec.study.results import Results

PROMPTS = [
    Question(
        prompt=text, where=f"test:{number}", id=str(number), category=category, reference=" one text", score="exact"
    )
    for number, (category, text) in enumerate(
        [("a", "the members"), ("a", "two models"), ("b", "one text"), ("b", "the target"), ("b", "tokens")], start=1
    )
]
PRICES = Prices(machines=(Machine(name="box", per_hour=3.6),), tokens_per_month=1e6)
# Criteria that ask for nothing.
NOTHING = Criteria(min_speedup=None, exactness=False, score_margin=None, min_perplexity_gain=None)


def settings_for(ensemble: Ensemble, **changes: object) -> PilotSettings:
    given = {
        "source": "test",
        "ours": ours(ensemble),
        "questions": PROMPTS,
        "prompts_source": "test",
        "texts": ("two models decode one text",),
        "texts_source": None,
        "num_prompts": 5,
        "tokens": 6,
        "temperature": 1.0,
        "repeats": 1,
        "concurrencies": (1, 2),
        "score_temperature": 0.0,
        "score_tokens": 4,
        "stop": (),
        "criteria": Criteria(),
        "criteria_source": None,
        "prices": PRICES,
        "prices_source": None,
        "command": "cospec pilot",
    }
    return PilotSettings(**{**given, **changes})


def study(ensemble: Ensemble, path: Path | None = None, **changes: object) -> Pilot:
    what = settings_for(ensemble, **changes)
    settings = what.binding(binding(ensemble))
    ledger = Ledger.load(path, settings) if path else Ledger(settings=settings)
    return Pilot(ensemble, what, ledger, Meter([]))


def finished(ensemble: Ensemble, **changes: object) -> Results:
    made = study(ensemble, **changes)
    assert made.run(lambda step: None, lambda: False)
    return results(made)
