"""`agenerate` and `astream`: what `generate` gives, for event loops, decoded together."""

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import aclosing

import pytest

from cospec import CospecError, EngineStopped, Ensemble, InvalidPrompt, InvalidSampling, SamplingParams

from .toys import Wrapped, slow, table

PARAMS = SamplingParams(max_tokens=12, seed=5, ignore_eos=True)
LONG = SamplingParams(max_tokens=5000, seed=5, ignore_eos=True)


def toys(before=None, **options):
    runners = [table(1), table(2)]
    if before is not None:
        runners[0] = Wrapped(runners[0], before)
    return Ensemble(runners, schedule="plain", **options)


class Counted:
    """Counts how many sequences each forward pass of a member was for."""

    def __init__(self, seconds=0.0):
        self.runner, self.sizes, self.threads = table(1), [], set()
        self.seconds, feed = seconds, self.runner.feed

        def counted(batch):
            time.sleep(self.seconds)
            self.sizes.append(len(batch))
            self.threads.add(threading.get_ident())
            return feed(batch)

        self.runner.feed = counted


def what(results):
    return [(each.prompt_index, each.index, each.text, each.token_ids, each.finish_reason) for each in results]


@pytest.mark.parametrize("schedule", ["auto", "plain", "mixture", "alternate", "fixed"])
def test_results_are_those_of_generate(schedule):
    drafter = {} if schedule == "alternate" else {"proposer": "demo:drafter"}
    ensemble = Ensemble.load("demo:we", schedule=schedule, **drafter)
    prompts, params = ["Question: 2 + 2?", "Once", [5, 6, 7]], SamplingParams(max_tokens=12, seed=3, n=2)

    async def both():
        return await asyncio.gather(ensemble.agenerate(prompts, params), ensemble.agenerate(prompts[1], params))

    first, second = asyncio.run(both())
    assert what(first) == what(ensemble.generate(prompts, params))
    assert what(second) == what(ensemble.generate(prompts[1], params))


def test_no_prompts_are_no_results():
    ensemble = toys()
    assert asyncio.run(ensemble.agenerate([])) == ensemble.generate([]) == []


def test_events_are_those_of_stream():
    ensemble = toys()

    async def streamed():
        return [event async for event in ensemble.astream([1, 2], PARAMS)]

    events, expected = asyncio.run(streamed()), [*ensemble.stream([1, 2], PARAMS)]
    assert [[token.token for token in event.tokens] for event in events] == [
        [token.token for token in event.tokens] for event in expected
    ]
    assert events[-1].result is not None


def test_calls_that_overlap_share_forward_passes_and_keep_to_max_sequences():
    counted = Counted(0.002)
    ensemble = Ensemble([counted.runner, table(2)], schedule="plain", max_sequences=6)
    other = ensemble.with_plan(schedule="alternate")

    async def many():
        calls = [each.agenerate([[1, 2], [2, 1]], PARAMS) for each in (ensemble, other) * 3]
        return await asyncio.gather(*calls)

    asyncio.run(many())
    assert max(counted.sizes) == 6
    assert len(counted.threads) == 1
    assert threading.get_ident() not in counted.threads


