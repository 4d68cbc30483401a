"""Options of `cospec serve` in the environment: the command line first, then the variable, then the default."""

import json
import re

import pytest
from typer.testing import CliRunner

from cospec.cli import _load, app, serve_run

from .test_process import Process


@pytest.fixture
def options(monkeypatch):
    """What the options come to: what is served, the settings, and the rest, for arguments and variables."""
    seen = {}

    def here(served, settings, options):
        seen.update(served=served, settings=settings, options=options)

    monkeypatch.setattr(serve_run, "serve_here", here)
    monkeypatch.setattr(serve_run, "serve_on_ray", here)

    def given(*arguments, **variables):
        seen.clear()
        ran = CliRunner().invoke(app, ["serve", *arguments], env=variables)
        assert ran.exit_code == 0, ran.output
        return seen

    return given


def flags():
    """Every option of `cospec serve`, with its variable."""
    return {max(param.opts, key=len): param for param in _load("serve").params if param.name != "help"}


def test_every_option_has_a_variable_of_its_name_and_help_shows_it():
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
    assert len(flags()) > 25
    shown = " ".join(shown.split())
    for flag, param in flags().items():
        assert param.envvar == "COSPEC_" + flag.removeprefix("--").replace("-", "_").upper()
        assert f"env var: {param.envvar}" in shown


def test_the_command_line_goes_before_the_environment_and_that_before_the_default(options):
    assert options()["options"].port == 8000
    assert options(COSPEC_PORT="7000")["options"].port == 7000
    assert options("--port", "6000", COSPEC_PORT="7000")["options"].port == 6000
    assert options(COSPEC_PORT="")["options"].port == 8000


def test_values_of_each_kind(options):
    seen = options(
        COSPEC_MAX_SEQUENCES="5",
        COSPEC_CONTEXT="100",
        COSPEC_RAY="true",
        COSPEC_REPLICAS="3",
        COSPEC_DTYPE="float32",
        COSPEC_SCHEDULE="fixed",
        COSPEC_GAMMA="1 3",
        COSPEC_WEIGHT="0.25 0.75",
        COSPEC_ORIGIN="https://a https://b",
        COSPEC_LOG_LEVEL="info",
        COSPEC_LOG_FORMAT="json",
        COSPEC_REPRODUCIBLE="1",
    )
    settings, (models,) = seen["settings"], seen["served"].values()
    assert (settings.max_sequences, settings.context, settings.origins) == (5, 100, ("https://a", "https://b"))
    assert (settings.log_level, settings.log_format) == ("info", "json")
    assert (seen["options"].use_ray, seen["options"].replicas) == (True, 3)
    assert (models.dtype, models.schedule, models.gamma, models.weights) == (
        "float32",
        "fixed",
        ["1", "3"],
        [0.25, 0.75],
    )
    assert models.reproducible is True


@pytest.mark.parametrize("written", ["a.yaml b.yaml", '["a.yaml", "b.yaml"]', " a.yaml\n b.yaml "])
def test_lists_of_ensembles(options, written):
    seen = options(COSPEC_ENSEMBLE=written)
    assert [*seen["served"]] == ["a.yaml", "b.yaml"]
    assert seen["settings"].model == "a.yaml"
    assert [*options("--ensemble", "c.yaml", COSPEC_ENSEMBLE=written)["served"]] == ["c.yaml"]
    named = options(COSPEC_ENSEMBLE=written, COSPEC_MODEL_NAME="one two")["served"]
    assert {name: own.ensemble for name, own in named.items()} == {"one": "a.yaml", "two": "b.yaml"}


def test_what_has_white_space_in_it_is_kept_whole(options):
    prompts = ["Be kind. {prompt}", "Be brief. {prompt}"]
    seen = options(COSPEC_MEMBER="m1 m2", COSPEC_MEMBER_PROMPT=json.dumps(prompts), COSPEC_API_KEY="one key")
    assert [own.member_prompts for own in seen["served"].values()] == [prompts]
    # Split, a part of it would do.
    assert seen["settings"].api_keys == ("one key",)
    seen = options(COSPEC_API_KEY='["one", "two"]', COSPEC_MEMBER="m", COSPEC_MEMBER_PROMPT="Be kind. {prompt}")
    assert seen["settings"].api_keys == ("one", "two")
    assert [own.member_prompts for own in seen["served"].values()] == [["Be kind. {prompt}"]]
    assert options(COSPEC_ENSEMBLE='["my file.yaml"]')["settings"].model == "my file.yaml"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("COSPEC_PORT", "many"),
        ("COSPEC_PORT", "70000"),
        ("COSPEC_MAX_BODY", "0"),
        ("COSPEC_RAY", "perhaps"),
        ("COSPEC_WEIGHT", "0.5,x"),
        ("COSPEC_ENSEMBLE", '["a.yaml"'),
        ("COSPEC_ENSEMBLE", "[1, 2]"),
        ("COSPEC_API_KEY", "[null]"),
    ],
)
def test_a_bad_value_names_its_variable(variable, value):
    ran = CliRunner().invoke(
        app, ["serve", "--port", "0"] if variable != "COSPEC_PORT" else ["serve"], env={variable: value}
    )
    assert ran.exit_code == 2
    assert variable in ran.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ensemble", "demo:we", "--ensemble", "demo:we"], "two ensembles are named 'demo:we'"),
        (["--ensemble", "demo:we", "--model-name", "a", "--model-name", "b"], "2 --model-name for 1 ensembles"),
        (["--ensemble", "demo:we", "--member", "demo:math"], "--member"),
        (["--log-level", "loud"], "log_level must be one of"),
    ],
)
def test_options_that_do_not_go_together(arguments, says):
    ran = CliRunner().invoke(app, ["serve", *arguments], env={"COLUMNS": "200"})
    assert ran.exit_code == 2
    assert says in re.sub(r"\s+", " ", ran.output)


def test_a_server_from_the_environment_alone_with_two_models_and_an_access_log(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("members: [demo:math, demo:general]\ncombine: {type: mixture, weights: [0.9, 0.1]}\n")
    variables = {
        "COSPEC_PORT": "0",
        "COSPEC_ENSEMBLE": f"demo:we {other}",
        "COSPEC_MODEL_NAME": "we other",
        "COSPEC_API_KEY": "given",
        "COSPEC_LOG_LEVEL": "info",
        "COSPEC_LOG_FORMAT": "json",
        "COSPEC_THREADS": "1",
    }
    with Process(ensemble=None, **variables) as served, served.client() as client:
        assert [model.id for model in client.models.list().data] == ["we", "other"]
        for name in ("we", "other"):
            client.completions.create(model=name, prompt="a very secret word", max_tokens=3)
        served.process.terminate()
        _, written = served.ended()
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    paths = [line["path"] for line in lines if line["logger"] == "cospec.access"]
    assert paths.count("/v1/completions") == 2
    assert "/health" in paths
    assert "secret" not in written
    assert "serving we, other at http://127.0.0.1:" in written
