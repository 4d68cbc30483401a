"""The JSON schema of ensemble files, the documents made of it, and the reader, which refuse the same."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from cospec import CospecError, Ensemble, demo
from cospec.cli import app
from cospec.core import combine
from cospec.files import EnsembleSettings, MemberSettings, _read, ensemble_schema
from cospec.plugins import Registry

from .properties import examples
from .values import JSON, TEXTS, message_of

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "ensembles.md"
BEGIN, END = "<!-- begin: cospec schema --markdown -->\n", "<!-- end -->"
SCHEMA = ensemble_schema()
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def is_allowed(value: object) -> bool:
    return Draft202012Validator(SCHEMA).is_valid(value)


def printed(*options: str) -> str:
    done = CliRunner().invoke(app, ["schema", *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_prints_a_json_schema():
    found = json.loads(printed())
    assert found == json.loads(json.dumps(SCHEMA))
    Draft202012Validator.check_schema(found)


def test_the_tables_in_the_document_are_what_the_schema_says():
    """To renew them: the output of `cospec schema --markdown` between the two comments."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == printed("--markdown")


def test_every_key_is_described_with_a_type_a_default_and_an_example_that_is_allowed():
    known = {**SCHEMA["properties"], **SCHEMA["$defs"]["MemberSettings"]["properties"]}
    assert set(known) == {*EnsembleSettings.__annotations__, *MemberSettings.__annotations__}
    table = DOCUMENT.read_text(encoding="utf-8")
    for key, value in known.items():
        assert re.search(rf"^\| `{key}` \| ", table, re.MULTILINE)
        assert value["description"]
        whole = {"members": ["demo:math"]}
        own = {key: value["examples"][0]}
        if key in SCHEMA["properties"]:
            assert is_allowed(whole | own), key
        if key in MemberSettings.__annotations__:
            assert is_allowed({"members": [{"model": "a"} | own]}), key


@pytest.mark.parametrize("name", demo.ensembles())
def test_bundled_ensembles_are_allowed(name):
    assert is_allowed(yaml.safe_load(demo.ensemble_path(name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("block", BLOCKS)
def test_the_document_s_examples_are_allowed_and_load(tmp_path, block):
    assert is_allowed(yaml.safe_load(block))
    path = tmp_path / "mine.yaml"
    path.write_text(block, encoding="utf-8")
    assert Ensemble.load(path).names


def test_readme_s_example_is_allowed():
    (block,) = re.findall(
        r"```yaml\n(# mine\.yaml\n.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert is_allowed(yaml.safe_load(block))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"members": []},
        {"members": ["a"], "gama": 2},
        {"members": ["a"], "gamma": 0},
        {"members": ["a"], "combine": {"type": "contrastive", "weights": [1, 1]}},
        {"members": ["a"], "combine": {"mu": 0.1}},
        {"members": ["a"], "combine": {"type": "guided", "scale": "1"}},
        {"members": ["a"], "schedule": "alternat"},
        {"members": [{"name": "a"}]},
        {"members": ["a"], "proposer": {"model": 3}},
    ],
)
def test_what_is_wrong_is_refused_by_both(tmp_path, value):
    assert not is_allowed(value)
    assert message_of(lambda: Ensemble.load(written(tmp_path, value)))


def written(folder: Path, value: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(value, default_style='"'), encoding="utf-8")
    return path


# Numbers without a fraction are whole to a schema, written 1.0 or 1; names are held against lists when they are used.
VALUES = JSON.filter(lambda value: "." not in (text := json.dumps(value)) and "e+" not in text and "N" not in text)
NAMED = ("schedule", "verification", "dtype")


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(key=st.sampled_from(sorted(EnsembleSettings.__annotations__)) | TEXTS, value=VALUES)
def test_schema_and_reader_refuse_the_same_of_a_file(tmp_path, key, value):
    assume(not (key in NAMED and isinstance(value, str)))
    whole = {"members": ["a", "b"]} | {key: value}
    is_read = message_of(lambda: _read(written(tmp_path, whole))) is None
    assert is_read == is_allowed(whole)


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(key=st.sampled_from(sorted(MemberSettings.__annotations__)) | TEXTS, value=VALUES, is_proposer=st.booleans())
def test_schema_and_reader_refuse_the_same_of_a_model(tmp_path, key, value, is_proposer):
    assume(not (key in NAMED and isinstance(value, str)))
    entry = {"model": "a"} | {key: value}
    whole = {"members": ["a"], "proposer": entry} if is_proposer else {"members": [entry]}
    is_read = message_of(lambda: _read(written(tmp_path, whole))) is None
    assert is_read == is_allowed(whole)


@pytest.mark.parametrize("key", NAMED)
@given(value=TEXTS)
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_name_that_the_schema_does_not_list_is_refused_when_it_is_used(tmp_path, key, value):
    whole = {"members": ["demo:math", "demo:general"]} | {key: value}
    message = message_of(lambda: Ensemble.load(written(tmp_path, whole)))
    assert is_allowed(whole) == (message is None or ("unknown" not in message and "is not known" not in message))


PLUGIN = """
from collections.abc import Sequence

class Power:
    '''r proportional to (sum_i w_i p_i)^alpha.

    More of it.
    '''
    name = "power"

    def __init__(self, weights: Sequence[float], alpha: float = 2.0, tables: "Missing" = None):
        self.weights = weights

    def check(self, num_members): ...

    def log_probs(self, logits): ...
"""


def test_the_combinations_of_installed_packages_are_in_it(tmp_path, monkeypatch):
    (tmp_path / "power_plugin.py").write_text(PLUGIN)
    info = tmp_path / "power_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: power-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cospec.combinations]\npower = power_plugin:Power\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = combine.COMBINATIONS
    monkeypatch.setattr(combine, "COMBINATIONS", Registry(own.kind, own._own, own._group))
    schema = ensemble_schema()
    (part,) = [each for each in schema["properties"]["combine"]["anyOf"] if "power" in str(each.get("properties"))]
    assert part["description"] == "r proportional to (sum_i w_i p_i)^alpha."
    assert part["properties"]["alpha"]["type"] == "number"
    right = {"members": ["a", "b"], "combine": {"type": "power", "weights": [1, 2], "alpha": 3}}
    wrong = {"members": ["a", "b"], "combine": {"type": "power", "alpha": "3"}}
    check = Draft202012Validator(schema)
    assert (check.is_valid(right), check.is_valid(wrong)) == (True, False)
    _read(written(tmp_path, right))
    with pytest.raises(CospecError, match=r"combine\.alpha: want a number, got '3'"):
        _read(written(tmp_path, wrong))
    assert "`alpha`: number, 2.0 by default" in printed("--markdown")
    del sys.modules["power_plugin"]
