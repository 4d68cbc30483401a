"""What a user writes: members, files, prompts, and what is refused."""

import json
import re

import pytest
import torch

import cospec
from cospec import (
    Contrastive,
    CospecError,
    Custom,
    Ensemble,
    InvalidCombination,
    InvalidEnsemble,
    InvalidPrompt,
    InvalidSampling,
    InvalidSchedule,
    Member,
    Mixture,
    ModelNotFound,
    Product,
    SamplingParams,
    UnknownName,
    VocabularyMismatch,
    errors,
    toy,
)
from cospec.files import read_settings
from cospec.schedule import plans

from .toys import letters, table


def test_the_public_names_are_sorted_and_there():
    assert cospec.__all__ == sorted(cospec.__all__)
    assert all(hasattr(cospec, name) for name in cospec.__all__)


def test_the_tree_of_errors_has_what_python_users_may_meet():
    homes = ("cospec.errors", "cospec.core.thread")
    kinds = {kind.__name__ for kind in CospecError.__subclasses__() if kind.__module__ in homes}
    assert set(re.findall(r"── (\w+) ", errors.__doc__)) == kinds
    assert {"EngineStopped", "QueueFull"} <= kinds


def test_a_prompt_is_a_text_or_ids_and_many_are_a_list():
    ensemble = Ensemble([letters([1, 2])], schedule="plain")
    params = SamplingParams(temperature=0)
    assert [result.text for result in ensemble.generate("a", params)] == ["ab"]
    assert [result.text for result in ensemble.generate([1], params)] == ["ab"]
    assert [result.text for result in ensemble.generate(["a", [1]], params)] == ["ab", "ab"]
    assert ensemble.generate([], params) == []


def test_results_come_prompt_by_prompt_and_sample_by_sample():
    ensemble = Ensemble([table(1), table(2)], max_sequences=2)
    each = [SamplingParams(n=2, seed=1, max_tokens=9), SamplingParams(n=3, seed=2, max_tokens=2)]
    results = ensemble.generate([[1], [2]], each)
    assert [(result.prompt_index, result.index) for result in results] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert len({tuple(result.token_ids) for result in ensemble.generate([1], SamplingParams(n=30, seed=1))}) > 5


def test_a_seed_gives_the_same_text_again_and_none_is_drawn_and_told():
    ensemble = Ensemble([table(1), table(2)], schedule="alternate")
    (one,) = ensemble.generate([1], SamplingParams(max_tokens=30, ignore_eos=True))
    (again,) = ensemble.generate([1], SamplingParams(max_tokens=30, ignore_eos=True, seed=one.seed))
    (other,) = ensemble.generate([1], SamplingParams(max_tokens=30, ignore_eos=True))
    assert one.token_ids == again.token_ids != other.token_ids


def test_a_result_is_ready_for_json():
    (result,) = Ensemble([table(1), table(2)]).generate([1], SamplingParams(max_tokens=3, logprobs=1))
    told = json.loads(json.dumps(result.to_dict()))
    wanted = {"text", "token_ids", "finish_reason", "prompt_tokens", "completion_tokens", "schedule", "seconds"}
    assert wanted | {"members", "proposers"} <= set(told)
    assert set(told["members"]["member"]) == {"calls", "tokens_fed", "seconds", "prompt_seconds"}


def test_members_see_their_own_prompts():
    seen = []

    def spy(name):
        def fn(prefix):
            seen.append((name, prefix))
            return torch.zeros(12)

        return toy.FunctionRunner(12, fn, tokenizer=letters([]).tokenizer)

    members = [Member(model=spy("asked"), prompt="xx{prompt}y"), Member(model=spy("not"), prompt="c"), spy("bare")]
    ensemble = Ensemble([*members, Member(model=spy("ids"), prompt=[4, 4])], schedule="plain")
    ensemble.generate("ab", SamplingParams(max_tokens=1))
    assert set(seen) == {("asked", (10, 10, 1, 2, 11)), ("not", (3,)), ("bare", (1, 2)), ("ids", (4, 4))}
    ensemble.generate([2, 2], SamplingParams(max_tokens=1))
    assert ("asked", (10, 10, 2, 2, 11)) in seen


