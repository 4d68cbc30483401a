"""A whole study on tiny models: what it gathers, how it goes on, and what turns its verdict."""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest
import torch
from typer.testing import CliRunner

from cospec import Ensemble, Mixture, SamplingParams
from cospec.cli import app
from cospec.cli.pilot_run import EXIT
from cospec.core.target import log_combined
from cospec.core.verify import Verdict
from cospec.errors import CospecError, InvalidPilot
from cospec.members import Member
from cospec.runner.hf import LoadOptions
from cospec.runner.hf.weights import storages
from cospec.study.batches import batches
from cospec.study.criteria import Criteria, Softening
from cospec.study.exactness import Check, Difference, num_checks
from cospec.study.exactness import tested_plans as plans_tested
from cospec.study.intervals import FEWEST_UNITS
from cospec.study.ledger import Ledger
from cospec.study.methods import PlannedMethod
from cospec.study.perplexity import ReferenceText, text_logprobs
from cospec.study.pilot_results import results
from cospec.study.questions import TEXTS, Question, balanced, read_questions
from cospec.study.results import ALL, OURS, PLAIN, Results
from cospec.study.verdict import gain

from ..browsing import in_chromium
from ..toys import Wrapped, slow
from .studies import PRICES, PROMPTS, finished, study


def never():
    return False


@pytest.fixture(scope="module")
def found(pair):
    """One study that everything may be asked of."""
    criteria = Criteria(min_speedup=0.01, relaxed=Softening(lambdas=(0.3,), margin=0.5), max_memory_gib=1.0)
    return finished(pair, criteria=criteria)


def test_everything_that_a_report_shows_is_there(found):
    assert found.settings.methods == ("single:a", "single:b", "plain", "alternate", "auto")
    assert {row.method for row in found.speed.rows} == {*found.settings.methods}
    assert {row.category for row in found.speed.rows} == {ALL, "a", "b"}
    plain = found.speed.row(PLAIN, 1)
    assert plain.num_texts == 5
    assert plain.over_plain is None
    assert plain.ms_per_token.p50 <= plain.ms_per_token.p95 <= plain.ms_per_token.p99
    assert plain.first_token_ms.p50 > 0
    ours = found.speed.row(OURS, 1)
    assert ours.over_plain.low <= ours.over_plain.mean <= ours.over_plain.high
    assert ours.over_plain.num == 5
    assert found.cost.row(OURS, 1).money == pytest.approx(1000 / ours.tokens_per_second)
    assert found.cost.saving_per_month == pytest.approx(1000 / plain.tokens_per_second - 1000 / ours.tokens_per_second)
    assert found.cost.energy_source is None
    assert found.cost.row(OURS, 1).kwh is None


def test_the_mechanism_is_that_of_the_runs(found):
    plain = found.mechanism.row(PLAIN, 1)
    assert {lane.name: lane.calls_per_100_tokens for lane in plain.lanes} == {"a": 100, "b": 100}
    assert plain.block_efficiency == 1
    assert sum(lane.share for lane in plain.lanes) == pytest.approx(1)
    alternate = found.mechanism.row("alternate", 1)
    assert alternate.theory_over_plain > 0
    assert alternate.block_efficiency >= 1
    for proposer in alternate.proposers:
        assert proposer.acceptance == proposer.accepted / proposer.proposed
        assert sum(proposer.proposed_at) == proposer.proposed
    assert found.mechanism.row(OURS, 1).plans


def test_quality_is_compared_with_plain_and_with_the_best_member(found):
    assert found.kept.is_exact
    assert {check.name for check in found.kept.checks} == {"coupled text", "greedy text", "sampled text"}
    assert found.kept.greedy.num_texts == found.kept.greedy.num_equal + found.kept.greedy.num_ties
    assert found.kept.score.difference.num == 5
    assert found.kept.score.is_equivalent is False
    assert found.gained.best_by_perplexity in ("a", "b")
    rows = {row.method: row.perplexity for row in found.gained.perplexities if row.category == ALL}
    best = min(rows["single:a"], rows["single:b"])
    assert found.gained.perplexity_gain.mean == pytest.approx(best / rows["ensemble"])


