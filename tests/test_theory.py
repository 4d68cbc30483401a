"""What the formulas predict is what the engine does, counted in calls, where acceptances are independent indeed."""

import math

import pytest

from cospec import Ensemble, Mixture, SamplingParams, toy
from cospec.members import Member
from cospec.schedule import Setting, make_schedule
from cospec.schedule.theory import sequences_a_pass, standing

from .clock import Clock, EngineTime
from .properties import longer

# Distributions that are the same at every position, so that acceptances are independent of each other.
MEMBERS = {"a": [0.5, 0.3, 0.15, 0.05], "b": [0.2, 0.45, 0.2, 0.15]}
DRAFTER = [0.4, 0.2, 0.3, 0.1]
OWN = [0.3, 0.4, 0.2, 0.1]
WEIGHTS = (0.4, 0.6)
COSTS = (1.0, 1.4, 0.1, 0.15)
# Chance moves a speed by two hundredths, and by one where two stages draft, of which theory counts the tokens roughly.
LENGTH, LENGTH_OF_CASCADES = longer(2000, 6000), longer(3000, 6000)
# The engine's own time: none, or about what passes take, much less of it in rounds that decide nothing.
NO_TIME, TIME = EngineTime(0.0, 0.0, 0.0), EngineTime(0.2, 0.5, 0.1)


def constant(probs):
    logits = [math.log(p) for p in probs]
    return toy.FunctionRunner(len(probs), lambda prefix: logits)


class Known:
    """The true acceptances, and calls that cost a share more for each token that they feed."""

    num_members = len(MEMBERS)
    rows = (*MEMBERS.values(), DRAFTER, OWN)

    def __init__(self, share_a_token, engine=NO_TIME):
        self._share, self._engine = share_a_token, engine

    def server(self, lane):
        return lane

    def seconds(self, lane, num_tokens, share=1.0):
        return COSTS[lane] * (1 + self._share * num_tokens)

    def engine_seconds(self, num_decided, share=1.0):
        return self._engine.seconds(num_decided)

    def acceptance(self, proposer, target, place=None):
        mixed = [
            sum(w * p for w, p in zip(WEIGHTS, column, strict=True)) for column in zip(*MEMBERS.values(), strict=True)
        ]
        return sum(map(min, self.rows[proposer], mixed if target is None else self.rows[target]))


PLANS = {
    "plain": {"schedule": "plain"},
    "drafter": {"schedule": "fixed", "gamma": 3, "proposer": "member"},
    "long drafts": {"schedule": "fixed", "gamma": 7, "proposer": "member"},
    "member": {"schedule": "fixed", "gamma": 3, "proposer": "b"},
    "alternate": {"schedule": "alternate", "gamma": 1},
    "drawn": {"schedule": "mixture"},
    "drawn, with a drafter": {"schedule": "mixture", "gamma": 4, "proposer": "member"},
    "drawn, with two drafters": {"schedule": "mixture", "gamma": 4, "proposer": "each"},
    "cascade": {"schedule": "cascade", "gamma": (3, 6), "proposer": "member"},
    "cascade, shallow": {"schedule": "cascade", "gamma": (4, 2), "proposer": "member", "first": "b"},
}


@pytest.fixture(scope="module")
def ensemble():
    members = [Member(model=constant(probs), name=name) for name, probs in MEMBERS.items()]
    # Block verification accepts more than theory says.
    return Ensemble(members, Mixture(WEIGHTS), proposer=[constant(DRAFTER), constant(OWN)], verification="token")


@pytest.mark.larger
@pytest.mark.parametrize("name", PLANS)
def test_what_rounds_and_their_calls_cost_is_as_predicted(ensemble, name, monkeypatch):
    plan = PLANS[name]
    Clock.now = 0.0
    TIME.use(monkeypatch)
    planned = ensemble.with_plan(**{"gamma": None, "proposer": None, "first": None, **plan})
    length = LENGTH_OF_CASCADES if plan["schedule"] == "cascade" else LENGTH
    (result,) = planned.generate([[0]], SamplingParams(max_tokens=length, seed=5))
    stats = [*result.members.values(), *result.drafters.values()]
    setting = Setting(
        combination=planned.combination,
        members=planned.member_names,
        drafters=planned.drafter_names,
        params=SamplingParams(),
    )
    schedule = make_schedule(planned.plan, setting)
    # The same rounds, whatever they are said to take.
    for share_a_token, engine, engine_seconds in ((0.0, NO_TIME, 0.0), (0.2, TIME, Clock.now)):
        calls = [each.calls + share_a_token * each.tokens_fed for each in stats]
        seconds = engine_seconds + sum(count * cost for count, cost in zip(calls, COSTS, strict=True))
        # Of a shallow cascade's second stage theory counts the tokens roughly.
        tolerance = 0.1 if plan["schedule"] == "cascade" and share_a_token else 0.04
        assert length / seconds == pytest.approx(schedule.cycle(Known(share_a_token, engine)).speed, rel=tolerance)


class Counted:
    """A runner that counts its calls, and the tokens that they feed."""

    def __init__(self, inner):
        self._inner, self.num_calls, self.num_tokens = inner, 0, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def feed(self, batch):
        self.num_calls += 1
        self.num_tokens += sum(len(feed.tokens) for feed in batch)
        return self._inner.feed(batch)


class Batched(Known):
    """The same, of calls that several texts share."""

    def __init__(self, share_a_token, num_texts):
        super().__init__(share_a_token)
        self._num_texts = num_texts

    def seconds(self, lane, num_tokens, share=1.0):
        num_together = sequences_a_pass(self._num_texts, share)
        return super().seconds(lane, num_together * num_tokens) / num_together


@pytest.mark.parametrize("name", [name for name in PLANS if "cascade" not in name])
def test_texts_that_share_calls_are_as_fast_as_predicted(ensemble, name):
    num_texts, length = 6, 400
    planned = ensemble.with_plan(**{"gamma": None, "proposer": None, "first": None, **PLANS[name]})
    planned.runners = [Counted(runner) for runner in ensemble.runners]
    planned.generate([[0]] * num_texts, [SamplingParams(max_tokens=length, seed=i) for i in range(num_texts)])
    schedule = planned.schedule_for(SamplingParams())
    # The same calls, whatever they are said to take.
    for share_a_token in (0.0, 0.1):
        calls = [runner.num_calls + share_a_token * runner.num_tokens for runner in planned.runners]
        seconds = sum(count * cost for count, cost in zip(calls, COSTS, strict=True))
        predicted = schedule.cycle(Batched(share_a_token, num_texts))
        # Texts come in step in part, and wait for each other's drafts.
        assert num_texts * length / seconds == pytest.approx(predicted.speed, rel=0.12)


@pytest.mark.parametrize(("alpha", "gamma", "tokens"), [(0.0, 5, 1.0), (1.0, 5, 6.0), (0.5, 2, 1.75)])
def test_tokens_of_a_block(alpha, gamma, tokens):
    assert sum(standing([alpha] * gamma)) == pytest.approx(tokens)


def test_places_count():
    assert standing([0.5, 0.8]) == pytest.approx([1.0, 0.5, 0.4])
