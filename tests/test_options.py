"""Options of loading and of how much decodes at once: on the command line, in files and in Python, checked alike."""

import json
import re
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from cospec import Ensemble, InvalidEnsemble, Member
from cospec.cli import _load, app
from cospec.cli.options import EnsembleOptions, LocalOptions, as_quantization
from cospec.members import load_runners
from cospec.runner import LoadOptions
from cospec.runner.options import quantization_of

from .models import saved

LOADING = {"--dtype", "--device", "--quantization", "--revision", "--trust-remote-code", "--allow-pickle"}
AT_ONCE = {"--max-sequences", "--threads"}
# bench decodes at numbers of sequences of its own, --concurrency.
COMMANDS = {
    "generate": AT_ONCE, "batch": AT_ONCE, "serve": AT_ONCE, "tune": AT_ONCE, "verify": AT_ONCE,
    "bench": {"--threads"}, "pilot": AT_ONCE,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    return saved(tmp_path / "model", num_entries=120)


def run(*args: str) -> str:
    """What a command that fails prints, as one line."""
    result = CliRunner().invoke(app, [*args], env={"COLUMNS": "10000"})
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_loads_models_has_the_options_of_loading_once(name):
    flags = [flag for each in _load(name).params for flag in each.opts if isinstance(each, typer.core.TyperOption)]
    assert len(flags) == len(set(flags))
    assert set(flags) >= LOADING | COMMANDS[name]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["generate", "serve"])
def test_help_leaves_no_word_alone_and_shows_no_type_of_a_flag(name, width):
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": str(width), "FORCE_COLOR": None}).output
    assert all(f"--{flag}" in shown for flag in ("quantization", "revision", "allow-pickle", "max-sequences"))
    assert "<bool>" not in shown
    # A line that goes on has more than its indentation and one word.
    assert re.findall(r"^ {6,}(?!--)\S+$", shown, flags=re.MULTILINE) == []


@pytest.mark.parametrize(("flag", "told"), [("--reproducible", "float32"), ("--seed", "float32")])
def test_help_says_where_equal_seeds_give_equal_texts(flag, told):
    shown = CliRunner().invoke(app, ["generate", "--help"], env={"COLUMNS": "200", "FORCE_COLOR": None}).output
    (text,) = re.findall(rf"^ +{flag}\b.*(?:\n {{20,}}.*)*", shown, flags=re.MULTILINE)
    assert told in text
    assert "bfloat16" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("4bit", "4bit"),
        ("{load_in_4bit: true}", {"load_in_4bit": True}),
        ('{"quant_method": "quanto", "weights": "int8"}', {"quant_method": "quanto", "weights": "int8"}),
    ],
)
def test_quantisation_is_a_name_or_keys_and_values(text, expected):
    assert as_quantization(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int3", "quantization 'int3' is not known; use 4bit, 8bit, or keys and values"),
        ("4", "quantization 4 is not known; use 4bit"),
        ("[4bit]", r"quantization \['4bit'\] is not known"),
        ("{a: ", "--quantization is 4bit, 8bit or YAML, got '{a: ': "),
        # Which of the two are missing depends on what else is installed.
        ("4bit", r"model' is quantised by bitsandbytes, for which bitsandbytes( and accelerate)? must be installed"),
        ("{quant_method: gptq}", "is quantised by gptq, for which optimum and gptqmodel must be installed"),
        ("{quant_method: novel}", "is quantised by 'novel', which transformers does not know; it knows aqlm, "),
    ],
)
def test_quantisation_that_cannot_be_had_is_refused(folder, text, message):
    assert re.search(message, run("generate", "x", "--member", str(folder), "--quantization", text))


def test_a_revision_of_a_folder_is_refused(folder):
    told = run("generate", "x", "--member", str(folder), "--revision", "v1")
    assert "revision 'v1' was given for" in told
    assert "revision 'v1' was given for" in run("generate", "x", "--ensemble", "demo:we", "--revision", "v1")


def test_pickles_are_read_with_the_flag_alone(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    args = ["generate", "w2", "--member", str(folder), "--max-tokens", "2"]
    assert "--allow-pickle" in run(*args)
    result = CliRunner().invoke(app, [*args, "--allow-pickle"])
    assert result.exit_code == 0, result.output


def test_threads_and_sequences_at_once_are_set(folder):
    before = torch.get_num_threads()
    try:
        options = LocalOptions(members=[str(folder)], max_sequences=3, threads=before + 1)
        assert options.build().max_sequences == 3
        assert torch.get_num_threads() == before + 1
        assert EnsembleOptions(members=[str(folder)]).build().max_sequences == 32
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allow_pickle": "no"}, "allow_pickle must be true or false, got 'no'"),
        ({"trust_remote_code": 1}, "trust_remote_code must be true or false, got 1"),
        ({"trust_remote_code": None}, "trust_remote_code must be true or false, got None"),
        ({"device": ["cpu", "cpu"]}, r"device \['cpu', 'cpu'\] is not known; use cpu"),
        ({"device": 3}, "device 3 is not known"),
        ({"dtype": 32}, "dtype 32 is not known"),
        ({"dtype": None}, "dtype None is not known"),
        ({"quantization": "int3"}, "quantization 'int3' is not known"),
        ({"quantization": None}, "quantization None is not known"),
        ({"quantization": ["4bit"]}, "quantization .* is not known"),
        ({"revision": 3}, "revision must be a branch, tag or commit of the hub, got 3"),
        ({"revision": ""}, "revision must be a branch, tag or commit"),
        ({"graphs": "yes"}, "graphs 'yes' is not known"),
        ({"graphs": []}, r"graphs \[\] is not known"),
    ],
)
def test_options_of_the_wrong_type_are_refused(settings, message):
    with pytest.raises(InvalidEnsemble, match=message):
        LoadOptions(**settings)


def test_names_of_quantisation_are_what_transformers_calls_them():
    assert quantization_of(LoadOptions(quantization="4bit")) == {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert quantization_of(LoadOptions(quantization="8bit")) == {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert quantization_of(LoadOptions()) == {}


def test_a_file_may_give_each_member_a_revision_and_a_quantisation(tmp_path, folder):
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"members": [{"model": "./model", "revision": "v1"}]}))
    with pytest.raises(Exception, match=r"revision 'v1' was given for '.*model'"):
        Ensemble.load(file)
    file.write_text(json.dumps({"members": ["./model"], "quantization": "8bit"}))
    with pytest.raises(Exception, match="is quantised by bitsandbytes"):
        Ensemble.load(file)


def test_what_is_loaded_once_is_told_apart_by_its_options(folder):
    members = [Member(model=folder), Member(model=folder, options=LoadOptions(dtype="bfloat16")), Member(model=folder)]
    first, second, third = load_runners(members)
    assert first is third
    assert first is not second