def test_memory_is_that_of_weights_and_caches(found, pair):
    assert [row.name for row in found.cost.memory] == ["a", "b", "c"]
    held = storages(pair.runners[0])
    stored = sum(tensor.untyped_storage().nbytes() for tensor in pair.runners[0].model.parameters())
    # What the forward pass has joined out of them is held beside them.
    assert found.cost.memory[0].weights == sum(held.values()) >= stored
    assert found.cost.memory_total == sum(row.weights + row.cache for row in found.cost.memory)


def test_a_softened_target_is_named_and_weighed(found):
    relaxed = found.relaxed
    assert (relaxed.target, relaxed.drafter, relaxed.measure) == ("a", "c", "score")
    assert [row.lam for row in relaxed.rows] == [0, 0.3]
    assert relaxed.rows[0].over_exact is None
    assert relaxed.rows[1].over_exact.mean > 0
    assert relaxed.distribution in ("a", "0.3 c + 0.7 a")


def test_results_survive_a_file(found):
    assert Results.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_batches_are_of_one_category_and_full():
    many = [Question(prompt=str(i), where="", id=str(i), category="a" if i < 12 else "b") for i in range(16)]
    timed = [*range(4), *range(12, 16)]
    assert [batch.prompts for batch in batches(many, timed, 1)] == [(i,) for i in timed]
    found = batches(many, timed, 4)
    assert all(len(batch.prompts) == 4 for batch in found)
    assert all(many[i].category == batch.category for batch in found for i in batch.prompts)
    # Prompts that are not timed alone are taken too, and none of them twice.
    assert sorted(i for batch in found for i in batch.prompts) == list(range(16))
    # Where a category has too few, one batch is filled up with the same ones again.
    (only,) = (batch for batch in batches(many, timed, 6) if batch.category == "b")
    assert {*only.prompts} == {12, 13, 14, 15}
    assert len(only.prompts) == 6


def test_the_bundled_prompts_suffice_for_an_interval_with_eight_at_once():
    questions = read_questions(None)
    found = batches(questions, balanced(questions, 24), 8)
    used = [i for batch in found for i in batch.prompts]
    assert len(used) == len(set(used)) == 8 * len(found)
    assert len(found) >= FEWEST_UNITS
    assert {batch.category for batch in found} == {"sums", "code", "text"}


def test_an_interrupted_study_goes_on_and_measures_nothing_twice(pair, tmp_path):
    path = tmp_path / "measurements.json"
    # Each of five methods is warmed up before the first is timed.
    first, stops = study(pair, path), iter([False] * (5 + 3) + [True])
    assert not first.run(lambda step: first.ledger.save(path), lambda: next(stops))
    kept = Ledger.load(path, first.ledger.settings).measurements
    assert kept
    again = study(pair, path)
    assert again.run(lambda step: again.ledger.save(path), never)
    assert again.ledger.measurements[: len(kept)] == kept
    keys = [(m.method, m.concurrency, m.batch, m.repeat) for m in again.ledger.measurements]
    # Five methods on five prompts alone, and on a pair of each category.
    assert len(keys) == len(set(keys)) == 5 * (5 + 2)
    assert study(pair, path).steps() == []


def test_measurements_of_another_study_are_not_mixed_in(pair, tmp_path):
    path = tmp_path / "measurements.json"
    study(pair).ledger.save(path)
    with pytest.raises(InvalidPilot, match=r"other settings: tokens \d+ was kept, 7 is asked"):
        study(pair, path, tokens=7)
    # Concurrencies and criteria change no run.
    study(pair, path, concurrencies=(4,), criteria=Criteria(min_speedup=2.0))
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidPilot, match="no measurements"):
        study(pair, path)


def renamed(folder, model="b", **changes):
    """Members called a and b, whatever they are."""
    return [Member(model=folder / "a", name="a"), Member(model=folder / model, name="b", **changes)]


def test_measurements_of_other_models_are_not_mixed_in(folder, tmp_path):
    path = tmp_path / "measurements.json"
    study(Ensemble(renamed(folder), Mixture([0.5, 0.5]))).ledger.save(path)
    study(Ensemble(renamed(folder), Mixture([0.5, 0.5])), path)
    for members, weights, name in (
        (
            renamed(folder, "c"),
            [0.5, 0.5],
            r"sources\.b\.model .*/b was kept, .*/c is asked; .*b\.files has changed",
        ),
        (renamed(folder, prompt="say: {prompt}"), [0.5, 0.5], r"sources\.b\.prompt None was kept, 'say: {prompt}' is"),
        (
            renamed(folder, options=LoadOptions(dtype="float64")),
            [0.5, 0.5],
            r"dtype 'auto' was kept, 'float64' is",
        ),
        (renamed(folder), [0.5001, 0.4999], r"combination.weights \(0.5, 0.5\) was kept, \(0.5001, 0.4999\) is asked"),
    ):
        with pytest.raises(InvalidPilot, match=f"other settings: .*{name}"):
            study(Ensemble(members, Mixture(weights)), path)


