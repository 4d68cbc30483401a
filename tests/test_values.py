"""No value of any type, in any setting or argument, raises anything but a CospecError."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cospec import (
    Arithmetic,
    Contrastive,
    Custom,
    Ensemble,
    Guided,
    InvalidCombination,
    InvalidEnsemble,
    InvalidPrompt,
    InvalidSampling,
    InvalidSchedule,
    Member,
    Mixture,
    Product,
    SamplingParams,
    UnknownName,
)
from cospec.core.combine import combination_names, combination_options, make_combination
from cospec.files import SETTINGS, MemberSettings, read_settings
from cospec.runner import LoadOptions
from cospec.schedule import Plan, schedule_names
from cospec.study.criteria import Criteria, Softening
from cospec.study.prices import Machine, Prices

from .properties import examples
from .toys import letters, table
from .values import ANYTHING, JSON, TEXTS, Lone, message_of

# The files are rewritten for each example, and the members are made once.
many = settings(
    max_examples=examples(80),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def names_of(cls):
    return st.sampled_from([entry.name for entry in fields(cls)])


def write(path: Path, value: object) -> Path:
    path.write_text(yaml.safe_dump(value, default_style='"'), encoding="utf-8")
    return path


@many
@given(key=st.sampled_from(sorted(SETTINGS)), value=JSON, schedule=st.sampled_from(schedule_names()))
def test_a_value_of_a_setting_of_a_file_is_used_or_refused_with_the_file(tmp_path, key, value, schedule):
    whole = {"members": ["demo:math", "demo:drafter"], "schedule": schedule} | {key: value}
    path = write(tmp_path / "mine.yaml", whole)
    message = message_of(lambda: read_settings(path, {}))
    assert message is None or str(path) in message


@many
@given(key=st.sampled_from(sorted(MemberSettings.__annotations__)), value=JSON, is_proposer=st.booleans())
def test_a_value_of_a_setting_of_a_member_is_used_or_refused_with_its_place(tmp_path, key, value, is_proposer):
    entry = {"model": "demo:math"} | {key: value}
    whole = {"members": ["demo:general"], "proposer": [entry]} if is_proposer else {"members": ["demo:general", entry]}
    path = write(tmp_path / "mine.yaml", whole)
    message = message_of(lambda: read_settings(path, {}))
    place = "proposer[0]" if is_proposer else "members"
    assert message is None or message.startswith((f"{path}: {place}", f"unknown key of {path}: {place}"))


@many
@given(value=JSON)
def test_a_file_of_anything_is_used_or_refused(tmp_path, value):
    message_of(lambda: read_settings(write(tmp_path / "mine.yaml", value), {}))
    message_of(lambda: read_settings(write(tmp_path / "mine.yaml", {"members": value}), {}))


@many
@given(
    name=st.sampled_from(combination_names()), key=TEXTS, options=st.dictionaries(TEXTS, JSON, max_size=1), value=JSON
)
def test_a_value_of_an_option_of_a_combination_is_used_or_refused(tmp_path, name, key, options, value):
    known = combination_options(name)
    for given_key in [*known, key]:
        combine = {"type": name, given_key: value} | options
        path = write(tmp_path / "mine.yaml", {"members": ["demo:math", "demo:general"], "combine": combine})
        message = message_of(lambda path=path: read_settings(path, {}))
        assert message is None or f"{path}: combine" in message


@many
@given(cls=st.sampled_from([Plan, LoadOptions, SamplingParams, Member]), data=st.data())
def test_arguments_of_any_type_are_used_or_refused(cls, data):
    needed = {"model": "demo:math"} if cls is Member else {}
    given_values = data.draw(st.dictionaries(names_of(cls), ANYTHING, min_size=1, max_size=3))
    message_of(lambda: cls(**needed | given_values))


@pytest.mark.parametrize("lone", [torch.tensor(3), np.array(3), np.array("x")])
@pytest.mark.parametrize("name", ["stop", "stop_token_ids"])
def test_an_array_without_entries_is_no_list(name, lone):
    """It has the method by which others are iterated over."""
    with pytest.raises(InvalidSampling, match=f"{name} must be"):
        SamplingParams(**{name: lone})


@many
@given(name=st.sampled_from(combination_names()), data=st.data())
def test_options_of_any_type_make_a_combination_or_are_refused(name, data):
    options = {key: data.draw(ANYTHING) for key in combination_options(name)}
    message_of(lambda: make_combination(name, 2, **options).check(2))


@many
@given(cls=st.sampled_from([Mixture, Product, Arithmetic, Contrastive, Guided, Custom]), value=ANYTHING)
def test_a_combination_of_anything_is_one_or_refused(cls, value):
    message_of(lambda: cls(value).check(2))


ARGUMENTS = ("members", "combine", "schedule", "gamma", "proposer", "first", "verification", "max_sequences", "dtype")


@settings(many, max_examples=examples(150))
@given(
    given_values=st.dictionaries(
        st.sampled_from([*ARGUMENTS, "device", "graphs", "quantization"]), ANYTHING, max_size=3
    )
)
def test_an_ensemble_of_anything_is_one_or_refused(given_values):
    message_of(lambda: Ensemble(**{"members": [table(1), table(2)]} | given_values))


ENSEMBLE = Ensemble([letters([1, 2]), letters([2])])
SHORT = SamplingParams(max_tokens=1)


@settings(many, max_examples=examples(150))
@given(prompts=ANYTHING)
def test_prompts_of_any_type_are_decoded_or_refused(prompts):
    def refused(call):
        with pytest.raises(InvalidPrompt):
            call()

    if message_of(lambda: ENSEMBLE.generate(prompts, SHORT)) is not None:
        refused(lambda: ENSEMBLE.stream(prompts, SHORT))


@many
@given(prompt=ANYTHING, params=ANYTHING)
def test_parameters_of_any_type_are_taken_or_refused(prompt, params):
    for call in (ENSEMBLE.generate, ENSEMBLE.stream):
        message = message_of(lambda call=call: call("a", params))
        is_right = params is None or isinstance(params, SamplingParams)
        is_list = isinstance(params, list | tuple) and len(params) == 1 and isinstance(params[0], SamplingParams)
        assert (message is None) == (is_right or is_list)
    message_of(lambda: ENSEMBLE.request([1], params))


@many
@given(data=st.data(), value=JSON)
def test_criteria_and_prices_of_anything_are_used_or_refused(tmp_path, data, value):
    path = tmp_path / "file.yaml"
    criterion, softening = data.draw(names_of(Criteria)), data.draw(names_of(Softening))
    price, machine = data.draw(names_of(Prices)), data.draw(names_of(Machine))
    message_of(lambda: Criteria.load(write(path, {criterion: value})))
    message_of(lambda: Criteria.load(write(path, {"relaxed": {softening: value}})))
    message_of(lambda: Prices.load(write(path, {price: value})))
    message_of(lambda: Prices.load(write(path, {"machines": [{"name": "a", "per_hour": 1.0} | {machine: value}]})))


# What was seen to raise something else, or to be taken for something else.

LISTED = [
    (lambda: Ensemble([table(1)], gamma=1.5), InvalidSchedule, "gamma must be a whole number >= 1, got 1.5"),
    (lambda: Ensemble([table(1)], gamma=[]), InvalidSchedule, r"gamma must be a whole number >= 1, got \(\)"),
    (lambda: Ensemble([table(1)], max_sequences=True), InvalidEnsemble, "max_sequences must be a .*, got True"),
    (lambda: Ensemble(5), InvalidEnsemble, "a list of at least one member, got 5"),
    (lambda: Ensemble([table(1)], verification=3), UnknownName, "unknown verification 3"),
    (lambda: Ensemble([table(1)], verification=["block"]), UnknownName, r"unknown verification \['block'\]"),
    (lambda: Ensemble([table(1)], first=3), InvalidSchedule, "first must be the name of a member or drafter, .* got 3"),
    (lambda: Ensemble([table(1)], proposer=3), InvalidEnsemble, "a member's model is 3"),
    (lambda: Product("11"), InvalidCombination, "a list of numbers as weights, got '11'"),
    (lambda: Product(["1", "1"]), InvalidCombination, "a list of numbers as weights"),
    (lambda: Mixture([True, False]), InvalidCombination, "a list of numbers as weights"),
    (lambda: Contrastive(True), InvalidCombination, "a finite mu >= 0, got True"),
    (lambda: Contrastive(10**400), InvalidCombination, "a finite mu >= 0"),
    (lambda: Guided(None), InvalidCombination, "a finite scale, got None"),
    (lambda: LoadOptions(allow_pickle="no"), InvalidEnsemble, "allow_pickle must be true or false, got 'no'"),
    (lambda: LoadOptions(trust_remote_code="false"), InvalidEnsemble, "trust_remote_code must be true or false"),
    (lambda: LoadOptions(device=0), InvalidEnsemble, "device 0 is not known; use cpu, cuda"),
    (lambda: LoadOptions(device=["cpu"]), InvalidEnsemble, r"device \['cpu'\] is not known"),
    (lambda: LoadOptions(quantization="int3"), InvalidEnsemble, "quantization 'int3' is not known; use 4bit, 8bit"),
    (lambda: SamplingParams(stop_token_ids=b"ab"), InvalidSampling, "stop_token_ids must be"),
    (lambda: SamplingParams(stop={"a": 1}), InvalidSampling, "stop must be"),
    (lambda: SamplingParams(logit_bias={"1" * 5000: 1.0}), InvalidSampling, "logit_bias must be"),
    (lambda: Member(model="demo:math", prompt=b"ab"), InvalidEnsemble, "a member's prompt is b'ab'"),
    (lambda: Member(model="demo:math", name=""), InvalidEnsemble, "a member's name is ''"),
    (lambda: ENSEMBLE.generate(None), InvalidPrompt, "a text or a list of token ids, .*; got None"),
    (lambda: ENSEMBLE.generate(3), InvalidPrompt, "got 3"),
    (lambda: ENSEMBLE.generate(Lone()), InvalidPrompt, "a text or a list of token ids, .*; got <"),
    (lambda: ENSEMBLE.generate([[1], Lone()]), InvalidPrompt, "prompt 1 is <"),
    (lambda: ENSEMBLE.generate(["a", 5]), InvalidPrompt, "prompt 1 is 5"),
    (lambda: ENSEMBLE.generate([1, "a"]), InvalidPrompt, "prompt 0 is 1"),
    (lambda: ENSEMBLE.generate([1, True]), InvalidPrompt, "prompt 0 is 1"),
    (lambda: ENSEMBLE.generate(b"bytes"), InvalidPrompt, "got b'bytes'"),
    (lambda: ENSEMBLE.generate([b"bytes"]), InvalidPrompt, "prompt 0 is b'bytes'"),
    (lambda: ENSEMBLE.generate("\ud800"), InvalidPrompt, "is not valid Unicode"),
    (lambda: ENSEMBLE.generate(["a", "\ud800"]), InvalidPrompt, "prompt 1 .* is not valid Unicode"),
    (lambda: ENSEMBLE.generate([[[1]]]), InvalidPrompt, r"prompt 0 is \[\[1\]\]"),
    (lambda: ENSEMBLE.generate({"input_ids": [1]}), InvalidPrompt, "got {'input_ids'"),
    (lambda: ENSEMBLE.generate(torch.tensor([0.5])), InvalidPrompt, "an array of token ids has whole numbers"),
    (lambda: ENSEMBLE.generate(torch.tensor([True])), InvalidPrompt, "an array of token ids has whole numbers"),
    (lambda: ENSEMBLE.generate(torch.tensor(1)), InvalidPrompt, "an array of token ids has whole numbers"),
    (lambda: ENSEMBLE.generate("a", {"temperature": 0}), InvalidSampling, "give cospec.SamplingParams.* got {'temp"),
    (lambda: ENSEMBLE.generate("a", 5), InvalidSampling, "or a list with one for each prompt, got 5"),
    (lambda: ENSEMBLE.generate("a", [SHORT, SHORT]), InvalidPrompt, "2 sampling parameters for 1 prompts"),
    (lambda: ENSEMBLE.request(["a"], SHORT), InvalidPrompt, "a text or a list of token ids"),
    (lambda: ENSEMBLE.request("a", {}), InvalidSampling, "got {}"),
]


@pytest.mark.parametrize(("call", "error", "message"), LISTED)
def test_what_is_of_the_wrong_type_is_refused_with_what_is_allowed(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("prompts", "texts"),
    [
        (torch.tensor([1]), ["ab"]),
        (torch.tensor([[1], [1]], dtype=torch.int32), ["ab", "ab"]),
        (np.array([1]), ["ab"]),
        (np.array([[1]], dtype=np.uint8), ["ab"]),
        ([np.int64(1)], ["ab"]),
        ([torch.tensor(1)], ["ab"]),
        ([torch.tensor([1]), np.array([1]), "a", [1], (np.int32(1),)], ["ab"] * 5),
        (np.array(["a", "a"]).tolist(), ["ab", "ab"]),
        (range(1, 2), ["ab"]),
    ],
)
def test_arrays_and_numbers_of_numpy_and_torch_are_prompts(prompts, texts):
    ensemble = Ensemble([letters([1, 2])], schedule="plain")
    assert [result.text for result in ensemble.generate(prompts, SamplingParams(temperature=0))] == texts
    assert [
        event.result.text for event in ensemble.stream(prompts, SamplingParams(temperature=0)) if event.result
    ] == texts


def test_an_ensemble_says_what_it_is():
    ensemble = Ensemble([table(1), table(2)], Mixture([0.7, 0.3]), proposer=table(3), schedule="fixed", gamma=2)
    assert repr(ensemble) == (
        "Ensemble(members=['member', 'member-2'], combine=Mixture(weights=(0.7, 0.3)), "
        "plan='fixed 2 by member-3', drafters=['member-3'])"
    )
