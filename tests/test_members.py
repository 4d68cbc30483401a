"""Members by name: schemes of runners, those of other packages too; who shares a runner; what a member must be."""

import sys
from pathlib import Path

import pytest

from cospec import Ensemble, InvalidEnsemble, Member, ModelNotFound, SamplingParams, UnknownName, UnsupportedModel, demo
from cospec.members import load_runners, unique_names
from cospec.plugins import PluginFailed, Registry
from cospec.runner import LoadOptions, schemes
from cospec.runner.lookup import LookupRunner
from cospec.runner.schemes import load_runner, split

from .toys import table

PLUGIN = """
from cospec import toy
from cospec.errors import ModelNotFound
from cospec.runner.lookup import LookupRunner

loaded = []

def load(rest, options):
    loaded.append((rest, options))
    if rest == "missing":
        raise ModelNotFound(f"no table {rest!r}")
    if rest == "broken":
        raise OSError("the disk is on fire")
    if rest == "nothing":
        return None
    if rest == "drafter":
        return LookupRunner(0)
    return toy.TableRunner(4, seed=int(rest))
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package that adds the schemes `table` and `absent`; its module."""
    (tmp_path / "table_plugin.py").write_text(PLUGIN)
    info = tmp_path / "table_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: table-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cospec.runners]\ntable = table_plugin:load\nabsent = no_such_module:load\ndemo = no_such_module:load\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    # Entry points are read once; a registry of the same loaders reads them again.
    monkeypatch.setattr(schemes, "LOADERS", Registry("runner scheme", schemes.LOADERS._own, "cospec.runners"))
    yield __import__("table_plugin")
    del sys.modules["table_plugin"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("demo:math", ("demo", "math")),
        ("lookup", ("lookup", "")),
        ("lookup+past", ("lookup+past", "")),
        ("Qwen/Qwen2.5-0.5B", ("hf", "Qwen/Qwen2.5-0.5B")),
        ("/models/a:b", ("hf", "/models/a:b")),
        ("c:/models/a", ("hf", "c:/models/a")),
        ("C:\\models\\a", ("hf", "C:\\models\\a")),
        ("./a:b", ("hf", "./a:b")),
        ("hf:a/b", ("hf", "a/b")),
        ("table:3:4", ("table", "3:4")),
    ],
)
def test_a_scheme_is_a_word_before_a_colon(plugin, model, expected):
    assert split(model) == expected


def test_an_unknown_scheme_is_refused_with_the_known_ones(plugin):
    with pytest.raises(UnknownName, match="unknown runner scheme 'tabl'; did you mean 'table'") as refusal:
        Ensemble(["tabl:1"])
    assert "(absent, demo, hf, lookup, lookup+past, table)" in str(refusal.value)


def test_a_folder_whose_name_looks_like_a_scheme_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my:model").mkdir()
    assert split("my:model") == ("hf", "my:model")
    with pytest.raises(ModelNotFound, match=r"'my:model' has no config\.json"):
        load_runner("my:model", LoadOptions())


def test_a_model_of_another_package_is_decoded_like_any_other(plugin):
    params = SamplingParams(max_tokens=8, seed=1, ignore_eos=True)
    ensemble = Ensemble(["table:1", "table:2"], schedule="alternate")
    same = Ensemble([table(1, end_ids=()), table(2, end_ids=())], schedule="alternate")
    assert ensemble.names == ("1", "2")
    assert ensemble.generate([[0]], params)[0].token_ids == same.generate([[0]], params)[0].token_ids


def test_members_of_equal_model_and_options_share_a_runner(plugin):
    narrow = LoadOptions(dtype="bfloat16")
    members = [
        Member(model="table:1"), Member(model="table:1", prompt=[1]), Member(model="table:1", options=narrow),
        Member(model="table:2"),
    ]  # fmt: skip
    first, second, other, third = load_runners(members)
    assert first is second
    assert len({id(first), id(other), id(third)}) == 3
    assert plugin.loaded == [("1", LoadOptions()), ("1", narrow), ("2", LoadOptions())]