def test_prompt_logprobs_alone_wait_for_members_that_were_not_drawn():
    ensemble = Ensemble([table(1), table(2)], schedule="mixture")
    prompt = [1, 2, 0, 1]
    for seed in range(6):
        params = SamplingParams(max_tokens=1, seed=seed, prompt_logprobs=0)
        (drawn,) = ensemble.generate([prompt], params)
        (plain,) = ensemble.with_plan(schedule="plain").generate([prompt], params)
        assert len(drawn.prompt_logprobs) == len(prompt)
        assert [entry.token for entry in drawn.prompt_logprobs[1:]] == prompt[1:]
        assert [e.logprob for e in drawn.prompt_logprobs[1:]] == pytest.approx(
            [e.logprob for e in plain.prompt_logprobs[1:]]
        )


def test_auto_forgets_ways_of_sampling_that_came_long_ago():
    ensemble = Ensemble([table(1), table(2)])
    for number in range(40):
        ensemble.planner_for(SamplingParams(temperature=1 + number / 100))
    assert len(ensemble._planners) == 32


def test_prompt_logprobs_of_different_prompts_are_refused():
    ensemble = Ensemble([letters([1]), Member(model=letters([1]), prompt="c")])
    with pytest.raises(InvalidSampling, match="one prompt for all members"):
        ensemble.generate("a", SamplingParams(prompt_logprobs=0))


