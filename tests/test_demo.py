"""The bundled models, in float32: every schedule gives plain's text, and the method behaves as its paper says."""

import json
import math
from pathlib import Path

import pytest
import torch

from cospec import Ensemble, SamplingParams, demo
from cospec.core.draws import probabilities
from cospec.core.summed import SummedRuns
from cospec.core.verify import verify_token
from cospec.study.effort import Effort
from cospec.study.exactness import coupled_checks, greedy_checks

from .properties import is_fuzzing, longer

MODELS = ("amateur", "code", "drafter", "general", "math")


def fifty_prompts():
    thirty = demo.prompts()
    return [*thirty, *(prompt[: len(prompt) // 2] for prompt in thirty[:20])]


@pytest.mark.parametrize("name", MODELS)
def test_the_bundled_models_are_small_and_tell_what_they_are(name):
    folder = Path(demo.model_path(f"demo:{name}"))
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["vocab_size"], config["dtype"]) == (["LlamaForCausalLM"], 4096, "bfloat16")
    size = (folder / "model.safetensors").stat().st_size
    assert size / 2 < {"amateur": 1.5e6, "drafter": 1.0e6}.get(name, 6.1e6)
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("GSM8K" if name != "code" else "standard library", "steps", "perplexity"))


def test_the_bundled_models_fit_in_the_repository():
    root = Path(demo.__file__).parent / "models"
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 45e6


@pytest.mark.parametrize("name", ["demo:cd", "demo:guided", "demo:we", "demo:we3"])
def test_every_bundled_ensemble_decodes(name):
    results = Ensemble.load(name).generate(demo.prompts()[:2], SamplingParams(max_tokens=8, seed=0, ignore_eos=True))
    assert [len(result.token_ids) for result in results] == [8, 8]
    assert all(result.text for result in results)


@pytest.mark.larger
@pytest.mark.parametrize(("batch", "every"), [(1, 15), (3, 6), (8, 3)])
@pytest.mark.parametrize("checks", [coupled_checks, greedy_checks])
def test_every_schedules_text_is_plains_token_by_token(batch, every, checks):
    ensemble = Ensemble.load("demo:we", proposer="demo:drafter", schedule="fixed", gamma=4, max_sequences=batch)
    prompts, effort = demo.prompts()[::every], Effort(max_tokens=12)
    if is_fuzzing():
        prompts, effort = demo.prompts(), Effort(max_tokens=50)
    found = list(checks(ensemble, prompts, effort))
    assert [check.schedule for check in found] == [
        "fixed by drafter",
        "alternate",
        "cascade by drafter",
        "fixed by math",
    ]
    # A tie of float rounding may fall either way; anything wider is a fault.
    assert [difference for check in found for difference in check.differences if difference.gap > 1e-4] == []
    assert sum(len(check.differences) for check in found) <= 2


@pytest.mark.larger
@pytest.mark.parametrize("name", ["demo:cd", "demo:guided", "demo:we3"])
def test_other_combinations_give_plains_text_too(name):
    ensemble = Ensemble.load(name, schedule="alternate", gamma=2)
    for checks in (coupled_checks, greedy_checks):
        for check in checks(ensemble, demo.prompts()[:: longer(15, 6)], Effort(max_tokens=longer(16, 40))):
            assert check.is_passed, check


def test_alternate_runs_no_more_forward_passes_than_plain_over_fifty_prompts():
    ensemble = Ensemble.load("demo:we", schedule="alternate")
    params = SamplingParams(max_tokens=24, seed=0, ignore_eos=True)
    results = ensemble.generate(fifty_prompts(), params)
    # `plain` runs one forward pass a member and token.
    assert all(sum(member.calls for member in result.members.values()) <= 2 * 24 for result in results)
    assert sum(member.calls for result in results for member in result.members.values()) < 0.9 * 2 * 24 * 50


@pytest.mark.parametrize(("name", "gamma"), [("demo:we", 1), ("demo:we3", 1), ("demo:cd", 2)])
def test_measured_acceptance_is_one_minus_tv_of_the_rows(monkeypatch, name, gamma):
    looked_at: list[float] = []

    def spy(runs, accept, replace):
        verdicts = verify_token(runs, accept, replace)
        # Rows are verified by the sums of their logits, or where these cannot tell by their probabilities.
        if isinstance(runs, SummedRuns):
            target, draft = (
                torch.stack([torch.from_numpy(row.logits) for row in rows]).softmax(-1)
                for rows in (runs.targets, runs.drafts)
            )
        else:
            target, draft = probabilities(runs.log_target), torch.stack([row() for row in runs.draft])
        overlaps = torch.minimum(target, draft).sum(-1).tolist()
        for (start, _), verdict in zip(runs.spans, verdicts, strict=True):
            looked_at.extend(overlaps[start : start + verdict.accepted + (verdict.token is not None)])
        return verdicts

    monkeypatch.setattr("cospec.core.settle.verify_token", spy)
    ensemble = Ensemble.load(name, schedule="alternate", gamma=gamma, verification="token")
    results = ensemble.generate(demo.prompts()[::2], SamplingParams(max_tokens=40, seed=3, ignore_eos=True))
    tallies = [tally for result in results for tally in result.proposers.values()]
    proposed, accepted = sum(tally.proposed for tally in tallies), sum(tally.accepted for tally in tallies)
    assert proposed == len(looked_at)
    noise = math.sqrt(sum(overlap * (1 - overlap) for overlap in looked_at))
    assert abs(accepted - sum(looked_at)) < 4 * noise
    if name != "demo:cd":
        weight = 1 / len(ensemble.member_names)
        assert min(looked_at) >= weight - 1e-5
        for proposer in ensemble.member_names:
            own = [result.proposers[proposer] for result in results if proposer in result.proposers]
            assert sum(tally.accepted for tally in own) >= weight * sum(tally.proposed for tally in own)


def test_members_accept_their_own_drafters_more_often_than_one_for_all():
    def accepted(proposers):
        ensemble = Ensemble.load("demo:we3", proposer=proposers, schedule="mixture", gamma=3)
        params = SamplingParams(max_tokens=60, seed=0, ignore_eos=True)
        results = ensemble.generate(demo.prompts()[::2], params)
        stats = [each for result in results for each in result.proposers.values()]
        return sum(each.accepted for each in stats) / sum(each.proposed for each in stats)

    own = [f"demo:{member}-drafter" for member in ("math", "general", "code")]
    # Of some eight hundred drafts each: .79 and .63, and by chance .03 more or less.
    assert accepted(own) > accepted("demo:drafter") + 0.05
