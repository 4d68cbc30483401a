"""Forward passes of a round, one after the other and side by side: the texts are the same, and the seconds add up."""

import threading
import time
import weakref

import pytest
import torch

from cospec import Ensemble, MemberFailed, Mixture, SamplingParams
from cospec.core.passes import Fed, Passes, PassItem
from cospec.runner import Feed

from .test_engine import SCHEDULES
from .toys import Wrapped, slow, table


class Failing(Wrapped):
    """Raises over a prompt that has a 2."""

    def feed(self, batch):
        if any(feed.slot.length == 0 and 2 in feed.tokens for feed in batch):
            raise MemoryError("no room")
        return super().feed(batch)


def decoded(ensemble, calls_at_once, prompts, params):
    """Each text's tokens and error, all decoded at once."""
    engine = ensemble.engine(calls_at_once)
    ids = [engine.add(ensemble.request(prompt, own)) for prompt, own in zip(prompts, params, strict=True)]
    done = {}
    while engine.num_live:
        done |= {event.id: event.sheet for event in engine.step() if event.result is not None}
    return [(list(done[id].output), done[id].error) for id in ids]


def asked(runners, num_texts):
    return [
        (runner, [PassItem("member", Feed(runner.open(), [1], 1), 0) for _ in range(num_texts)]) for runner in runners
    ]


@pytest.mark.parametrize(("schedule", "gamma", "verification"), SCHEDULES)
def test_texts_do_not_depend_on_how_members_are_called(schedule, gamma, verification):
    ensemble = Ensemble(
        [table(1), table(2), table(3)],
        Mixture([0.4, 0.3, 0.3]),
        schedule=schedule,
        gamma=gamma if not isinstance(gamma, tuple) else (*gamma, 1),
        verification=verification,
    )
    prompts = [[i % 3] * (1 + i) for i in range(6)]
    params = [SamplingParams(max_tokens=5 + 7 * i, seed=i, ignore_eos=True) for i in range(6)]
    assert decoded(ensemble, 2, prompts, params) == decoded(ensemble, 1, prompts, params)


def test_bundled_models_write_the_same_side_by_side():
    ensemble = Ensemble.load("demo:we", schedule="mixture")
    prompts = ["Question: How many", "def read(", "The", "Question: Tom has 3 boxes.\nAnswer:"]
    params = [SamplingParams(max_tokens=12, seed=i, ignore_eos=True) for i in range(4)]
    assert decoded(ensemble, 2, prompts, params) == decoded(ensemble, 1, prompts, params)


def test_calls_of_several_texts_are_side_by_side_in_threads_of_their_own():
    barrier, threads = threading.Barrier(2), []

    def meet():
        threads.append(threading.current_thread())
        barrier.wait(timeout=10)

    outcomes = Passes(2).run(asked([Wrapped(table(seed), meet) for seed in (1, 2)], 2))
    assert all(isinstance(outcome, Fed) for own in outcomes for outcome in own)
    assert threads[0] is not threads[1]


def test_a_text_alone_is_fed_in_the_thread_that_asks():
    threads = []
    runners = [Wrapped(table(seed), lambda: threads.append(threading.current_thread())) for seed in (1, 2)]
    assert [len(own) for own in Passes(2).run(asked(runners, 1))] == [1, 1]
    assert threads == [threading.current_thread()] * 2


def test_rows_are_those_of_the_runner_that_was_asked():
    outcomes = Passes(2).run(asked([slow(table(1), 0.05), table(2)], 2))
    for own, (runner, items) in zip(outcomes, asked([table(1), table(2)], 2), strict=True):
        rows = runner.feed([item.feed for item in items])
        assert all((fed.rows == row).all() for fed, row in zip(own, rows, strict=True))


def test_calls_side_by_side_share_the_time_that_they_took_together():
    runners = [slow(table(1), 0.06), slow(table(2), 0.03), slow(table(3), 0.03)]
    started = time.perf_counter()
    outcomes = Passes(3).run(asked(runners, 2))
    took = time.perf_counter() - started
    seconds = [own[0].forward.seconds for own in outcomes]
    assert 0.06 <= sum(seconds) <= took
    assert took < 0.12
    assert seconds[0] > 1.5 * seconds[1]


@pytest.mark.parametrize("num_at_once", [1, 2])
def test_an_error_holds_nothing_of_its_call(num_at_once):
    left = []

    def fill():
        scratch = torch.zeros(4)
        left.append(weakref.ref(scratch))
        raise MemoryError("no room")

    outcomes = Passes(num_at_once).run(asked([Wrapped(table(1), fill), table(2)], 2))
    assert [[type(outcome) for outcome in own] for own in outcomes] == [[MemberFailed] * 2, [Fed] * 2]
    # Of the call for both, and of one for each.
    assert [ref() for ref in left] == [None] * 3


def test_a_call_that_raises_ends_the_text_that_it_raised_over():
    ensemble = Ensemble([table(1), Failing(table(2), lambda: None)], Mixture([0.5, 0.5]))
    params = [SamplingParams(max_tokens=4, seed=i, ignore_eos=True) for i in range(3)]
    good, bad, also_good = decoded(ensemble, 2, [[0], [2], [1]], params)
    assert "member-2 raised MemoryError: no room" in str(bad[1])
    assert [good, also_good] == decoded(ensemble, 1, [[0], [1]], [params[0], params[2]])
