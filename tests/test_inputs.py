"""Files that users write: whatever stands in them, a CospecError says where it is wrong and what is allowed."""

from pathlib import Path

import pytest
import yaml

from cospec import CospecError, Ensemble, Member, UnknownName
from cospec.errors import InvalidEnsemble, InvalidPilot
from cospec.files import SETTINGS, MemberSettings, has_relative_models, read_settings
from cospec.study.criteria import Criteria, Softening
from cospec.study.prices import Machine, Prices
from cospec.study.questions import PromptLine, read_questions

ODD_VALUES = [
    *("null", "true", "'no'", "0", "-1", "1.5", "'0.5'", "10000000000000000000000", ".nan", ".inf", "''", "x", "[]"),
    *(
        "[null]",
        "[1.5, x]",
        "[[1]]",
        "{}",
        "{a: 1}",
        "{1: 2}",
        "{model: 3}",
        "2024-01-01",
        "!!binary aGk=",
        "!!set {a}",
    ),
    *("!!set {a}", "&a [*a]", '"\\ud800"', "~/x", "!!python/object:os.x {}"),
]


def told(build):
    """The message of a file that is refused; nothing but a CospecError may come."""
    try:
        build()
    except CospecError as error:
        return str(error)
    return None


@pytest.fixture
def file(tmp_path):
    def written(text, name="file.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return written


@pytest.mark.parametrize("setting", sorted(SETTINGS))
@pytest.mark.parametrize("value", ODD_VALUES)
def test_any_value_of_any_setting_of_an_ensemble_is_used_or_refused(file, setting, value):
    members = "" if setting == "members" else "members: [demo:drafter, demo:drafter]\n"
    told(lambda: Ensemble.load(file(f"{members}{setting}: {value}")))


@pytest.mark.parametrize("setting", sorted(MemberSettings.__annotations__))
@pytest.mark.parametrize("value", ODD_VALUES)
def test_any_value_of_any_setting_of_a_member_is_used_or_refused(file, setting, value):
    model = "" if setting == "model" else "model: demo:math, "
    told(lambda: read_settings(file(f"members: [{{{model}{setting}: {value}}}]"), {}))


@pytest.mark.parametrize("value", ODD_VALUES)
def test_any_value_of_any_criterion_or_price_is_used_or_refused(file, value):
    for name in Criteria.__dataclass_fields__:
        told(lambda name=name: Criteria.load(file(f"{name}: {value}")))
    for name in Softening.__dataclass_fields__:
        told(lambda name=name: Criteria.load(file(f"relaxed: {{{name}: {value}}}")))
    for name in Prices.__dataclass_fields__:
        told(lambda name=name: Prices.load(file(f"{name}: {value}")))
    for name in Machine.__dataclass_fields__:
        told(lambda name=name: Prices.load(file(f"machines: [{{name: a, per_hour: 1, {name}: {value}}}]")))
    told(lambda: Criteria.load(file(value)))
    told(lambda: Ensemble.load(file(value)))


@pytest.mark.parametrize("value", ["null", "true", "0", "-1.5", "1e999", "NaN", '""', '"x"', "[]", "{}", '{"a": [1]}'])
def test_any_value_of_any_field_of_a_prompt_is_used_or_refused(file, value):
    for name in PromptLine.__annotations__:
        told(lambda name=name: read_questions(file(f'"a"\n{{"{name}": {value}, "x": 1}}', "p.jsonl")))
        told(lambda name=name: read_questions(file(f'"a"\n{{"prompt": "b", "{name}": {value}}}', "p.jsonl")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trust_remote_code: 'no'", "trust_remote_code: want true or false, got 'no'"),
        ("max_sequences: '8'", "max_sequences: want a whole number, got '8'"),
        ("max_sequences: true", "max_sequences: want a whole number, got True"),
        ("schedule: null", "schedule: want a text, got null"),
        ("gamma: [2, '3']", "gamma[1]: want a whole number, got '3'"),
        ("gamma: 1.5", "gamma: want a whole number or a list or 'auto', got 1.5"),
        ("combine: {type: mixture, weights: ['0.5', 0.5]}", "combine.weights[0]: want a number, got '0.5'"),
        ("device: 0", "device: want a text, got 0"),
    ],
)
def test_the_place_the_value_and_what_is_allowed_are_named(file, text, message):
    path = file(f"members: [demo:math, demo:general]\n{text}")
    with pytest.raises(InvalidEnsemble) as caught:
        Ensemble.load(path)
    assert str(caught.value) == f"{path}: {message}"


def test_weights_are_a_list_and_no_text(file):
    path = file("members: [demo:math, demo:general]\ncombine: {type: product, weights: '11'}")
    with pytest.raises(InvalidEnsemble, match=r"combine\.weights: want a list, got '11'"):
        Ensemble.load(path)


def test_a_key_that_is_unknown_is_named_with_its_place_and_the_nearest(file):
    path = file("members: [demo:math, {model: demo:general, promt: x, dtype: 3}]")
    with pytest.raises(UnknownName) as caught:
        Ensemble.load(path)
    assert str(caught.value).startswith(f"unknown key of {path}: members[1] 'promt'; did you mean 'prompt'?")
    with pytest.raises(UnknownName, match=r"relaxed 'gama'; did you mean 'gamma'"):
        Criteria.load(file("relaxed: {gama: 3}"))


def test_a_file_of_another_encoding_is_refused_with_its_line(tmp_path):
    path = tmp_path / "criteria.yaml"
    path.write_bytes(b"min_speedup: 1.0\n# \xff\n")
    with pytest.raises(InvalidPilot, match=r"criteria.yaml:2 is not UTF-8"):
        Criteria.load(path)


def test_folders_of_members_and_of_proposers_are_relative_to_the_file(tmp_path, file):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    path = file(yaml.safe_dump({"members": ["a", {"model": "b"}], "proposer": ["c", "a", "lookup", "demo:drafter"]}))
    settings = read_settings(path, {})
    assert [member.model for member in settings["members"]] == [str(tmp_path / "a"), str(tmp_path / "b")]
    # A member is named, not loaded once more.
    assert settings["proposer"] == [str(tmp_path / "c"), "a", "lookup", "demo:drafter"]
    assert read_settings(file("members: [demo:math]\nproposer: c"), {})["proposer"] == str(tmp_path / "c")
    assert read_settings(path, {"proposer": "c"})["proposer"] == "c"
    assert has_relative_models(file("members: [demo:math]\nproposer: c"))
    assert not has_relative_models(file(f"members: [demo:math]\nproposer: {tmp_path / 'c'}"))


def test_null_stands_for_none_where_a_setting_may_be_left_out(file):
    text = "members: [{model: demo:math, name: null, prompt: null}]\ngamma: null\nproposer: null\ncombine: null\n"
    assert Ensemble.load(file(text)).plan.gamma is None


def test_what_python_gives_instead_of_a_file_s_settings_may_be_objects(file):
    path = file("members: [demo:math]\nschedule: plain")
    member = Member(model="demo:drafter", name="own")
    settings = read_settings(path, {"members": [member, {"model": "demo:math"}, Path("demo:code")], "schedule": None})
    assert [each.model for each in settings["members"]] == ["demo:drafter", "demo:math", "demo:code"]
    assert settings["schedule"] == "plain"
    with pytest.raises(UnknownName, match="did you mean 'model'"):
        read_settings(path, {"members": [{"modl": "demo:math"}]})
    with pytest.raises(UnknownName, match="did you mean 'schedule'"):
        read_settings(path, {"shedule": "plain"})
