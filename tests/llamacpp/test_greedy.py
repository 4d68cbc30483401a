"""Greedy text is that of llama.cpp's own loop, whatever the schedule and the batch, up to ties of its rounding."""

from functools import cache

import llama_cpp
import pytest

from cospec import Ensemble, Result, SamplingParams, demo
from cospec.runner.llamacpp import LlamaCppRunner
from cospec.schedule import Plan
from cospec.study import exactness

pytestmark = pytest.mark.skipif(not demo.has_smollm2(), reason=demo.HOW_TO_GET_SMOLLM2)

NUM_PROMPTS, NUM_TOKENS = 20, 64
GREEDY = SamplingParams(max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True, logprobs=2)


@cache
def ensemble() -> Ensemble:
    return Ensemble(["demo:smollm2"], device="cpu", proposer="lookup", keep_measurements=False)


@cache
def prompts() -> list[list[int]]:
    """Questions as its chat template writes them, and sums and code as they are, in ids."""
    chats = [ensemble().rendered(chat)[0] for chat in demo.chats()[: NUM_PROMPTS // 2]]
    texts = [ensemble().rendered(text)[0] for text in demo.prompts()[: NUM_PROMPTS - len(chats)]]
    return [list(ids) for ids in (*chats, *texts)]


@cache
def completions() -> list[list[int]]:
    """llama-cpp-python's own: by its sampler, in a context of its own."""
    llama = llama_cpp.Llama(
        str(demo.smollm2_file()), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False, n_gpu_layers=0
    )
    texts = []
    for prompt in prompts():
        tokens = llama.generate(prompt, temp=0.0, repeat_penalty=1.0)
        texts.append([next(tokens) for _ in range(NUM_TOKENS)])
    llama.close()
    return texts


@pytest.mark.parametrize("batch", [1, 8])
def test_greedy_text_is_llama_cpps_own_by_every_schedule(batch):
    """The gap between the two most probable tokens at the first difference is what tells a tie from a fault."""
    # Members can be drawn where r is sampled alone.
    tested = {name: plan for name, plan in exactness.tested_plans(ensemble()).items() if plan.name != "mixture"}
    for name, plan in {"plain": Plan(schedule="plain"), **tested}.items():
        decoding, given, equal = ensemble().with_plan(plan), prompts(), 0
        for start in range(0, NUM_PROMPTS, batch):
            for number, result in enumerate(decoding.generate(given[start : start + batch], GREEDY), start):
                assert result.error is None
                gap = first_gap(result, completions()[number])
                equal += gap is None
                if gap is not None:
                    print(f"{name}, {batch} at a time, prompt {number}: gap {gap:.3g} at the first difference")
                    assert gap <= LlamaCppRunner.tie_gap
        print(f"{name}, {batch} at a time: {equal} of {NUM_PROMPTS} equal")
        if name == "plain" and batch == 1:
            # Passes of the shapes of llama.cpp's own.
            assert equal == NUM_PROMPTS


def first_gap(result: Result, own: list[int]) -> float | None:
    """How much more probable, in logarithms, the most probable token is than the next where the texts first differ."""
    for entry, ours, theirs in zip(result.logprobs, result.token_ids, own, strict=True):
        if ours != theirs:
            (_, first), (_, second) = entry.top[:2]
            return first - second
    return None
