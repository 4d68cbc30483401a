"""Ensemble files as users write them: what is wrong is told with its place, and options beside a file work."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cospec import CospecError, Ensemble, InvalidEnsemble, Member
from cospec.cli import app
from cospec.cli.batch import BatchOptions
from cospec.cli.options import EnsembleOptions
from cospec.files import has_relative_models, read_settings
from cospec.inputs import read_text
from cospec.members import as_settings, shared_runners
from cospec.names import MAX_SEQUENCES
from cospec.schedule import Plan
from cospec.server.batch import read_lines
from cospec.study.tune import Tuning, write_plan

from .toys import table

MEMBERS = "members: [demo:math, demo:general]\n"
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module", autouse=True)
def members_are_loaded_once():
    """Whatever stands beside them in the files, they are the same bundled models."""
    with shared_runners():
        yield


@pytest.fixture
def file(tmp_path):
    def written(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return written


WRONG = [
    (MEMBERS + 'allow_pickle: "no"', "allow_pickle: want true or false, got 'no'"),
    (MEMBERS + "allow_pickle: 0", "allow_pickle: want true or false, got 0"),
    (MEMBERS + 'trust_remote_code: "false"', "trust_remote_code: want true or false, got 'false'"),
    ("members: [{model: demo:math, allow_pickle: 'no'}]", "members[0].allow_pickle: want true or false, got 'no'"),
    ("members: [null]", "members[0]: want a text or keys and values, got null"),
    ("members: [demo:math, 3, 4]", "members[1]: want a text or keys and values, got 3"),
    ("members: [[a, b]]", "members[0]: want a text or keys and values, got ['a', 'b']"),
    ("members: 3", "members: want a list, got 3"),
    ("members: ['']", "members[0]: want a text that is not empty or keys and values, got ''"),
    ("members: [demo:math, {model: demo:math, prompt: 5}]", "members[1].prompt: want a text or a list, got 5"),
    ("members: [{model: demo:math, name: no}]", "members[0].name: want a text, got False"),
    ("members: [{model: demo:math, device: 3}]", "members[0].device: want a text, got 3"),
    (MEMBERS + "proposer: 3", "proposer: want a text or keys and values or a list, got 3"),
    (MEMBERS + "proposer: [lookup, 3]", "proposer[1]: want a text or keys and values, got 3"),
    (MEMBERS + "proposer: {name: a}", "proposer without `model`; it needs one"),
    (MEMBERS + "first: 3", "first: want a text, got 3"),
    (MEMBERS + "device: [cpu, cpu]", "device: want a text, got ['cpu', 'cpu']"),
    (MEMBERS + "device: tpu", "device 'tpu' is not known; use cpu, cuda or cuda:N"),
    (MEMBERS + "dtype: float31", "dtype 'float31' is not known; use auto, float32"),
    ("members: [{model: demo:math, dtype: float31}]", "members[0]: dtype 'float31' is not known"),
    (MEMBERS + "verification: 3", "verification: want a text, got 3"),
    (MEMBERS + "verification: blok", "unknown verification 'blok'; did you mean 'block'"),
    (MEMBERS + "schedule: alternat", "unknown schedule 'alternat'; did you mean 'alternate'"),
    (MEMBERS + "gamma: 2.5", "gamma: want a whole number or a list or 'auto', got 2.5"),
    (MEMBERS + "gamma: x", "gamma: want a whole number or a list or 'auto', got 'x'"),
    (MEMBERS + "gamma: 0", "gamma: want a number of at least 1 or a list or 'auto', got 0"),
    (MEMBERS + "gamma: []", "gamma: want a whole number or a list that is not empty or 'auto', got []"),
    (MEMBERS + "gamma: [1, true]", "gamma[1]: want a whole number, got True"),
    (MEMBERS + "quantization: int3", "quantization: want keys and values or '4bit' or '8bit', got 'int3'"),
    (MEMBERS + "graphs: maybe", "graphs: want true or false or 'auto' or 'shapes', got 'maybe'"),
    (MEMBERS + "max_sequences: 0", "max_sequences: want a number of at least 1, got 0"),
    (MEMBERS + "combine: 3", "combine: want a text or keys and values, got 3"),
    (MEMBERS + "combine: {type: 3}", "combine.type: want a text, got 3"),
    (MEMBERS + "combine: {type: mixture, weights: a}", "combine.weights: want a list, got 'a'"),
    (MEMBERS + 'combine: {type: product, weights: "11"}', "combine.weights: want a list, got '11'"),
    (MEMBERS + "combine: {weights: [true, 0.5]}", "combine.weights[0]: want a number, got True"),
    (
        MEMBERS + "combine: {weights: [2, 1]}",
        "combine: weights [2, 1] sum to 3; a mixture's must sum to 1: [0.6667, 0.3333]",
    ),
    (MEMBERS + "combine: {type: contrastive, mu: x}", "combine.mu: want a number, got 'x'"),
    (MEMBERS + "combine: {type: contrastive, mu: null}", "combine.mu: want a number, got null"),
    (MEMBERS + "combine: {type: contrastive, mu: true}", "combine.mu: want a number, got True"),
    (MEMBERS + "combine: {type: contrastive, mu: -1}", "combine: Contrastive needs a finite mu >= 0, got -1"),
    (MEMBERS + "combine: mixtur", "combine: unknown combination 'mixtur'; did you mean 'mixture'"),
    ("members: [{model: demo:math, name: a}, {model: demo:general, name: a}]", "members: two models are named 'a'"),
    ("members: [{model: demo:math, prompt: 'Q: {promt}'}]", "members[0].prompt: a member's prompt has '{promt}'"),
    (MEMBERS + "proposer: {model: lookup, prompt: 'Q: {promt}'}", "proposer.prompt: a member's prompt has '{promt}'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_is_wrong_is_told_with_the_file_and_the_place(file, text, message):
    path = file(text)
    with pytest.raises(CospecError) as caught:
        Ensemble.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MEMBERS + "gamma: 2\nschedule: plain", "plain drafts nothing, so gamma 2 has no meaning"),
        (MEMBERS + "gamma: [1, 2, 3]\nschedule: alternate", "alternate takes one gamma, or one a member"),
        (MEMBERS + "proposer: mth", "unknown proposer 'mth'; did you mean 'math'"),
        (MEMBERS + "first: mth\nschedule: alternate", "unknown first 'mth'; did you mean 'math'"),
        ("members: [{model: demo:math, name: lookup}]", "a member is named 'lookup', which means something else"),
        (
            "members: [{model: demo:math, name: 'demo:code'}]",
            "a member is named 'demo:code', which means something else",
        ),
        ("members: [{model: demo:math, name: each}]", "a member is named 'each', which means something else"),
        ("members: [./nowhere]", "no model folder at "),
    ],
)
def test_what_contradicts_itself_is_told_with_the_file(file, text, message):
    path = file(text)
    with pytest.raises(CospecError) as caught:
        Ensemble.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_what_is_given_beside_a_file_is_told_with_it(file):
    path = file(MEMBERS + "schedule: alternate")
    with pytest.raises(CospecError) as caught:
        Ensemble.load(path, proposer="demo:drafter", gamma=None)
    assert str(caught.value).startswith(f"{path} with proposer 'demo:drafter': alternate's proposers are the members")
    # What is wrong by itself has nothing to do with the file.
    with pytest.raises(CospecError, match=r"^gamma must be a whole number"):
        Ensemble.load(path, gamma=0)


@pytest.mark.parametrize("text", [MEMBERS + "gamma: 1\ngamma: 2", "members: [{model: a, model: b}]"])
def test_a_key_that_stands_twice_is_refused_with_its_line(file, text):
    path = file(text)
    line = text.count("\n") + 1
    key = "gamma" if "gamma" in text else "model"
    with pytest.raises(InvalidEnsemble) as caught:
        Ensemble.load(path)
    assert str(caught.value) == f"{path}:{line}: the key '{key}' stands twice in one mapping; leave one"


def test_numbers_are_read_as_editors_read_them(file):
    settings = read_settings(file(MEMBERS + "combine: {type: contrastive, mu: 1e-3}"), {})
    assert settings["combine"].mu == 0.001


@pytest.mark.parametrize("name", ["mine.yaml", "prompts.jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path, name):
    path = tmp_path / name
    path.write_text("members: [demo:math]\n", encoding="utf-8-sig")
    assert read_text(path, InvalidEnsemble) == "members: [demo:math]\n"
    assert len(read_settings(path, {})["members"]) == 1


def test_a_byte_order_mark_is_no_part_of_requests():
    (line,) = read_lines('{"prompt": "Once"}\n'.encode("utf-8-sig"), "in.jsonl", {}, {})
    assert line.error is None


def test_models_are_found_from_the_file_wherever_the_command_runs(tmp_path, file, monkeypatch):
    (tmp_path / "small").mkdir()
    (tmp_path / "elsewhere" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = file("members: [./small, ../up]\nproposer: [./small, ./other, {model: small, name: own, dtype: float32}]")
    settings = read_settings(path, {})
    assert [member.model for member in settings["members"]] == [str(tmp_path / "small"), str(tmp_path / "../up")]
    first, second, third = settings["proposer"]
    assert (first, second) == (str(tmp_path / "small"), str(tmp_path / "other"))
    assert (third.model, third.name, third.options.dtype) == (str(tmp_path / "small"), "own", "float32")
    assert has_relative_models(path)


def test_a_proposer_may_have_settings_of_its_own(file):
    path = file(MEMBERS + "schedule: fixed\ngamma: 2\nproposer: {model: demo:drafter, name: quick, dtype: float32}")
    ensemble = Ensemble.load(path)
    assert (ensemble.drafter_names, str(ensemble.plan)) == (("quick",), "fixed 2 by quick")


def test_a_load_option_that_the_file_sets_for_all_is_not_set_otherwise_for_one(file):
    path = file("dtype: float32\nmembers: [demo:math, {model: demo:general, dtype: bfloat16}]")
    with pytest.raises(InvalidEnsemble, match=r"members\[1\].dtype is 'bfloat16', and dtype 'float32' holds for all"):
        Ensemble.load(path)
    # What is given beside the file holds for all, whatever it says.
    path = file("members: [{model: demo:math, device: 'cuda:7'}]")
    assert read_settings(path, {"device": "cpu"})["members"][0].options.device is None


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        *((text, text[3:]) for text in ("Q: {promt}", "Q: {Prompt}", "Q: {prompts}", "Q: {{prompt}}", "Q: { prompt }")),
        ("{prompt} and {promtp}", "{promtp}"),
        ("Answer: {question}", "{question}"),
    ],
)
def test_what_was_meant_for_the_placeholder_is_refused_with_the_right_one(prompt, found):
    with pytest.raises(InvalidEnsemble) as caught:
        Member(model="demo:math", prompt=prompt)
    assert f"has {found!r}, which stands for nothing; write {{prompt}} for" in str(caught.value)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Be brief.",
        "{prompt}",
        'Answer as {"answer": 1}. {prompt}',
        "{x} in \\frac{a}{b}",
        "{prompt} {question}",
        "{}",
    ],
)
def test_other_braces_are_text(prompt):
    assert Member(model="demo:math", prompt=prompt).prompt == prompt


def test_a_model_called_as_a_proposer_s_word_gets_another_name():
    assert Ensemble([Member(model=table(1), name="a"), table(2)], proposer="lookup").names == ("a", "member", "lookup")
    with pytest.raises(InvalidEnsemble, match="two models are named 'a'"):
        Ensemble([Member(model=table(1), name="a"), table(2)], proposer=Member(model=table(3), name="a"))


# Options beside a file.

MINE = """
members: [demo:general, {model: demo:amateur, prompt: "Answer badly. {prompt}"}]
combine: {type: contrastive, mu: 0.1, plausibility: 0.1}
schedule: alternate
gamma: [1, 3]
verification: block
"""


TWO = "schedule: mixture\ngamma: auto\nproposer: [demo:drafter, lookup]"


def test_the_file_is_readme_s():
    block = README.read_text(encoding="utf-8").split("# mine.yaml\n")[1].split("```")[0]
    ours, theirs = yaml.safe_load(MINE), yaml.safe_load(block)
    assert {key: value for key, value in ours.items() if key != "members"} == {
        key: value for key, value in theirs.items() if key != "members"
    }


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        ({"schedule": "plain"}, "plain"),
        ({"schedule": "fixed"}, "fixed"),
        ({"schedule": "auto"}, "auto"),
        ({"schedule": "alternate"}, "alternate 1/3"),
        ({"schedule": "alternate", "gamma": 2}, "alternate 2"),
        ({"schedule": "fixed", "proposer": "demo:drafter"}, "fixed by drafter"),
        ({"schedule": "cascade", "proposer": "demo:drafter"}, "cascade by drafter"),
        ({"schedule": "fixed", "gamma": 2, "proposer": "amateur"}, "fixed 2 by amateur"),
        ({"gamma": 2}, "alternate 2"),
    ],
)
def test_another_schedule_sets_aside_what_belongs_to_the_file_s_own(file, given, plan):
    assert str(Ensemble.load(file(MINE), **given).plan) == plan


@pytest.mark.parametrize(
    ("own", "schedule", "plan", "drafters"),
    [
        ("schedule: fixed\ngamma: 3\nproposer: demo:drafter", "alternate", "alternate", ()),
        ("schedule: fixed\ngamma: 3\nproposer: demo:drafter", "mixture", "mixture by drafter", ("drafter",)),
        ("schedule: fixed\ngamma: 3\nproposer: demo:drafter", "cascade", "cascade by drafter", ("drafter",)),
        ("schedule: cascade\ngamma: [3, 4]\nfirst: general\nproposer: lookup", "fixed", "fixed by lookup", ("lookup",)),
        ("schedule: fixed\nproposer: general", "mixture", "mixture", ()),
        ("schedule: fixed\nproposer: general", "alternate", "alternate by general", ()),
        (TWO, "fixed", "fixed", ("drafter", "lookup")),
        (TWO, "mixture", "mixture auto by each", ("drafter", "lookup")),
        ("gamma: 2\nproposer: lookup", "auto", "auto 2 by lookup", ("lookup",)),
        ("gamma: 2\nproposer: lookup", "plain", "plain by lookup", ("lookup",)),
    ],
)  # fmt: skip
def test_a_proposer_stays_where_the_other_schedule_takes_it(file, own, schedule, plan, drafters):
    ensemble = Ensemble.load(file(MEMBERS + own), schedule=schedule)
    assert (str(ensemble.plan), ensemble.drafter_names) == (plan, drafters)
    # A request of the server is given the same plan.
    whole = Ensemble.load(file(MEMBERS + own))
    assert str(whole.plan_under(schedule)) == plan


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": "plain", "gamma": 2}, "plain drafts nothing, so gamma 2"),
        ({"schedule": "alternate", "proposer": "lookup"}, "alternate's proposers are the members"),
        ({"schedule": "fixed", "first": "nobody"}, "unknown first 'nobody'"),
        ({"proposer": "lookup"}, "alternate's proposers are the members"),
    ],
)
def test_what_is_given_and_contradicts_itself_stays_an_error(file, given, message):
    with pytest.raises(CospecError, match=message):
        Ensemble.load(file(MINE), **given)


@pytest.mark.parametrize("options", [("--schedule", "plain"), ("--schedule", "fixed"), ()])
def test_generate_takes_a_schedule_beside_a_file(file, options):
    call = ["generate", "Once", "--ensemble", str(file(MINE)), "--max-tokens", "4", "--seed", "1", "--json", *options]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["schedule"] == (options[1] if options else "alternate")


def test_tune_takes_a_proposer_beside_a_file(file):
    path = file(MINE)
    prompts = file('"Once"\n"Twice"\n', "prompts.jsonl")
    call = [
        "tune",
        "--ensemble",
        str(path),
        "--proposer",
        "demo:drafter",
        "--prompts",
        str(prompts),
        "--max-tokens",
        "16",
    ]
    done = CliRunner().invoke(app, [*call, "--json"])
    assert done.exit_code == 0, done.output
    assert "amateur" in "".join(json.loads(done.stdout)["acceptances"])
    assert Ensemble.load(path).plan.verification == "block"


@pytest.mark.parametrize("options", [("--schedule", "fixed"), ("--gamma", "3"), ("--first", "amateur")])
def test_tune_refuses_what_it_is_to_find(file, options):
    done = CliRunner().invoke(app, ["tune", "--ensemble", str(file(MINE)), *options])
    assert done.exit_code == 2
    assert f"{options[0]} is what tuning finds" in done.output


@pytest.mark.parametrize(
    "text",
    [
        "members: [demo:math]\ngamma:\n  - 1\n",
        "members: [demo:math]\nproposer:\n\n  - lookup\n",
        "members: [demo:math]\nproposer:\n# Two of them.\n  - lookup\n",
        "members:\n- demo:math\nproposer:\n- lookup\n",
        "{members: [demo:math]}\n",
        "members: [demo:math]\nschedule : auto\n",
        'members: [demo:math]\n"schedule": auto\n',
        "members: [demo:math]\n...\n",
        "members: [demo:math]\rschedule: auto\r",
    ],
)
def test_tune_refuses_a_file_that_it_cannot_write_before_it_measures(file, text):
    path = file(text)
    done = CliRunner().invoke(app, ["tune", "--ensemble", str(path)])
    assert done.exit_code == 2
    assert "its plan cannot be replaced line by line" in done.output
    assert path.read_bytes() == text.encode()


@pytest.mark.parametrize(
    "text",
    [
        "members:\n# The first.\n- demo:math\n\nschedule: plain\r\ndtype: float32\r\n",
        "members: [{model: demo:math, prompt: 'a\u2028schedule: {prompt}'}]\nproposer: [lookup, lookup+past]",
        "---\nschedule: auto\nmembers: [{model: demo:math, prompt: 'a\n  gamma: {prompt}'}]\n",
    ],
)
def test_a_written_plan_leaves_all_else_as_it_was(file, text):
    path = file(text)
    before = Ensemble.load(path)
    tuning = Tuning(plan=Plan(schedule="plain"), drafters=(), comparisons=(), acceptances={}, num_texts=1)
    write_plan(tuning, path, path, {})
    again = Ensemble.load(path)
    assert str(again.plan) == "plain"
    assert (again.sources, again.load_options) == (before.sources[:1], before.load_options)


def test_a_drafter_with_settings_of_its_own_keeps_them_in_a_written_plan(file):
    drafter = "{model: demo:drafter, name: small, prompt: 'Hm. {prompt}'}"
    path = file(f"members: [demo:math]\ndtype: float32\nproposer: {drafter}\n")
    ensemble = Ensemble.load(path)
    settings = {"small": as_settings(ensemble.sources[1], ensemble.load_options)}
    tuning = Tuning(
        plan=Plan(schedule="fixed", gamma=3, proposer="small"), drafters=(), comparisons=(), acceptances={}, num_texts=1
    )
    write_plan(tuning, path, path, settings)
    again = Ensemble.load(path)
    assert str(again.plan) == "fixed 3 by small"
    assert again.sources == ensemble.sources


@pytest.mark.parametrize("spec", [5, None, ["demo:we"], "~nobody-here/mine.yaml", "x" * 5000, "a\0b.yaml"])
def test_what_is_no_ensemble_file_is_refused(spec):
    with pytest.raises(InvalidEnsemble):
        Ensemble.load(spec)


@pytest.mark.parametrize("combine", [{"type": ["a"]}, {3: 3}, {"weights": "11"}, {"weight": [1, 2]}])
def test_a_combination_given_beside_a_file_is_refused_as_one_of_the_file_is(file, combine):
    with pytest.raises(CospecError):
        Ensemble.load(file("members: [demo:math, demo:general]\n"), combine=combine)


def test_what_is_given_beside_a_file_is_relative_to_the_working_directory(file, tmp_path, monkeypatch):
    path = file("members: [./own]\n")
    monkeypatch.chdir(tmp_path)
    settings = read_settings(path, {"members": ["a/b", "./c"]})
    assert [member.model for member in settings["members"]] == ["a/b", "c"]


@pytest.mark.parametrize(
    "options",
    [
        ("generate", "x", "--quantization", "2001-99-99"),
        ("generate", "x", "--quantization", "[" * 3000),
        ("generate", "--token-ids", "1" * 5000),
        ("generate", "x", "--gamma", "1" * 5000),
        ("bench", "--concurrency", "1" * 5000),
        ("serve", "--replicas", "2"),
        ("batch", "in.jsonl", "out.jsonl", "--workers", "3"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_one_line(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('"Once"\n')
    done = CliRunner().invoke(app, [*options])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(("given", "expected"), [(None, 5), (7, 7)])
def test_a_service_decodes_as_many_at_a_time_as_the_file_says(file, given, expected):
    models = EnsembleOptions(ensemble=str(file("members: [demo:math]\nmax_sequences: 5\n")))
    assert BatchOptions(max_sequences=given).settings(models).max_sequences == expected
    assert BatchOptions().settings(EnsembleOptions()).max_sequences == MAX_SEQUENCES