def test_event_loops_of_several_threads_share_the_engine():
    counted = Counted(0.005)
    ensemble = Ensemble([counted.runner, table(2)], schedule="plain")
    results = {}

    def run(name):
        results[name] = asyncio.run(ensemble.agenerate([1, name], PARAMS))

    threads = [threading.Thread(target=run, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(counted.sizes) > 1
    assert {name: what(own) for name, own in results.items()} == {
        name: what(ensemble.generate([1, name], PARAMS)) for name in range(3)
    }


def test_generate_in_other_threads_takes_turns_with_it():
    """Forward passes of one runner in two threads at once would read each other's cache."""
    is_within, overlaps = threading.Lock(), []

    def alone(self, batch):
        if not is_within.acquire(blocking=False):
            overlaps.append(batch)
            return feed(self, batch)
        try:
            return feed(self, batch)
        finally:
            is_within.release()

    ensemble = Ensemble.load("demo:we", schedule="plain")
    kind = type(ensemble.runners[0])
    feed = kind.feed
    prompts = ["Question: 2 + 2?", "Once", "Tom has"]
    expected = what(ensemble.generate(prompts, PARAMS))

    async def beside():
        generating = [asyncio.to_thread(ensemble.generate, prompts, PARAMS) for _ in range(2)]
        return await asyncio.gather(*generating, *(ensemble.agenerate(prompts, PARAMS) for _ in range(2)))

    kind.feed = alone
    try:
        assert [what(results) for results in asyncio.run(beside())] == [expected] * 4
    finally:
        kind.feed = feed
    assert not overlaps


def test_a_cancelled_task_aborts_its_sequences_before_the_next_round():
    counted = Counted(0.01)
    ensemble = Ensemble([counted.runner, table(2)], schedule="plain")

    async def cancelled():
        leaving = asyncio.ensure_future(ensemble.agenerate([[1, 2]] * 3, LONG))
        staying = asyncio.ensure_future(
            ensemble.agenerate([2, 2], SamplingParams(max_tokens=40, seed=1, ignore_eos=True))
        )
        while 4 not in counted.sizes:
            await asyncio.sleep(0.001)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        rounds = len(counted.sizes)
        (result,) = await staying
        return rounds, result

    rounds, result = asyncio.run(cancelled())
    # One round may be under way.
    assert set(counted.sizes[rounds + 1 :]) == {1}
    assert result.completion_tokens == 40
    assert ensemble._engine.num_live == 0


def test_closing_the_generator_aborts_what_is_live():
    ensemble = toys(lambda: time.sleep(0.002))

    async def closed():
        async with aclosing(ensemble.astream([1, 2], LONG)) as events:
            async for _ in events:
                break
        while ensemble._engine.num_live:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(closed(), 5))


@pytest.mark.parametrize(
    ("prompts", "params", "error"),
    [
        ([], SamplingParams(), None),
        ([99], None, InvalidPrompt),
        ([[1], []], None, InvalidPrompt),
        ("a text", None, InvalidPrompt),
        ([[1], [2]], [SamplingParams()], InvalidPrompt),
        ([1], SamplingParams(logit_bias={77: 1.0}), InvalidSampling),
        (None, None, InvalidPrompt),
        (b"bytes", None, InvalidPrompt),
        (["a", 5], None, InvalidPrompt),
        ([1], {"max_tokens": 3}, InvalidSampling),
    ],
)
def test_errors_are_those_of_generate(prompts, params, error):
    ensemble = toys()
    if error is None:
        assert asyncio.run(ensemble.agenerate(prompts, params)) == []
        return
    with pytest.raises(error) as expected:
        ensemble.generate(prompts, params)
    with pytest.raises(error) as raised:
        asyncio.run(ensemble.agenerate(prompts, params))
    assert str(raised.value) == str(expected.value)


def test_a_sequence_that_fails_ends_with_its_error_and_the_others_go_on():
    class Failing:
        def __init__(self):
            self.runner = table(1)
            feed = self.runner.feed

            def failing(batch):
                if any(3 in each.tokens and each.slot.length == 0 for each in batch):
                    raise RuntimeError("no threes")
                return feed(batch)

            self.runner.feed = failing

    ensemble = Ensemble([Failing().runner, table(2)], schedule="plain")
    failed, well = asyncio.run(ensemble.agenerate([[3], [1]], PARAMS))
    assert (failed.finish_reason, well.finish_reason) == ("error", "length")
    assert "no threes" in failed.error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_once_the_engine_has_died_all_that_wait_are_told_so():
    def die():
        raise SystemExit("the thread ends")

    ensemble = toys(die)

    async def both():
        return await asyncio.gather(*(ensemble.agenerate([1], PARAMS) for _ in range(2)), return_exceptions=True)

    for error in asyncio.run(both()):
        assert isinstance(error, EngineStopped)
        assert isinstance(error, CospecError)
        assert "SystemExit" in str(error)
    with pytest.raises(EngineStopped):
        asyncio.run(ensemble.agenerate([1], PARAMS))


def test_the_thread_ends_when_it_is_idle_and_starts_again(monkeypatch):
    monkeypatch.setattr("cospec.ensemble.IDLE_SECONDS", 0.05)
    ensemble = toys()

    def engine_threads():
        return [thread for thread in threading.enumerate() if thread is ensemble._thread._thread]

    for _ in range(2):
        asyncio.run(ensemble.agenerate([1], PARAMS))
        until = time.monotonic() + 5
        while engine_threads() and time.monotonic() < until:
            time.sleep(0.01)
        assert not engine_threads()


def test_a_round_of_another_thread_does_not_hold_up_the_event_loop():
    """While its turn lasts, sequences that wait for it are submitted and cancelled at once."""
    ensemble, is_held, may_end, ended_early = toys(), threading.Event(), threading.Event(), []

    def hold():
        with ensemble._thread.turn:
            is_held.set()
            ended_early.append(may_end.wait(5))

    async def beside():
        first = asyncio.ensure_future(ensemble.agenerate([1], PARAMS))
        await asyncio.sleep(0.1)  # the engine's thread waits for its turn
        others = [asyncio.ensure_future(ensemble.agenerate([1, 2], PARAMS)) for _ in range(3)]
        await asyncio.sleep(0.1)
        others.pop().cancel()
        await asyncio.sleep(0.1)
        may_end.set()
        return await asyncio.gather(first, *others)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(5)
    results = asyncio.run(beside())
    holder.join()
    assert ended_early == [True]
    expected = [what(ensemble.generate(prompt, PARAMS)) for prompt in ([1], [1, 2], [1, 2])]
    assert [what(each) for each in results] == expected
    assert ensemble._engine.num_live == 0


def test_a_thread_that_starts_as_another_ends_stays_registered_for_the_exit(monkeypatch):
    """An interpreter that ends around a forward pass would crash."""
    monkeypatch.setattr("cospec.ensemble.IDLE_SECONDS", 0.01)
    ensemble, registered, seen = toys(), [], []
    monkeypatch.setattr("atexit.register", registered.append)

    def unregister(function):
        # Whoever could start a thread by now must wait.
        seen.append(is_free(ensemble._thread._changed))
        registered.remove(function)

    monkeypatch.setattr("atexit.unregister", unregister)
    asyncio.run(ensemble.agenerate([1], PARAMS))
    until = time.monotonic() + 5
    while not seen and time.monotonic() < until:
        time.sleep(0.01)
    assert seen == [False]
    assert not registered


def is_free(lock):
    """Whether another thread can take it."""
    got = []

    def take():
        if lock.acquire(blocking=False):
            lock.release()
            got.append(True)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return bool(got)


EXITS = """
import asyncio, sys
from cospec import Ensemble, SamplingParams, toy
ensemble = Ensemble([toy.TableRunner(4, order=2, seed=seed, end_ids=(3,)) for seed in (1, 2)])
long = SamplingParams(max_tokens=50_000, ignore_eos=True)

async def left():
    asyncio.ensure_future(ensemble.agenerate([1], long))
    await asyncio.sleep(0.3)
    print("left", flush=True)

async def open_generator():
    async for event in ensemble.astream([1], long):
        print("left", flush=True)
        sys.exit(0)

if sys.argv[1] == "loop":  # neither cancelled nor closed
    loop = asyncio.new_event_loop()
    loop.run_until_complete(left())
    sys.exit(0)
asyncio.run({"left": left, "generator": open_generator}[sys.argv[1]]())
"""


@pytest.mark.parametrize("way", ["left", "generator", "loop"])
def test_the_interpreter_ends_cleanly_and_at_once(way):
    started = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", EXITS, way], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "left" in ran.stdout
    assert "Traceback" not in ran.stderr
    assert "Fatal" not in ran.stderr
    assert time.monotonic() - started < 40


def test_a_slow_member_does_not_hold_up_the_event_loop():
    ensemble = Ensemble([slow(table(1), 0.05), table(2)], schedule="plain")

    async def beside():
        ticks, task = 0, asyncio.ensure_future(ensemble.agenerate([1], PARAMS))
        while not task.done():
            await asyncio.sleep(0.002)
            ticks += 1
        return ticks

    assert asyncio.run(beside()) > 3 * PARAMS.max_tokens