def test_scoring_anew_throws_no_timing_away(pair, tmp_path):
    path = tmp_path / "measurements.json"
    made = study(pair, path, score_tokens=2)
    assert made.run(lambda step: made.ledger.save(path), never)
    mended = [replace(question, reference=" another") for question in PROMPTS]
    again = study(pair, path, score_tokens=2, questions=mended)
    assert again.ledger.measurements == made.ledger.measurements
    assert again.ledger.checks == made.ledger.checks
    assert {step.phase for step in again.steps()} == {"scores", "perplexity"}


def test_memory_of_an_earlier_run_is_not_forgotten(folder, pair, tmp_path):
    path = tmp_path / "measurements.json"
    first, stops = study(pair, path), iter([False] * 3 + [True])
    first.run(lambda step: first.ledger.save(path), lambda: next(stops))
    held = results(first).cost
    first.ledger.peak_memory = 2**60
    first.ledger.save(path)
    # Loaded anew, its caches are empty.
    anew = Ensemble([folder / "a", folder / "b"], proposer=folder / "c", max_sequences=32)
    again = results(study(anew, path)).cost
    assert again.memory == held.memory
    assert all(row.cache > 0 for row in again.memory)
    assert again.peak_memory == 2**60


def test_energy_that_is_paid_for_and_was_not_measured_makes_no_cost(pair):
    made, stops = study(pair, concurrencies=(1,)), iter([False] * 6 + [True])
    made.run(lambda step: None, lambda: next(stops))

    def priced(**changes):
        settings = replace(
            made.settings, prices=replace(PRICES, **changes), criteria=Criteria(max_cost_per_million=1e9)
        )
        return results(replace(made, settings=settings))

    known = priced()
    assert known.cost.row(OURS, 1).total == known.cost.row(OURS, 1).money
    assert known.verdict.rules[-1].status == "met"
    unknown = priced(electricity_per_kwh=0.3)
    assert unknown.cost.row(OURS, 1).money > 0
    assert unknown.cost.row(OURS, 1).total is None
    rule = unknown.verdict.rules[-1]
    assert (rule.name, rule.status, rule.reason) == ("max_cost_per_million", "not measured", "machine does not tell")
    assert (unknown.cost.saving_per_month, unknown.cost.saving_reason) == (None, "machine does not tell")
    assert priced(tokens_per_month=None).cost.saving_reason == "no volume"
    assert priced(machines=()).cost.saving_reason == "no prices"


def test_a_gap_without_end_is_no_number(pair):
    made = study(pair)
    difference = Difference(prompt_index=0, position=1, gap=float("inf"), is_tie=False)
    line = Check("greedy text", "auto", "token", False, "", differences=(difference,))
    made._check(0, iter([line]), [0])
    assert made.ledger.checks["0"].differences[0].gap is None


def biased():
    """Every draft is accepted, whatever the target says of it."""

    def all_stand(blocks):
        return [Verdict(len(block.drafts), None) for block in blocks]

    return mock.patch("cospec.core.settle.verdicts_of", all_stand)


def test_a_biased_verifier_is_a_no_go(pair):
    criteria = Criteria(min_speedup=None, score_margin=None, min_perplexity_gain=None)
    assert finished(pair, criteria=criteria, concurrencies=(1,)).verdict.decision == "go"
    with biased():
        found = finished(pair, criteria=criteria, concurrencies=(1,))
    assert found.verdict.decision == "no-go"
    assert found.verdict.blocking == ("exactness",)
    assert found.kept.is_exact is False
    assert found.kept.greedy.num_faults > 0


