"""Help texts, completion, and Ctrl-C at any moment: what every command has in common."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cospec import __version__
from cospec.cli import COMMANDS, app
from cospec.cli.help import wrapped

from .signals import hear_interrupts

EXTRAS = ("scipy", "jinja2", "matplotlib", "fastapi", "httpx", "uvicorn", "prometheus_client", "llguidance", "aiohttp")
WITHOUT_EXTRAS = f"""
import sys
sys.modules.update(dict.fromkeys({(*EXTRAS, "ray", "starlette", "anyio")!r}))
from cospec.cli import main
main()
"""


def shown(*arguments, width=80):
    result = CliRunner().invoke(app, [*arguments], env={"COLUMNS": str(width), "FORCE_COLOR": None})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_a_help_text_fits_and_leaves_no_word_alone(name, width):
    text = shown(*name.split(), "--help", width=width)
    for word in ("<bool>", "<str>", "<int", "<float>", "range>"):
        assert word not in text
    *lines, example = text.rstrip("\n").split("\n")
    assert example.startswith("Example: cospec ")
    assert all(len(line) <= width for line in lines)
    # A line that goes on from the one before has no more of its own than one word: an orphan.
    orphans = [line for line in lines if re.fullmatch(r" {12,}\S{1,24}", line)]
    assert orphans == []


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_asked_for_by_h_as_well(name):
    assert shown(*name.split(), "-h") == shown(*name.split(), "--help")


@given(st.text(alphabet="ab ,-/", max_size=200), st.integers(10, 60))
def test_wrapping_breaks_no_word_and_loses_none(text, width):
    lines = wrapped(text, width)
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or " " not in line for line in lines)
    if len(lines) > 1 and all(len(word) < width // 2 for word in text.split()):
        assert " " in lines[-1] or not any(" " in line for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_extra(name):
    """On an installation of the demo alone, every command says what it would do."""
    command = [sys.executable, "-c", WITHOUT_EXTRAS, name, "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"Usage: cospec {name}" in ended.stdout


def test_the_package_is_run_as_a_module():
    command = [sys.executable, "-m", "cospec", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"cospec {__version__}\n"


# Completion.


def complete(shell, words, **variables):
    env = os.environ | {
        "_COSPEC_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": words,
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        **variables,
    }
    command = [sys.executable, "-m", "cospec"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)


def completed(shell, words):
    return complete(shell, words).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_and_options(shell):
    assert "generate" in completed(shell, "cospec ge")
    assert "bench" not in completed(shell, "cospec ge")
    assert "--schedule" in completed(shell, "cospec generate --sched")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(shell):
    env = os.environ | {"_COSPEC_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-m", "cospec"]
    script = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert "_COSPEC_COMPLETE" in script
    assert "complete" in script


# Ctrl-C.


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        (("generate", "hello", "--max-tokens", "900", "--ignore-eos"), 1.0),
        (("bench",), 3.0),
        (("tune", "--json"), 1.0),
        (("verify",), 3.0),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_ctrl_c_ends_a_command_with_a_sentence_and_130(arguments, seconds, tmp_path):
    """While modules are imported, while models are loaded, or while it runs: whatever the moment hits."""
    with subprocess.Popen(
        [sys.executable, "-m", "cospec", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=hear_interrupts,
    ) as running:
        time.sleep(seconds)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=120)
    # A shell reports 130 for a process that ended by the signal itself, too.
    assert running.returncode in (130, -signal.SIGINT), stderr
    assert "interrupted; " in stderr
    assert "Traceback" not in stderr


# Help, errors and completion come at once: what decodes, serves or plots is imported by the work itself.

# Before the names of the modules that a process imported.
MARK = "imported:"
HEAVY = (
    *(
        "torch",
        "transformers",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "gguf",
        "peft",
        "llguidance",
        "accelerate",
    ),
    *("numpy", "scipy", "pandas", "numba", "matplotlib", "jinja2", "psutil", "ray", "lm_eval"),
    *("fastapi", "starlette", "uvicorn", "httpx", "prometheus_client", "asyncio"),
)
AT_ONCE = [
    ("--help",),
    ("--version",),
    ("nosuch",),
    *((name, "--help") for name in COMMANDS),
    *((name, "--nosuch") for name in COMMANDS),
    ("generate", "hello", "--temperature", "-1"),
    ("pilot", "compare", "--help"),
]


@pytest.mark.parametrize("arguments", AT_ONCE, ids=" ".join)
def test_what_needs_no_model_imports_nothing_heavy(arguments):
    code = f"import sys; from cospec.__main__ import main\ntry: main()\nfinally: print({MARK!r}, *sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    _, _, modules = ended.stdout.rpartition(MARK)
    assert "cospec" in modules.split(), ended.stderr
    assert {*HEAVY} & {*modules.split()} == set()


@pytest.mark.parametrize("words", ["cospec ge", "cospec generate --sched"])
def test_completion_imports_nothing_heavy(words, tmp_path):
    """Asked in the process that a shell starts: what it imported is written as it ends."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import atexit, sys\natexit.register(lambda: print({MARK!r}, *sys.modules, file=sys.stderr))"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    modules = complete("bash", words, PYTHONPATH=path).stderr.rpartition(MARK)[2]
    assert "cospec.cli" in modules.split()
    assert {*HEAVY} & {*modules.split()} == set()


def test_a_command_that_decodes_imports_what_it_needs_itself():
    """The list above is not of names that nothing here imports."""
    code = "import sys; import cospec.cli.generate_run, cospec.cli.serve_run; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "numpy"} <= {*modules}