def test_auto_with_a_seed_keeps_to_a_rule_and_says_so():
    ensemble = Ensemble([table(1), table(2)])
    seeded = SamplingParams(max_tokens=2, seed=0)
    results = {
        "sampled": ensemble.generate([1], seeded)[0],
        "top-p": ensemble.generate([1], SamplingParams(max_tokens=2, top_p=0.9, seed=0))[0],
        "product": Ensemble([table(1), table(2)], Product([0.5, 0.5])).generate([1], seeded)[0],
        "one": Ensemble([table(1)]).generate([1], seeded)[0],
        "drafter": Ensemble([table(1)], proposer=table(2)).generate([1], seeded)[0],
    }
    assert {result.schedule for result in results.values()} == {"auto"}
    assert {name: result.plan for name, result in results.items()} == {
        "sampled": "mixture", "top-p": "alternate", "product": "alternate", "one": "plain",
        "drafter": "fixed auto by member-2",
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("length", [1, 3, 200])
def test_a_result_names_what_was_asked_for_and_what_ran_with_a_seed_and_without(seed, length):
    params = SamplingParams(max_tokens=length, seed=seed, ignore_eos=True)
    ensemble = Ensemble([table(1), table(2)])
    (result,) = ensemble.generate([1], params)
    assert result.schedule == "auto"
    weighed = [str(plan) for plan in plans(ensemble.setting(params), "block")]
    assert result.plan in weighed
    assert result.counts.plans == {result.plan: 1}
    (own,) = ensemble.with_plan(schedule="alternate", gamma=(1, 3)).generate([1], params)
    assert (own.schedule, own.plan, own.counts.plans) == ("alternate", "alternate 1/3", {})


BAD_ENSEMBLES = [
    (lambda: Ensemble([]), InvalidEnsemble, "at least one member"),
    (lambda: Ensemble("demo:math"), InvalidEnsemble, "list of at least one member"),
    (lambda: Ensemble([table(1)], max_sequences=0), InvalidEnsemble, "at least 1"),
    (lambda: Ensemble([table(1)], max_sequences="x"), InvalidEnsemble, "at least 1, got 'x'"),
    (lambda: Ensemble([table(1)], [1]), InvalidCombination, r"combine is \[1\]"),
    (lambda: Ensemble([table(1)], "mixtur"), UnknownName, "did you mean 'mixture'"),
    (lambda: Ensemble([table(1)], schedule="fixed", gamma="x"), InvalidSchedule, "gamma must be"),
    (lambda: Ensemble([table(1), table(2)], Mixture([1.0])), InvalidCombination, "1 weights .* for 2 members"),
    (lambda: Ensemble([table(1)], schedule="alternat"), UnknownName, "did you mean 'alternate'"),
    (lambda: Ensemble([table(1)], verification="blok"), UnknownName, "did you mean 'block'"),
    (lambda: Ensemble([table(1)], proposer="membr"), UnknownName, "did you mean 'member'"),
    (lambda: Ensemble([table(1)], devise="cpu"), UnknownName, "did you mean 'device'"),
    (lambda: Ensemble(["/no/such/folder"]), ModelNotFound, "no model folder at '/no/such/folder'"),
    (lambda: Ensemble(["demo:mth"]), UnknownName, "unknown bundled model"),
    (lambda: Ensemble([table(1), table(2)], schedule="alternate", gamma=0), InvalidSchedule, "gamma must be"),
    (lambda: Ensemble([table(1), table(2)], schedule="fixed", gamma=-2), InvalidSchedule, "gamma must be"),
    (lambda: Ensemble([table(1), table(2)], schedule="fixed", gamma=True), InvalidSchedule, "gamma must be"),
    (lambda: Ensemble([table(1), table(2)], schedule="plain", gamma=2), InvalidSchedule, "drafts nothing"),
    (lambda: Ensemble([table(1), table(2)], schedule="fixed", gamma=[2, 2]), InvalidSchedule, "takes one gamma"),
    (lambda: Ensemble([table(1), table(2)], schedule="alternate", gamma=[1, 2, 3]), InvalidSchedule, "for 2 members"),
    (
        lambda: Ensemble([table(1), table(2)], schedule="alternate", proposer=table(3)),
        InvalidSchedule,
        "proposers are the members",
    ),
    (lambda: Ensemble([table(1), table(2)], Contrastive(0.1), schedule="mixture"), InvalidSchedule, "contrastive"),
    (lambda: Ensemble([table(1), table(2)], schedule="mixture", verification="coupled"), InvalidSchedule, "coupled"),
    (lambda: Ensemble([table(1), table(2, vocab_size=5)]), VocabularyMismatch, "has 4 tokens and 'member-2' 5"),
    (lambda: Ensemble.load("demo:w"), UnknownName, "did you mean 'demo:we'"),
    (lambda: Ensemble.load("/no/such.yaml"), InvalidEnsemble, "no ensemble file"),
    (lambda: Ensemble([table(1)], dtype="float31"), InvalidEnsemble, "float31"),
]


@pytest.mark.parametrize(("build", "error", "message"), BAD_ENSEMBLES)
def test_what_cannot_run_is_refused_with_what_to_do(build, error, message):
    with pytest.raises(error, match=message) as caught:
        build()
    assert isinstance(caught.value, CospecError)


BAD_REQUESTS = [
    (lambda e: e.generate([[]]), InvalidPrompt, "empty"),
    (lambda e: e.generate("text"), InvalidPrompt, "no tokenizer"),
    (lambda e: e.generate([[1], ["x"]]), InvalidPrompt, "a text or a list of token ids"),
    (lambda e: e.generate([[1], [2]], [SamplingParams()]), InvalidPrompt, "1 sampling parameters for 2 prompts"),
    (lambda e: e.with_plan(schedule="mixture", proposer="each"), InvalidSchedule, "there is none; give models"),
    (lambda e: e.with_plan(schedule="fixed", proposer="each"), UnknownName, "each"),
    (
        lambda e: e.with_plan(schedule="mixture").generate([1], SamplingParams(top_p=0.9)),
        InvalidSchedule,
        "r untouched",
    ),
    (
        lambda e: e.with_plan(schedule="mixture").generate([1], SamplingParams(temperature=0)),
        InvalidSchedule,
        "untouched",
    ),
    (
        lambda e: e.with_plan(schedule="mixture").generate([1], SamplingParams(min_tokens=1)),
        InvalidSchedule,
        "untouched",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_REQUESTS)
def test_a_bad_request_is_refused_before_anything_is_decoded(call, error, message):
    ensemble = Ensemble([table(1), table(2)], schedule="alternate")
    with pytest.raises(error, match=message):
        call(ensemble)


def test_members_of_different_tokenizers_are_refused_by_both_names_and_the_first_difference():
    class Other(type(letters([]).tokenizer)):
        _entries = ("<end>", "a", "B", "c", " ", "ab", "STOP", "\n", "\u00e9-1", "\u00e9-2", "x", "y")

    other = toy.FunctionRunner(12, lambda prefix: [0.0] * 12, tokenizer=Other())
    with pytest.raises(
        VocabularyMismatch, match=r"'one' has 12 tokens and 'two' 12; they first differ at id 2 \('b' and 'B'\)"
    ):
        Ensemble([Member(model=letters([1]), name="one"), Member(model=other, name="two")])


def test_a_custom_function_of_another_shape_ends_the_text_with_an_error():
    ensemble = Ensemble([table(1), table(2)], Custom(lambda log_p: log_p))
    (result,) = ensemble.generate([1])
    assert result.finish_reason == "error"
    assert "must return a tensor of shape (4,)" in result.error


def test_a_file_says_all_that_the_constructor_takes_and_overrides_win(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("members: [demo:math, demo:general]\ncombine: {type: product, weights: [1, 1]}\nschedule: plain\n")
    settings = read_settings(path, {"schedule": "alternate", "combine": {"weights": [2, 1]}, "gamma": None})
    assert settings["schedule"] == "alternate"
    assert settings["combine"] == Product([2, 1])
    assert [member.model for member in settings["members"]] == ["demo:math", "demo:general"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("members: [", InvalidEnsemble, "is not YAML"),
        ("- a", InvalidEnsemble, "holds no settings"),
        ("combine: mixture", InvalidEnsemble, "lists no members"),
        ("members: [demo:math]\nshedule: plain", UnknownName, "did you mean 'schedule'"),
        ("members: [{modl: x}]", UnknownName, "did you mean 'model'"),
        ("members: [{name: x}]", InvalidEnsemble, "without `model`"),
        ("members: [a, b]\ncombine: mixtur", UnknownName, "did you mean 'mixture'"),
        ("members: [a, b]\ncombine: {type: mixture, weight: [1, 0]}", UnknownName, "did you mean 'weights'"),
        ("members: [a, b]\ncombine: {type: mixture, weights: [0.5, 0.6]}", InvalidCombination, "sum to 1.1"),
        (
            "members: [a, b]\ncombine: {type: contrastive, mu: x}",
            InvalidEnsemble,
            r"combine\.mu: want a number, got 'x'",
        ),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong_in_it(tmp_path, text, error, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        Ensemble.load(path)


def test_a_drafter_may_go_as_far_as_is_likely_to_pay():
    ensemble = Ensemble([table(1), table(2)], schedule="fixed", gamma="auto", proposer=table(3))
    assert ensemble.plan.is_paced
    (result,) = ensemble.generate([[0]], SamplingParams(max_tokens=8, ignore_eos=True))
    assert result.completion_tokens == 8


def test_names_are_made_unique():
    ensemble = Ensemble([table(1), table(2), Member(model=table(3), name="third")], proposer=table(4))
    assert ensemble.names == ("member", "member-2", "third", "member-3")


def test_of_several_drafters_each_member_has_its_own():
    members = [table(1), table(2), table(3)]
    ensemble = Ensemble(members, schedule="mixture", gamma=3, proposer=[table(1), table(2), table(3)])
    (result,) = ensemble.generate([[1]], SamplingParams(max_tokens=200, seed=0, ignore_eos=True))
    # Each drafter is its member, so that every draft stands.
    assert set(result.proposers) == set(ensemble.drafter_names)
    assert all(stats.accepted == stats.proposed > 0 for stats in result.proposers.values())