def test_a_member_in_the_targets_place_is_a_no_go(pair):
    """The token behind an accepted block comes from one member alone, as elsewhere."""

    def faulty(spans, combination):
        log_rs = log_combined(spans, combination)
        for span, log_r in zip(spans, log_rs, strict=True):
            if span.sheet.drafts and span.stop == span.sheet.frontier + 1:
                log_r[-1:] = torch.log_softmax(span.sheet.lanes[0].between(span.stop - 1, span.stop), -1)
        return log_rs

    with mock.patch("cospec.core.target.log_combined", faulty):
        found = finished(pair, criteria=Criteria(min_speedup=None), concurrencies=(1,))
    assert "exactness" in found.verdict.blocking


@pytest.mark.long
def test_a_slow_drafter_is_a_no_go(folder, pair):
    criteria = Criteria(score_margin=None, min_perplexity_gain=None, exactness=False)
    # What widens an interval far: a stall, beside which members that take their time are much, and which counts for
    # nothing in one of three repeats; and so few prompts that a resample often has those alone that lie close together.
    # Of five the interval reaches over 1 in one study of thirty, by simulation, of twelve in none of 600.
    questions = [
        replace(PROMPTS[0], prompt=f"{PROMPTS[0].prompt} {n}", id=str(n), where=f"test:{n}") for n in range(12)
    ]
    a, b = (Member(model=slow(runner, 0.002), name=name) for runner, name in zip(pair.runners, "ab", strict=False))
    drafter = slow(pair.runners[2], 0.012)
    ensemble = Ensemble([a, b], schedule="fixed", gamma=2, proposer=drafter, max_sequences=32)
    asked = {"questions": questions, "num_prompts": len(questions), "concurrencies": (1,), "repeats": 3, "tokens": 8}
    found = finished(ensemble, criteria=criteria, **asked)
    assert found.settings.ours == "fixed 2 by member"
    assert found.verdict.decision == "no-go"
    assert found.verdict.blocking == ("min_speedup",)
    assert found.verdict.rules[0].high < 1
    assert found.mechanism.row("fixed 2 by member", 1).bottleneck == "member"
    # What is written for service is the fastest of what was timed, and that is not the plan that lost.
    assert found.speed.best != "fixed 2 by member"


def test_a_member_that_runs_out_of_memory_midway_is_told_and_what_was_measured_is_kept(pair, tmp_path):
    path, calls = tmp_path / "measurements.json", []

    def exhausted():
        calls.append(1)
        if len(calls) > 150:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    members = [pair.loaded("a"), Member(model=Wrapped(pair.runners[1], exhausted), name="b")]
    ensemble = Ensemble(members, max_sequences=32)
    first = study(ensemble, path)
    with pytest.raises(InvalidPilot, match=r"b raised OutOfMemoryError.*is kept.*lower --concurrency"):
        first.run(lambda step: first.ledger.save(path), never)
    kept = Ledger.load(path, first.ledger.settings).measurements
    assert kept
    # With room again it goes on from there.
    again = study(ensemble, path, concurrencies=(1,))
    calls.clear()
    assert again.run(lambda step: calls.clear(), never)
    assert results(again).speed.row(OURS, 1) is not None


