"""The Dockerfile and the compose file are valid, and what they name is there."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import typer
import yaml

from cospec.cli import app

from .documented.running import Reader

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
INSTRUCTIONS = [
    line.split(None, 1)
    for line in re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    if line and not line.startswith("#")
]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def arguments(instruction):
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def variables():
    """Those of cospec that the image or compose sets."""
    own = {word.partition("=")[0] for line in arguments("ENV") for word in shlex.split(line)}
    own |= {name for service in COMPOSE["services"].values() for name in service["environment"]}
    return {name for name in own if name.startswith("COSPEC_")}


def run(*command):
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_hadolint_finds_nothing():
    run(BIN / "hadolint", "Dockerfile")


def test_compose_s_schema_holds():
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_what_is_copied_is_there_and_not_ignored():
    copied = {name for line in arguments("COPY") if "--from" not in line for name in shlex.split(line)[:-1]}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


def test_the_extras_are_the_package_s():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (default,) = (line.removeprefix("EXTRAS=") for line in arguments("ARG") if line.startswith("EXTRAS="))
    assert set(default.split(",")) <= set(extras)


def test_the_command_and_the_variables_are_those_of_serve():
    (entry,), (default,) = (map(json.loads, arguments(name)) for name in ("ENTRYPOINT", "CMD"))
    assert [*entry, *default] == ["cospec", "serve"]
    group = typer.main.get_command(app)
    _, serve, _ = group.resolve_command(typer.Context(group, info_name="cospec"), default)
    options = {option for param in serve.params for option in param.opts}
    assert variables() >= {"COSPEC_HOST", "COSPEC_PORT", "COSPEC_ENSEMBLE", "COSPEC_API_KEY"}
    assert {f"--{name.removeprefix('COSPEC_').lower().replace('_', '-')}" for name in variables()} <= options


def test_the_image_s_user_is_not_root_and_owns_the_volume():
    assert arguments("USER")[-1].isdigit()
    assert int(arguments("USER")[-1]) > 0
    (volume,) = arguments("VOLUME")
    assert any(f"install -d -o cospec {volume}" in line for line in arguments("RUN"))
    for service in COMPOSE["services"].values():
        assert any(mounted.endswith(f":{volume}") for mounted in service["volumes"])


def probe(port):
    """The exit status of the image's own check of its health."""
    (check,) = arguments("HEALTHCHECK")
    program, *words = json.loads(check[check.index("[") :])
    assert program == "python"
    ran = subprocess.run([sys.executable, *words], env=os.environ | {"COSPEC_PORT": str(port)}, capture_output=True)
    return ran.returncode


def test_the_image_s_command_serves_by_its_variables_and_its_check_of_health_passes(tmp_path):
    own = [word for line in arguments("ENV") for word in shlex.split(line) if word.startswith("COSPEC_")]
    command = [word for name in ("ENTRYPOINT", "CMD") for word in json.loads(arguments(name)[0])]
    with Reader(tmp_path) as reader:
        ran = reader.run(shlex.join([*own, *command]))
        assert ran.status == 0, ran.output
        assert probe(reader.port) == 0
    assert probe(reader.port) == 1
