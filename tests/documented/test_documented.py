"""What the documents tell a reader to do is what can be done: each block runs, loads, or is listed with a reason."""

import json
import re
import shlex
import tomllib

import pytest
import typer
import yaml

from cospec import Ensemble
from cospec.cli import COMMANDS, app
from cospec.study.criteria import Criteria
from cospec.study.prices import Prices

from . import not_run
from .blocks import DOCUMENTS, ROOT, blocks_of, loose_commands_of, options_of
from .conftest import as_here
from .running import Reader

BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
LANGUAGES = {"sh", "python", "yaml", "json", "toml", "text"}


def first_of_each(blocks):
    """Without those whose code stands in an earlier document too: a translation has the same."""
    firsts = {}
    for block in blocks:
        firsts.setdefault(tuple(block.commands), block)
    return list(firsts.values())


def in_language(language):
    blocks = first_of_each(block for block in BLOCKS if block.language == language)
    return [block for block in blocks if (block.document, language) not in not_run.ELSEWHERE]


SHELL = in_language("sh")
IN_BLOCKS = {command for block in SHELL for command in block.commands}
LOOSE = sorted({each for document in DOCUMENTS for each in loose_commands_of(document)} - IN_BLOCKS)


def timed(block):
    """The block, marked where one of its commands takes long."""
    is_long = any(not_run.entry_for(command, not_run.LONG) for command in block.commands)
    return pytest.param(block, id=str(block), marks=[pytest.mark.long] if is_long else [])


@pytest.mark.parametrize("block", [timed(block) for block in SHELL])
def test_the_commands_of_a_block_run_as_they_stand(block, reader_folder):
    with Reader(reader_folder) as reader:
        for command in block.commands:
            run(reader, command)


@pytest.mark.parametrize("command", LOOSE)
def test_a_command_in_a_sentence_runs_as_it_stands(command, reader_folder):
    names = COMMANDS if "COMMAND" in command else [""]
    with Reader(reader_folder) as reader:
        for name in names:
            run(reader, command.replace("COMMAND", name))


def run(reader, command):
    """Run it, unless it is listed as one that no test can run; its options must exist in either case."""
    if not_run.entry_for(command, not_run.COMMANDS) is not None:
        check_options(command)
        return
    endless, key = (not_run.entry_for(command, table) for table in (not_run.ENDLESS, not_run.STATUSES))
    ran = reader.run(command, seconds=not_run.ENDLESS[endless] if endless else None)
    assert ran.status in (not_run.STATUSES[key] if key else (0,)), f"{command}\n{ran.output}"


def check_options(command):
    """Raises typer's NoSuchOption. What is left out (...) may be anything."""
    program, *words = (word for word in shlex.split(command.partition("<")[0]) if word != "...")
    if (program, *words[:1]) == ("docker", "run") and words[-1] != "cospec":
        # What the image is to run stands behind its name.
        program, *words = words[words.index("cospec") :]
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name=program)
    while program == "cospec" and isinstance(command, typer.core.TyperGroup) and words:
        if words[0].startswith("-"):
            break
        name, command, words = command.resolve_command(context, words)
        context = typer.Context(command, info_name=name, parent=context)
    if program == "cospec":
        command.make_parser(context).parse_args(words)


def test_the_examples_in_the_help_have_options_that_exist():
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="cospec")
    for command in (group, *(group.resolve_command(context, [name])[1] for name in COMMANDS)):
        check_options(command.epilog.removeprefix("Example: "))


def test_a_misspelt_option_of_a_command_that_is_not_run_is_found():
    with pytest.raises(Exception, match="--replica"):
        check_options("cospec serve --ray --replica 2")
    with pytest.raises(Exception, match="--prt"):
        check_options("docker run --rm -p 1:1 cospec serve --prt 1")
    with pytest.raises(Exception, match="--jsn"):
        check_options("cospec pilot compare a b --jsn")


@pytest.mark.parametrize("block", in_language("yaml"), ids=str)
def test_a_file_is_read_as_what_it_is(block, reader_folder):
    path = reader_folder / "shown.yaml"
    path.write_text(as_here(block.text), encoding="utf-8")
    keys = set(yaml.safe_load(block.text))
    if "members" in keys:
        assert Ensemble.load(path).names
    elif keys <= set(Criteria.__dataclass_fields__):
        assert Criteria.load(path)
    else:
        assert Prices.load(path)


def test_python_runs_and_prints_what_stands_below_it(reader_folder):
    with Reader(reader_folder) as reader:
        for block in in_language("python"):
            if ":8000" in block.text:
                # A client, below the command that starts its server.
                assert reader.run("cospec serve --ensemble demo:we").status == 0
            (reader_folder / "shown.py").write_text(reader.at_port(block.text), encoding="utf-8")
            ran = reader.run("python shown.py")
            assert ran.status == 0, f"{block}\n{ran.output}"
            assert block.printed in (None, ran.output), block


def test_data_can_be_read():
    for block in in_language("json") + in_language("toml"):
        {"json": json.loads, "toml": tomllib.loads}[block.language](block.text)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_it_is(document):
    assert not [str(block) for block in blocks_of(document) if block.language not in LANGUAGES]


def test_nothing_is_listed_that_is_not_in_the_documents():
    commands = IN_BLOCKS | set(LOOSE)
    for table in (not_run.COMMANDS, not_run.STATUSES, not_run.LONG, not_run.ENDLESS):
        found = {not_run.entry_for(command, table) for command in commands}
        assert set(table) == found - {None}
    assert {(block.document, block.language) for block in BLOCKS} >= set(not_run.ELSEWHERE)
    assert set().union(*map(options_of, DOCUMENTS)) >= not_run.FOREIGN_OPTIONS


def test_the_tests_that_are_named_in_a_reason_are_there():
    named = {path for why in not_run.COMMANDS.values() for path in re.findall(r"tests/[\w/]+\.py", why)}
    assert named
    assert all((ROOT / path).is_file() for path in {*named, *not_run.ELSEWHERE.values()})


def options_that_there_are():
    """Of cospec's commands, and of the scripts beside the package."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="cospec")
    found = {"--help", "--install-completion", "--show-completion"}
    waiting = [group, *(group.resolve_command(context, [name])[1] for name in COMMANDS)]
    while waiting:
        command = waiting.pop()
        found.update(option for param in command.params for option in (*param.opts, *param.secondary_opts))
        if command is not group:
            waiting += getattr(command, "commands", {}).values()
    scripts = (*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "training").glob("*.py"), ROOT / "examples" / "client.py")
    for script in scripts:
        found.update(re.findall(r"add_argument\(\s*\"(--[a-z0-9-]+)\"", script.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_options_that_a_document_names_exist(document):
    historic = {"--prompts"} if document == "benchmarks/README.md" else set()
    assert not options_of(document) - options_that_there_are() - not_run.FOREIGN_OPTIONS - historic


def test_both_languages_of_the_readme_show_the_same_commands():
    english, japanese = (
        [tuple(block.commands) for block in blocks_of(name) if block.language in ("sh", "yaml")]
        for name in ("README.md", "README.ja.md")
    )
    assert english == japanese
    assert loose_commands_of("README.md") == loose_commands_of("README.ja.md")
    assert options_of("README.ja.md") - {"--language"} == options_of("README.md")