def test_a_member_that_runs_out_of_memory_in_the_self_test_is_no_fault_of_exactness(pair, tmp_path):
    path, is_full = tmp_path / "measurements.json", [False]

    def exhausted():
        if is_full[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    members = [pair.loaded("a"), Member(model=Wrapped(pair.runners[1], exhausted), name="b")]
    made = study(Ensemble(members, max_sequences=32), path, criteria=Criteria(min_speedup=None))

    def on_step(step):
        made.ledger.save(path)
        # From the second line of the self-test on.
        is_full[0] = step.phase == "exactness"

    with pytest.raises(InvalidPilot, match=r"self-test of .* failed: .*OutOfMemoryError.*is kept"):
        made.run(on_step, never)
    assert all(row.is_passed for row in made.ledger.checks.values())
    is_full[0] = False
    again = study(made.ensemble, path, criteria=Criteria(min_speedup=None))
    assert again.run(lambda step: None, never)
    assert results(again).kept.is_exact


def test_a_full_disk_is_told_and_what_was_measured_is_kept(pair, tmp_path):
    path = tmp_path / "measurements.json"
    made = study(pair, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(step):
        made.ledger.save(path)

    # The system refuses to let a file grow beyond this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, hard))
    try:
        with pytest.raises(CospecError, match=r"cannot be written: File too large.*is there still"):
            made.run(save, never)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = Ledger.load(path, made.ledger.settings)
    assert 0 < len(kept.measurements) < len(made.ledger.measurements)
    assert [file.name for file in tmp_path.iterdir()] == ["measurements.json"]
    again = study(pair, path)
    assert again.run(lambda step: None, never)


def as_plain(ensemble):
    return PlannedMethod(name=PLAIN, ensemble=ensemble, params=SamplingParams())


def log_probability(pair, ids, head):
    """Of the tokens from `head` on, by the members themselves."""
    with torch.no_grad():
        rows = [runner.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) for runner in pair.runners[:2]]
    mixed = (0.5 * (rows[0].exp() + rows[1].exp())).log()
    return sum(float(mixed[i - 1, ids[i]]) for i in range(head, len(ids)))


def test_a_given_text_has_the_probability_that_its_tokens_have(pair):
    trial = as_plain(pair)
    (logprob,) = text_logprobs(trial, [ReferenceText.of(pair.tokenizer, "the members", " propose tokens")])
    ids = pair.tokenizer.encode("the members propose tokens")
    head = len(pair.tokenizer.encode("the members"))
    assert logprob.num_tokens == len(ids) - head
    assert logprob.total == pytest.approx(log_probability(pair, ids, head), abs=1e-4)


def test_a_token_of_both_the_prompt_and_the_text_is_the_texts(pair):
    whole = "the members propose tokens and the target settles them"
    encode = pair.tokenizer.encode
    ids = encode(whole)
    # Somewhere within a word of several letters.
    cut = next(i for i in range(12, len(whole)) if encode(whole[:i]) != ids[: len(encode(whole[:i]))])
    given = ReferenceText.of(pair.tokenizer, whole[:cut], whole[cut:])
    head = len(ids) - len(given.tokens)
    before = encode(whole[:cut])
    assert before[:head] == ids[:head]
    assert before[head] != ids[head]
    (logprob,) = text_logprobs(as_plain(pair), [given])
    assert logprob.num_tokens == len(ids) - head
    assert logprob.total == pytest.approx(log_probability(pair, ids, head), abs=1e-4)
    # Where members have prompts of their own, the text is said after the same tokens.
    own = Member(model=pair.runners[1], name="b", prompt="{prompt}")
    (again,) = text_logprobs(as_plain(Ensemble([pair.loaded("a"), own])), [given])
    assert again.total == pytest.approx(logprob.total, abs=1e-4)


def test_a_text_without_a_token_of_its_own_is_passed_over(pair):
    made = study(pair, texts=("t", "two models decode one text"))
    assert [*made.texts] == ["0", "1", "2", "3", "4", "6"]


def test_texts_of_their_own_are_weighed_from_their_second_token_on(found, pair):
    whole = [row for row in found.gained.perplexities if (row.method, row.category) == ("ensemble", "texts")]
    assert [row.num_tokens for row in whole] == [len(pair.tokenizer.encode("two models decode one text")) - 1]


def test_a_member_with_its_own_prompt_is_given_that(pair):
    own = Member(model=pair.runners[1], name="b", prompt="say: {prompt}")
    trial = as_plain(Ensemble([pair.loaded("a"), own], Mixture([0.5, 0.5])))
    (logprob,) = text_logprobs(trial, [ReferenceText.of(pair.tokenizer, "the members", " propose")])
    (result,) = trial.ensemble.with_plan(schedule="plain").generate(
        ["the members"], SamplingParams(max_tokens=1, logprobs=400)
    )
    ids = pair.tokenizer.encode("the members propose")
    first = ids[len(pair.tokenizer.encode("the members"))]
    assert logprob.num_tokens == len(ids) - len(pair.tokenizer.encode("the members"))
    assert dict(result.logprobs[0].top)[first] >= logprob.total


def test_the_ways_of_scoring_in_use_are_told(pair):
    questions = [replace(PROMPTS[0], score="numeric"), *PROMPTS[1:], replace(PROMPTS[1], score="regex", reference=None)]
    assert results(study(pair, questions=questions)).settings.score == "numeric, exact"
    assert results(study(pair, questions=questions[-1:])).settings.score is None


SMALL = ["--num-prompts", "2", "--tokens", "4", "--repeats", "1", "--score-tokens", "2", "--concurrency", "1"]


def run(folder, out, *arguments):
    members = [option for name in "ab" for option in ("--member", str(folder / name))]
    return CliRunner().invoke(app, ["pilot", *members, *SMALL, "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [{"prompt": each.prompt, "reference": each.reference} for each in PROMPTS]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)


def test_ctrl_c_keeps_what_there_is_and_the_same_command_goes_on(folder, prompts, tmp_path, monkeypatch):
    save, count = Ledger.save, iter(range(100))

    def interrupting(self, path):
        save(self, path)
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    texts = tmp_path.with_suffix(".txt")
    texts.write_text("two models decode one text\nthe members propose tokens\n", encoding="utf-8")
    given = ("--prompts", prompts, "--texts", str(texts))
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "save", interrupting)
        shown = run(folder, tmp_path, *given)
    assert shown.exit_code == 130
    assert "the same command goes on from there" in shown.output
    # Of what there is so far a report can be read.
    kept = {"measurements.json", "report.html", "report.md", "results.json"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert Results.load(tmp_path / "results.json").verdict.decision == "not decided"
    shown = run(folder, tmp_path, *given, "--json")
    last = json.loads(shown.stdout.splitlines()[-1])
    found = Results.load(tmp_path / "results.json")
    assert shown.exit_code == EXIT[found.verdict.decision], shown.output
    assert last["verdict"]["decision"] == found.verdict.decision
    assert found.settings.prompts_source == prompts
    assert found.gained.texts_source == f"references, {texts}"
    assert {row.num_texts for row in found.gained.perplexities if row.category == TEXTS} == {2}
    assert (tmp_path / "ensemble.yaml").exists()


def test_criteria_are_written_and_read(folder, prompts, tmp_path):
    path = tmp_path / "criteria.yaml"
    assert CliRunner().invoke(app, ["pilot", "--write-criteria", str(path)]).exit_code == 0
    assert "min_speedup: 1.0" in path.read_text(encoding="utf-8")


def test_prices_are_written_and_read(folder, prompts, tmp_path):
    path = tmp_path / "prices.yaml"
    shown = CliRunner().invoke(app, ["pilot", "--write-prices", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "--prices" in shown.output
    assert path.exists()
    assert not (tmp_path / "pilot").exists()


RULES = {
    "go": "min_speedup: 0.000001\n",
    "no-go": "min_speedup: 1000\n",
    # Two prompts are too few for an interval, and there is no score without references.
    "not decided": "score_margin: 0.1\n",
}


def test_the_exit_status_is_the_verdicts(folder, tmp_path):
    prompts, criteria = tmp_path / "prompts.txt", tmp_path / "criteria.yaml"
    prompts.write_text("\n".join(each.prompt for each in PROMPTS), encoding="utf-8")
    given = ("--prompts", str(prompts), "--criteria", str(criteria), "--num-prompts", "5", "--tokens", "3")
    measured = []
    # After the first time nothing is left to measure, and the verdict is that of the criteria given now.
    for decision, rules in RULES.items():
        criteria.write_text(rules, encoding="utf-8")
        shown = run(folder, tmp_path / "out", *given)
        assert json.loads(shown.stdout.splitlines()[-1])["verdict"]["decision"] == decision
        assert shown.exit_code == {"go": 0, "no-go": 3, "not decided": 4}[decision] == EXIT[decision]
        measured.append((tmp_path / "out" / "measurements.json").read_bytes())
    assert len({*measured}) == 1


# One command after the other; of each the exit status, what it printed, and what it said of errors.
WITHOUT_THE_EXTRA = """
import contextlib, io, json, sys
for name in ("scipy", "matplotlib", "jinja2", "pynvml"):
    sys.modules[name] = None
from cospec.cli import main
ended = []
for sys.argv[1:] in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            main()
        except SystemExit as end:
            ended.append([end.code or 0, shown.getvalue(), told.getvalue()])
print(json.dumps(ended))
"""


def test_help_and_templates_need_none_of_the_packages_of_the_extra(tmp_path):
    commands = [
        ["pilot", "--help"],
        ["pilot", "compare", "--help"],
        ["pilot", "--write-prices", str(tmp_path / "prices.yaml")],
        ["pilot", "--out", str(tmp_path / "out")],
    ]
    code = [sys.executable, "-c", WITHOUT_THE_EXTRA, json.dumps(commands)]
    ran = subprocess.run(code, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    helped, compared, written, needed = json.loads(ran.stdout)
    assert [status for status, *_ in (helped, compared, written, needed)] == [0, 0, 0, 2]
    said = " ".join(helped[1].split())
    assert "3 NO-GO" in said
    assert "--max-tokens" in said
    assert "--tokens" not in said
    assert compared[1].count("Example: cospec pilot compare") == 1
    assert (tmp_path / "prices.yaml").exists()
    assert "pip install 'cospec[pilot]'" in needed[2]
    assert "Traceback" not in needed[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "0"], "counts such as"),
        (["--concurrency", "64"], "max_sequences: 64"),
        (["--concurrency", "64", "--max-sequences", "63"], "max_sequences, 63; give --max-sequences 64"),
        (["--score", "close"], "module:function"),
        (["--score", "math:typo"], "--score 'math:typo' cannot be imported"),
        (["--prompts", "none.jsonl"], "none.jsonl"),
        (["--criteria", "none.yaml"], "can be read from 'none.yaml'"),
        (["--prices", "none.yaml"], "can be read from 'none.yaml'"),
        (["--language", "fr"], "en, ja"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_measured(folder, tmp_path, arguments, message):
    shown = run(folder, tmp_path, *arguments)
    assert shown.exit_code == 2
    assert message in " ".join(shown.output.split())
    assert not [*tmp_path.iterdir()]


def test_a_prompt_beyond_a_members_context_is_told_with_its_line(folder, tmp_path):
    prompts, texts, out = (tmp_path / name for name in ("prompts.jsonl", "texts.txt", "out"))
    prompts.write_text(json.dumps("two") + "\n" + json.dumps("x" * 2000), encoding="utf-8")
    texts.write_text("two models\n" + "y" * 2000, encoding="utf-8")
    for arguments, where in (
        (["--prompts", str(prompts)], "prompts.jsonl:2"),
        (["--texts", str(texts)], "texts.txt:2"),
    ):
        shown = run(folder, out, *arguments)
        assert shown.exit_code == 2
        assert where in "".join(shown.output.split())
        assert "its context holds 512" in " ".join(shown.output.split())
        assert not out.exists()


@pytest.mark.long
@in_chromium
def test_without_arguments_it_runs_on_bundled_prompts_and_models(tmp_path, opened):
    shown = CliRunner().invoke(app, ["pilot", *SMALL, "--num-prompts", "3", "--language", "ja", "--out", str(tmp_path)])
    last = json.loads(shown.stdout.splitlines()[-1])
    found = Results.load(tmp_path / "results.json")
    assert shown.exit_code == EXIT[found.verdict.decision], shown.output
    assert last["verdict"]["decision"] == found.verdict.decision
    assert last["gain"] == gain(found.gained)
    assert (found.settings.ensemble, found.settings.prompts_source) == ("demo:we", "bundled")
    assert '<html lang="ja"' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "report.md").exists()
    assert found.settings.drafters == ("drafter", "lookup")
    assert found.settings.target == "0.5 math + 0.5 general"
    assert found.settings.score == "numeric"
    assert found.kept.is_exact
    assert found.kept.score.difference.num == 30
    assert {row.category for row in found.gained.perplexities} == {ALL, "sums", "code", "text"}
    assert Ensemble.load(tmp_path / "ensemble.yaml").drafter_names == ("drafter", "lookup")
    page = opened(tmp_path / "report.html")
    said = {"go": "GO", "go up to": "同時", "no-go": "NO-GO", "not decided": "判定保留"}
    assert page.locator(".decision").inner_text().startswith(said[found.verdict.decision])
    assert page.locator("#verdict tbody tr").count() == len(found.verdict.rules)
    assert page.locator("#speed svg.plot").count() >= 1
    assert page.locator("#speed table").last.locator("tbody tr").count() == 5


def test_the_self_test_tests_the_candidate_plan_as_it_will_run(pair):
    """With `plain` as the ensemble's own plan, `auto` is the candidate."""
    made = study(pair.with_plan(schedule="plain", gamma=None, proposer=None))
    assert made.settings.ours == "auto"
    assert made.candidate.plan.name == "auto"
    assert next(iter(plans_tested(made.candidate))) == "auto"
    assert len(made._self_test()) == num_checks(made.candidate)