def test_ways_to_write_a_folder_are_one_model():
    folder = demo.model_path("demo:drafter")
    members = [Member(model=model) for model in ("demo:drafter", folder, f"hf:{folder}")]
    first, second, third = load_runners(members)
    assert first is second is third


def test_what_a_loader_raises_names_the_scheme(plugin):
    with pytest.raises(UnsupportedModel, match="runner scheme 'table' raised OSError for 'table:broken': the disk is"):
        load_runner("table:broken", LoadOptions())
    with pytest.raises(PluginFailed, match="runner scheme 'absent' of no_such_module:load cannot be loaded: ModuleNot"):
        load_runner("absent:1", LoadOptions())
    with pytest.raises(UnsupportedModel, match=r"'table' returned None for 'table:nothing', .* lacks vocab_size"):
        load_runner("table:nothing", LoadOptions())
    with pytest.raises(ModelNotFound, match=r"^no table 'missing'$"):
        load_runner("table:missing", LoadOptions())


def test_a_scheme_of_cospec_cannot_be_taken_over(plugin):
    assert load_runner("demo:drafter", LoadOptions(device="cpu")).vocab_size == 4096


def test_a_drafter_without_a_vocabulary_has_the_members(plugin):
    runners = load_runners([Member(model=model) for model in ("table:1", "lookup", "lookup+past", "table:drafter")])
    assert [runner.vocab_size for runner in runners] == [4] * 4
    assert [type(runner) for runner in runners[1:]] == [LookupRunner] * 3


def test_members_that_are_all_lookups_are_refused():
    with pytest.raises(InvalidEnsemble, match="none of lookup, lookup is a model with a vocabulary"):
        Ensemble(["lookup", "lookup"], device="cpu")
    with pytest.raises(InvalidEnsemble, match="a lookup has no model to load, got 'x'; give lookup or lookup"):
        load_runner("lookup:x", LoadOptions())


def test_names_are_the_last_part_of_a_model(plugin):
    models = ["demo:math", "owner/name", "/models/a", Path("/models/a"), "table:/models/b.bin", "table:", table(1)]
    names = unique_names([Member(model=model) for model in models])
    assert names == ("math", "name", "a", "a-2", "b.bin", "table:", "member")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": 3}, r"a member's model is 3, which is no Runner: it lacks vocab_size, .*; give a folder, a hub id"),
        ({"model": None}, "a member's model is None"),
        ({"model": "demo:math", "name": 3}, "a member's name is 3; give a string"),
        ({"model": "demo:math", "prompt": 3}, "a member's prompt is 3; give a text, in which {prompt} stands"),
        ({"model": "demo:math", "prompt": [1, "2"]}, r"a member's prompt is \[1, '2'\]"),
        ({"model": "demo:math", "prompt": [True]}, r"a member's prompt is \[True\]"),
        ({"model": "demo:math", "options": {"device": "cpu"}}, r"a member's options are {.*}; give LoadOptions"),
    ],
)
def test_a_member_of_the_wrong_types_is_refused(settings, message):
    with pytest.raises(InvalidEnsemble, match=message):
        Member(**settings)


def test_a_drafter_may_be_a_member_with_a_name_and_options_of_its_own(plugin):
    drafter = Member(model="table:1", name="quick", options=LoadOptions(dtype="bfloat16"))
    ensemble = Ensemble(["table:1", "table:2"], proposer=drafter, schedule="fixed", gamma=2)
    assert ensemble.names == ("1", "2", "quick")
    assert ensemble.runners[2] is not ensemble.runners[0]
    (result,) = ensemble.generate([[0]], SamplingParams(max_tokens=8, seed=1, ignore_eos=True))
    assert set(result.proposers) == {"quick"}
