"""A prompt that several sequences have is read once, and copied: the texts are those of sequences that read it each."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cospec import Ensemble, SamplingParams, toy
from cospec.core.feeding import SHORTEST_SHARED
from cospec.errors import InvalidSchedule
from cospec.runner import Feed
from cospec.runner.hf import load
from cospec.runner.options import LoadOptions
from cospec.schedule import schedule_names

from .adapters import adapted
from .models import saved
from .properties import examples

LONG = [*range(8)] * 3
PROMPTS = [LONG, LONG[:SHORTEST_SHARED], LONG[:-1], LONG[1:], [1, 2]]
PARAMS = SamplingParams(max_tokens=6, n=5, seed=3)


class Copying(toy.FunctionRunner):
    """Rows depend on every token, and slots can be copied. num_fed: tokens that it was fed. fails: whether copying
    raises."""

    copies = True
    num_fed = 0
    fails = False

    def __init__(self, seed=0):
        def logits(prefix):
            past = sum((i + 1) * token for i, token in enumerate(prefix)) % 101
            return [2 * math.sin(7 * seed + (token + 1) * past) for token in range(8)]

        super().__init__(8, logits)

    def copy(self, source, slot, length):
        if self.fails:
            raise MemoryError("no room")
        slot.tokens[:] = source.tokens[:length]

    def feed(self, batch):
        self.num_fed += sum(len(feed.tokens) for feed in batch)
        return super().feed(batch)


def made(schedule="plain", *, kind=Copying, max_sequences=32):
    members = [kind(seed=1), kind(seed=2)]
    proposer = None if schedule == "alternate" else kind(seed=3)
    return Ensemble(members, proposer=proposer, schedule=schedule, verification="coupled", max_sequences=max_sequences)


def texts(ensemble, prompts, params=PARAMS):
    return [result.token_ids for result in ensemble.generate(prompts, params)]


@pytest.mark.parametrize("schedule", schedule_names())
def test_samples_of_a_prompt_are_those_of_sequences_that_read_it_alone(schedule):
    try:
        assert texts(made(schedule), [LONG]) == texts(made(schedule, max_sequences=1), [LONG])
    except InvalidSchedule as error:
        pytest.skip(str(error))


def test_a_prompt_is_read_once_by_each_member():
    once, each = made(), made(kind=type("Apart", (Copying,), {"copies": False}))
    assert texts(once, [LONG]) == texts(each, [LONG])
    for ours, theirs in zip(once.runners[:2], each.runners[:2], strict=True):
        assert theirs.num_fed - ours.num_fed == (PARAMS.n - 1) * (len(LONG) - 1)


@settings(max_examples=examples(40))
@given(
    prompts=st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=5),
    num=st.integers(1, 4),
    limits=st.lists(st.integers(0, 7), min_size=5, max_size=5),
    max_sequences=st.integers(1, 6),
    schedule=st.sampled_from(["plain", "alternate", "fixed", "cascade", "auto"]),
    fails=st.booleans(),
)
def test_whoever_joins_and_leaves(prompts, num, limits, max_sequences, schedule, fails):
    params = [SamplingParams(max_tokens=limit, n=num, seed=5) for limit in limits[: len(prompts)]]
    shared = made(schedule, max_sequences=max_sequences)
    for runner in shared.runners:
        runner.fails = fails
    assert texts(shared, prompts, params) == texts(made(schedule, max_sequences=1), prompts, params)


def test_a_reader_that_is_stopped_leaves_its_prompt_to_the_next():
    ensemble = made()
    engine = ensemble.engine()
    first, second = (
        engine.add(ensemble.request(LONG, SamplingParams(max_tokens=4, seed=1), index)) for index in (0, 1)
    )
    engine.step()
    engine.abort(first)
    events = [event for _ in range(6) for event in engine.step()]
    (result,) = [event.result for event in events if event.result]
    alone = ensemble.generate([LONG], SamplingParams(max_tokens=4, seed=1, n=2))[1]
    assert second
    assert result.token_ids == alone.token_ids


def test_a_member_that_cannot_read_the_prompt_fails_each_sequence_by_name():
    class Broken(Copying):
        def feed(self, batch):
            if any(len(feed.tokens) > 10 for feed in batch):
                raise RuntimeError("out of order")
            return super().feed(batch)

    ensemble = Ensemble([Copying(), Broken()], schedule="plain")
    results = ensemble.generate([LONG, [1, 2]], SamplingParams(max_tokens=3, n=3, seed=0))
    assert ["out of order" in (result.error or "") for result in results] == [True] * 3 + [False] * 3


def test_log_probabilities_of_a_prompt_are_of_the_sequence_itself():
    params = SamplingParams(max_tokens=2, n=2, seed=0, prompt_logprobs=1)
    one, other = made().generate([LONG], params)
    assert len(one.prompt_logprobs) == len(LONG)
    assert one.prompt_logprobs == other.prompt_logprobs


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "lfm2"])
def test_models_of_transformers_give_the_rows_of_what_was_copied(tmp_path, kind):
    runner = load(str(saved(tmp_path, kind, num_entries=64)), LoadOptions(dtype="float32", device="cpu"))
    assert runner.copies == (kind != "lfm2")
    texts = [[(3 * i + shift) % 60 for i in range(40)] for shift in (1, 2)]
    source, neighbour, whole = runner.open(), runner.open(), runner.open()
    runner.feed([Feed(source, texts[0], 0), Feed(neighbour, texts[1], 0)])
    runner.trim(source, 35)
    if not runner.copies:
        return
    # The slot of another sequence, whose tokens lie behind what is copied.
    used = runner.open()
    runner.feed([Feed(used, texts[1], 0)])
    runner.close(used)
    copied = runner.open()
    runner.copy(source, copied, 30)
    rest = [texts[0][30:], [7, 8, 9]]
    rows = runner.feed([Feed(copied, [*rest[0], *rest[1]], 13), Feed(source, [5], 1), Feed(neighbour, [5], 1)])
    (expected,) = runner.feed([Feed(whole, [*texts[0], *rest[1]], 13)])
    torch.testing.assert_close(rows[0], expected, atol=1e-5, rtol=1e-5)
    (again,) = runner.feed([Feed(copied, [4], 1)])
    (there,) = runner.feed([Feed(whole, [4], 1)])
    torch.testing.assert_close(again, there, atol=1e-5, rtol=1e-5)


def test_a_prompt_is_copied_among_the_sequences_of_one_adapter(tmp_path):
    base = saved(tmp_path / "base", "llama", num_entries=64)
    tuned = tmp_path / "tuned"
    adapted(tuned, base)
    params = SamplingParams(max_tokens=8, n=4, seed=2, ignore_eos=True)
    prompt = [(5 * i) % 60 for i in range(30)]
    given = {"schedule": "plain", "verification": "coupled", "dtype": "float32", "device": "cpu"}
    results = Ensemble([str(base), str(tuned)], **given).generate([prompt], params)
    alone = Ensemble([str(base), str(tuned)], **given, max_sequences=1).generate([prompt], params)
    assert [result.token_ids for result in results] == [result.token_ids for result in alone]
    fed = [result.members["base"].tokens_fed for result in results]
    assert fed[0] - fed[1] == len(prompt) - 1
