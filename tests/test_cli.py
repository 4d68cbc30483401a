"""The command line, run on tiny models on disk."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cospec import SamplingParams, __version__, demo
from cospec.cli import COMMANDS, app
from cospec.cli.options import SAMPLING
from cospec.cli.records import Records
from cospec.cli.sinks import Screen
from cospec.core.engine import Engine
from cospec.core.spelling import TokenSpeller
from cospec.core.tokens import Token
from cospec.schedule import schedule_names

from .cli_models import CONTEXT, write_models
from .processes import cospec
from .toys import Letters

TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "NO_COLOR": None, "COLUMNS": "200"}
PIPE = {"FORCE_COLOR": None, "COLUMNS": "200"}
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")

Run = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def run(folder: Path) -> Run:
    """Calls the app; members are named by their letter."""

    def call(
        *args: str, members: str = "ab", env: dict[str, str | None] = PIPE, input: str | bytes | None = None
    ) -> Any:
        chosen = [part for name in members for part in ("--member", str(folder / name))]
        return CliRunner().invoke(app, [*args, *chosen], env=env, input=input)

    return call


@pytest.fixture
def generate(run: Run) -> Run:
    """`generate` of 12 tokens that no end token cuts short."""

    def call(*args: str, **more: Any) -> Any:
        return run("generate", "--seed", "1", "--max-tokens", "12", "--ignore-eos", *args, **more)

    return call


def object_of(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


# Output of one text.


def test_json_is_one_object_with_all_that_a_program_wants(generate: Run) -> None:
    found = object_of(generate("hello", "--schedule", "alternate", "--json"))
    assert found["finish_reason"] == "length"
    assert found["schedule"] == "alternate"
    assert len(found["token_ids"]) == found["completion_tokens"] == 12
    assert found["prompt_tokens"] > 0
    assert found["seconds"] > 0
    assert set(found["members"]) == {"a", "b"}
    assert set(found["members"]["a"]) >= {"calls", "tokens_fed", "seconds"}
    assert all(set(each) >= {"proposed", "accepted"} for each in found["proposers"].values())


def test_a_pipe_gets_the_text_and_nothing_else(generate: Run) -> None:
    arguments = ("hello", "--schedule", "fixed", "--gamma", "3")
    piped = generate(*arguments)
    assert piped.exit_code == 0
    assert piped.stdout_bytes.decode() == object_of(generate(*arguments, "--json"))["text"] + "\n"


def test_a_prompt_may_be_given_as_token_ids(generate: Run, tmp_path: Path) -> None:
    file = tmp_path / "ids.jsonl"
    file.write_text('{"prompt": [5, 6, 7], "id": "x"}\n[5, 6, 7]\n"hello"\n')
    alone = object_of(generate("--token-ids", "5,6,7", "--json"))
    assert alone["prompt_tokens"] == 3
    found = lines_of(generate("--prompts", str(file), "--json").stdout)
    assert [line["text"] for line in found[:2]] == [alone["text"]] * 2
    assert found[0]["id"] == "x"
    assert object_of(generate("--token-ids", "[5, 6, 7]", "--json"))["text"] == alone["text"]
    for ids, message in (("5,x", "must be whole numbers such as"), ("", "must be"), ("99999", "99999")):
        check_refused(generate("--token-ids", ids), message)
    check_refused(generate("hello", "--token-ids", "5"), "one of the two")


def test_log_probabilities_are_a_table_and_in_json_have_their_texts(generate: Run) -> None:
    found = object_of(generate("hello", "--logprobs", "2", "--json"))
    first = found["logprobs"][0]
    whole = [entry["text"] for entry in found["logprobs"] if not entry["text"].startswith("bytes:")]
    assert whole
    assert all(text in found["text"] for text in whole)
    assert len(first["top_texts"]) == len(first["top"]) == 2
    shown = generate("hello", "--logprobs", "2").stdout
    assert shown.startswith(found["text"] + "\n")
    table = shown[len(found["text"]) + 1 :].splitlines()
    assert table[0].split()[:2] == ["token", "log-probability"]
    assert len(table) == 2 + 12
    assert table[2].split()[-1] == f"{first['top'][1][1]:.3f}"
    assert len(generate("hello", "--logprobs", "0", "--n", "2").stdout.split("log-probability")) == 3


def test_end_tokens_and_parts_of_characters_are_spelled(generate: Run) -> None:
    """Token 0 is the end token, and 95 a byte that is no whole character."""
    for token, spelled in ((0, "<|endoftext|>"), (95, r"bytes:\xa1")):
        options = (
            "hello",
            "--max-tokens",
            "1",
            "--logprobs",
            "1",
            "--temperature",
            "0",
            "--logit-bias",
            f"{token}=100",
        )
        (entry,) = object_of(generate(*options, "--json"))["logprobs"]
        assert entry["token"] == token
        assert entry["text"] == spelled
        assert repr(spelled) in generate(*options).stdout


def test_an_answer_that_the_context_cut_says_so(generate: Run) -> None:
    arguments = ("the " * (CONTEXT // 2 - 20), "--max-tokens", str(CONTEXT))
    found = generate(*arguments, "--json")
    assert json.loads(found.stdout)["finish_reason"] == "context"
    assert "the answer was cut by the members' context, before --max-tokens 512" in found.stderr
    assert "cut by" not in generate("hello").stderr


@pytest.mark.parametrize("env", [{**TERMINAL, "NO_COLOR": "1"}, {**TERMINAL, "TERM": "dumb"}])
def test_there_is_no_legend_of_colours_where_there_are_none(generate: Run, env: dict[str, str | None]) -> None:
    shown = generate("hello", "--schedule", "alternate", env=env)
    assert shown.exit_code == 0
    assert "proposed by" not in shown.stdout


def test_the_closing_line_says_speed_calls_and_acceptance(generate: Run) -> None:
    line = generate("hello", "--schedule", "alternate").stderr.splitlines()[-1]
    assert re.search(r"12 tokens in [\d.]+ s: [\d.]+ tokens/s; calls: a \d+, b \d+;", line)
    rates = re.findall(r"(\d+)/(\d+) = ([\d.]+)", line.split("accepted/proposed: ")[1])
    assert rates
    assert all(float(rate) == round(int(accepted) / int(proposed), 2) for accepted, proposed, rate in rates)


def test_a_terminal_shows_the_same_text_in_colours_with_a_legend(generate: Run) -> None:
    arguments = ("hello", "--schedule", "alternate", "--max-tokens", "40")
    shown = generate(*arguments, env=TERMINAL).stdout_bytes.decode()
    bare = ANSI.sub("", shown)
    text = object_of(generate(*arguments, "--json"))["text"]
    assert bare.startswith(text)
    assert bare[len(text) :] == "\nproposed by a, b, nobody (drawn from r); in place of a rejected draft\n"
    assert "\x1b[36m" in shown
    assert "\x1b[35m" in shown
    assert "\x1b[4m" in shown


@pytest.mark.parametrize(("extra", "env"), [((), PIPE), (("--plain-text",), TERMINAL)])
def test_there_are_no_colours_in_a_pipe_or_when_plain_text_is_asked_for(
    generate: Run, extra: tuple[str, ...], env: dict[str, str | None]
) -> None:
    shown = generate("hello", "--schedule", "alternate", *extra, env=env)
    assert not ANSI.search(shown.stdout)
    assert "proposed by" not in shown.stdout


def test_a_drafter_that_is_no_member_has_its_own_colour_and_counts(generate: Run, folder: Path) -> None:
    arguments = ("hello", "--schedule", "fixed", "--proposer", str(folder / "c"))
    found = object_of(generate(*arguments, "--json"))
    assert set(found["drafters"]) == set(found["proposers"]) == {"c"}
    assert "a, b, c, nobody" in ANSI.sub("", generate(*arguments, env=TERMINAL).stdout)


def test_the_prompt_comes_from_standard_input_as_it_is(generate: Run) -> None:
    given = object_of(generate("two\nlines\n", "--json"))
    assert object_of(generate("-", "--json", input="two\nlines\n"))["text"] == given["text"]


def test_samples_are_shown_one_after_the_other(generate: Run) -> None:
    found = object_of(generate("hello", "--n", "3", "--json"))
    texts = [sample["text"] for sample in found["samples"]]
    assert [sample["index"] for sample in found["samples"]] == [0, 1, 2]
    assert found["text"] == texts[0]
    expected = "".join(f"== sample {number} ==\n{text}\n" for number, text in enumerate(texts, start=1))
    assert generate("hello", "--n", "3").stdout_bytes.decode() == expected


def test_a_log_probability_of_minus_infinity_is_null_in_json(generate: Run) -> None:
    masked = ("--combine", "contrastive", "--mu", "0.5", "--plausibility", "1")
    found = object_of(generate("hello", *masked, "--logprobs", "3", "--json"))
    assert len(found["logprobs"]) == 12
    assert [value for _, value in found["logprobs"][0]["top"]] == [0.0, None, None]


# What a run can be told.


def test_reproducible_text_depends_on_the_seed_alone(generate: Run) -> None:
    plans = [("plain",), ("alternate",), ("fixed", "--gamma", "5")]
    texts = {object_of(generate("hello", "--reproducible", "--json", "--schedule", *plan))["text"] for plan in plans}
    assert len(texts) == 1


def test_every_sampling_option_reaches_the_decoder(generate: Run) -> None:
    greedy = object_of(generate("hello", "--temperature", "0", "--json"))
    assert object_of(generate("hello", "--top-k", "1", "--json"))["token_ids"] == greedy["token_ids"]
    first = greedy["token_ids"][0]
    assert (
        object_of(generate("hello", "--top-k", "1", "--json", "--stop-token-id", str(first)))["completion_tokens"] == 1
    )
    forbidden = object_of(generate("hello", "--temperature", "0", "--json", "--logit-bias", f"{first}=-inf"))
    assert first not in forbidden["token_ids"]


def test_every_sampling_parameter_but_a_few_is_an_option() -> None:
    in_python_only = {"member_temperature", "member_top_p", "prompt_logprobs", "constraint"}
    assert {*SAMPLING, "logit_bias"} == {entry.name for entry in fields(SamplingParams)} - in_python_only


def test_an_ensemble_file_is_read_and_options_override_it(run: Run, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "pair.yaml"
    file.write_text(f"members: [{folder / 'a'}, {folder / 'b'}]\nschedule: plain\ndtype: float32\n")
    call = ("generate", "hello", "--ensemble", str(file), "--max-tokens", "2", "--seed", "1", "--json")
    assert object_of(run(*call, members=""))["schedule"] == "plain"
    assert object_of(run(*call, "--schedule", "fixed", members=""))["schedule"] == "fixed"
    assert object_of(run(*call, "--weight", "0.3", "--weight", "0.7", members=""))["schedule"] == "plain"
    wrong = run(*call, "--weight", "0.3", "--weight", "0.3", members="")
    assert "sum to 0.6" in wrong.stderr


def test_members_may_have_their_own_prompts(generate: Run) -> None:
    guided = ("--combine", "guided", "--scale", "2", "--member-prompt", "{prompt}", "--member-prompt", "the")
    found = object_of(generate("hello there", *guided, "--json", members="aa"))
    assert set(found["members"]) == {"a", "a-2"}
    assert found["text"] != object_of(generate("hello there", "--json", members="a"))["text"]


# Many prompts.


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"first"\n{"prompt": "second", "id": "x7", "answer": 4}\n\n"third"\n')
    return file


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_prompts_of_a_file_give_a_json_line_each_in_their_order(generate: Run, prompts: Path) -> None:
    found = lines_of(generate("--prompts", str(prompts), "--json").stdout)
    assert [line["index"] for line in found] == [0, 1, 2]
    assert [line.get("id") for line in found] == [None, "x7", None]
    assert found[1]["text"] == object_of(generate("second", "--json"))["text"]


def test_prompts_of_a_file_are_shown_under_headers(generate: Run, prompts: Path) -> None:
    texts = [line["text"] for line in lines_of(generate("--prompts", str(prompts), "--json").stdout)]
    expected = "".join(f"== prompt {number} ==\n{text}\n" for number, text in enumerate(texts, start=1))
    assert generate("--prompts", str(prompts)).stdout_bytes.decode() == expected


def test_a_progress_bar_is_shown_on_a_terminal_only(generate: Run, prompts: Path) -> None:
    shown = generate("--prompts", str(prompts), env=TERMINAL)
    assert "3/3" in shown.output
    assert "== prompt 3 ==" in shown.stdout
    assert "3/3" not in generate("--prompts", str(prompts)).output


def test_a_run_into_a_file_goes_on_where_it_was_stopped(generate: Run, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    call = ("--prompts", str(prompts), "--out", str(out))
    first = generate(*call)
    assert first.exit_code == 0
    assert first.stdout == ""
    whole = sorted(lines_of(out.read_text()), key=lambda line: line["index"])
    assert [line["index"] for line in whole] == [0, 1, 2]
    # The last line is one that a killed run left half written.
    out.write_text("".join(json.dumps(line) + "\n" for line in (whole[2], whole[0])) + '{"index": 1, "te')
    again = generate(*call)
    assert "has 2 of 3 prompts" in again.stderr
    assert [line["index"] for line in lines_of(out.read_text())] == [2, 0, 1]
    assert lines_of(out.read_text())[2]["token_ids"] == whole[1]["token_ids"]
    assert lines_of(out.read_text())[2]["id"] == "x7"
    assert generate(*call).exit_code == 0
    assert len(lines_of(out.read_text())) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"fine"\n{"prompt": 3}\n', ":2: give a JSON string, or an object"),
        (b'"fine"\n\n{"promt": "x"}\n', ":3: give a JSON string, or an object"),
        (b"plain words\n", ":1: not JSON"),
        (b'"fine"\n"\\ud800"\n', ":2: the prompt is not valid Unicode"),
        (b'"fine"\n""\n', ":2: the prompt is empty"),
        (b"\n\n", "holds no prompts"),
        (b'"\xff"\n', "is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_before_anything_runs(generate: Run, tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    out = tmp_path / "out.jsonl"
    result = generate("--prompts", str(file), "--out", str(out))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not out.exists()


def test_a_results_file_of_other_prompts_is_refused(generate: Run, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text('{"index": 8}\n')
    result = generate("--prompts", str(prompts), "--out", str(out))
    assert result.exit_code == 2
    assert "out.jsonl:1 is no result of these 3 prompts" in result.stderr


# Mistakes.

MISTAKES = [
    (("--schedule", "alternat"), "did you mean 'alternate'?"),
    (("--combine", "mixtur"), "did you mean 'mixture'?"),
    (("--verification", "tokens"), "did you mean 'token'?"),
    (("--weight", "0.5", "--weight", "0.6"), "sum to 1.1; a mixture's must sum to 1: [0.4545, 0.5455]"),
    (("--weight", "0.2", "--weight", "0.3", "--weight", "0.5"), "3 weights [0.2, 0.3, 0.5] for 2 members"),
    (("--weight", "1"), "1 weights [1.0] for 2 members"),
    (("--combine", "contrastive", "--weight", "1"), "--weight has no meaning for contrastive"),
    (("--scale", "2"), "--scale has no meaning for mixture; it goes with guided"),
    (("--temperature", "-1"), "temperature must be a finite number >= 0, got -1.0"),
    (("--temperature", "nan"), "temperature must be a finite number >= 0, got nan"),
    (("--temperature", "warm"), "Invalid value for '--temperature'"),
    (("--n", "0"), "n must be a whole number >= 1"),
    (("--logit-bias", "many"), "--logit-bias must be ID=BIAS"),
    (("--logit-bias", "9999=1"), "token id 9999"),
    (("--gamma", "0", "--schedule", "fixed"), "gamma must be a whole number >= 1, got 0"),
    (("--schedule", "mixture", "--combine", "contrastive"), "contrastive; use alternate or auto"),
    (("--schedule", "mixture", "--top-p", "0.9"), "needs r untouched"),
    (("--schedule", "mixture", "--reproducible"), "coupled verification cannot be had"),
    (("--reproducible", "--verification", "block"), "--reproducible is --verification coupled"),
    (("--proposer", "d"), "unknown proposer 'd'"),
    (("--dtype", "float31"), "float31"),
    (("--ensemble", "demo:we"), "--ensemble and --member exclude each other"),
    (("--member", "/no/such/model"), "/no/such/model"),
    (("--member", "demo:no-such"), "unknown bundled model 'demo:no-such'"),
    (("--member-prompt", "x"), "1 --member-prompt for 2 --member"),
    (("--prompts", "x.jsonl"), "one of the two"),
    (("--out", "x.jsonl"), "--out takes the results of --prompts"),
    (("--colour",), "No such option"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[" ".join(args) for args, _ in MISTAKES])
def test_a_mistake_is_told_in_a_line_and_nothing_runs(generate: Run, args: tuple[str, ...], message: str) -> None:
    check_refused(generate("hello", *args), message)


def check_refused(result: Any, message: str) -> None:
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--weight", "0.2", "--weight", "0.8"), "--weight would change what the file's ensemble samples from"),
        (("--out", "elsewhere/mine.yaml"), "write --out mine.yaml beside it"),
        (("--max-tokens", "1"), "ended before a plan could be timed"),
    ],
)
def test_tune_writes_no_plan_that_is_not_the_files(run: Run, folder: Path, args: tuple[str, ...], message: str) -> None:
    path = folder / "tuned.yaml"
    path.write_text("members: [a, b]\n")
    check_refused(run("tune", "--ensemble", str(path), "--json", *args, members=""), message)
    assert path.read_text() == "members: [a, b]\n"


def test_tune_finds_out_first_whether_its_plan_can_be_written(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cospec.cli.tune_run.tune", lambda *_, **__: pytest.fail("it began"))
    path = folder / "tuned.yaml"
    path.write_text("members: [a, b]\n")
    result = run("tune", "--ensemble", str(path), "--out", str(folder / "a"), members="")
    check_refused(result, "a cannot be written: Is a directory")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("",), "the prompt is empty"),
        ((), "give a PROMPT"),
        (("the " * CONTEXT,), f"its context holds {CONTEXT}"),
        (("--prompts", "/no/such/file.jsonl"), "No such file"),
        (("--prompts", "/"), "Is a directory"),
    ],
)
def test_a_prompt_that_cannot_be_decoded_is_refused(generate: Run, args: tuple[str, ...], message: str) -> None:
    check_refused(generate(*args), message)


def test_members_of_different_tokenizers_are_refused_by_name(generate: Run, folder: Path) -> None:
    check_refused(
        generate("hello", "--member", str(folder / "other"), members="a"), "'other' has 280 tokens and 'a' 300"
    )


@pytest.mark.parametrize(
    ("ensemble", "message"),
    [("demo:wee", "did you mean 'demo:we'?"), ("none.yaml", "no ensemble file at 'none.yaml'")],
)
def test_an_unknown_ensemble_is_refused(run: Run, ensemble: str, message: str) -> None:
    check_refused(run("generate", "hello", "--ensemble", ensemble, members=""), message)
    check_refused(
        run("generate", "hello", "--ensemble", ensemble, "--member-prompt", "x", members=""), "--member-prompt"
    )


def test_without_models_the_bundled_pair_is_taken(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "_FOLDER", tmp_path)
    check_refused(run("generate", "hello", members=""), "unknown bundled ensemble 'demo:we'")


def test_an_error_is_red_on_a_terminal(run: Run) -> None:
    result = run("generate", "hello", "--schedule", "x", env=TERMINAL)
    assert "\x1b[1;31merror: \x1b[0m" in result.stderr


def test_a_text_that_breaks_off_with_an_error_is_told_so(generate: Run) -> None:
    forbidden = [part for token in range(300) for part in ("--logit-bias", f"{token}=-inf")]
    result = generate("hello", "--json", *forbidden)
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert json.loads(result.stdout)["finish_reason"] == "error"


# Ctrl-C and closed pipes.


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Makes Ctrl-C come in the given round."""

    def after(num_rounds: int) -> None:
        rounds, step = count(1), Engine.step

        def interrupted(engine: Engine) -> Any:
            if next(rounds) == num_rounds:
                os.kill(os.getpid(), signal.SIGINT)
            return step(engine)

        monkeypatch.setattr(Engine, "step", interrupted)

    return after


def test_ctrl_c_leaves_the_text_so_far_and_the_statistics(generate: Run, ctrl_c: Run) -> None:
    whole = generate("hello", "--schedule", "plain").stdout
    ctrl_c(5)
    result = generate("hello", "--schedule", "plain")
    assert result.exit_code == 130
    assert result.stdout
    assert whole.startswith(result.stdout.removesuffix("\n"))
    assert "5 tokens in" in result.stderr
    assert "interrupted; nothing is kept but what was printed, and the same command begins anew" in result.stderr


def test_ctrl_c_with_json_gives_an_object_that_says_abort(generate: Run, ctrl_c: Run) -> None:
    ctrl_c(5)
    result = generate("hello", "--schedule", "plain", "--json")
    assert result.exit_code == 130
    assert json.loads(result.stdout)["finish_reason"] == "abort"
    assert json.loads(result.stdout)["completion_tokens"] == 5


def test_ctrl_c_keeps_unfinished_prompts_out_of_the_results(
    generate: Run, ctrl_c: Run, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    ctrl_c(5)
    assert generate("--prompts", str(prompts), "--out", str(out), "--schedule", "plain").exit_code == 130
    assert out.read_text() == ""


def test_ctrl_c_says_what_the_results_have_and_how_to_go_on(
    generate: Run, ctrl_c: Run, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    lines = prompts.read_text().splitlines()
    prompts.write_text("\n".join([*lines, *lines]) + "\n")
    # The first two are decoded, and the others are not begun: two fit.
    ctrl_c(14)
    call = ("--prompts", str(prompts), "--out", str(out), "--schedule", "plain", "--max-sequences", "2")
    result = generate(*call)
    assert result.exit_code == 130
    assert "24 tokens in" in result.stderr or "tokens in" in result.stderr
    num = len(out.read_text().splitlines())
    assert num == 2
    said = f"interrupted; {out} has {num} of 6 prompts, and the same command goes on with the others"
    assert said in result.stderr
    assert generate(*call).exit_code == 0
    assert len(out.read_text().splitlines()) == 6


def generating(folder: Path, *args: str) -> list[str]:
    members = ["--member", str(folder / "a"), "--member", str(folder / "b"), "--schedule", "plain"]
    return ["generate", "hello", "--ignore-eos", *members, *args]


def test_the_statistics_begin_a_line_of_their_own_where_both_outputs_are_one(folder: Path) -> None:
    command = generating(folder, "--max-tokens", "5")
    process = cospec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    written, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"\n5 tokens in " in written


def test_ctrl_c_reaches_the_process_midway(folder: Path) -> None:
    process = cospec(*generating(folder, "--max-tokens", "500"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    start = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert start + rest
    assert b"tokens/s" in errors
    assert b"Traceback" not in errors


def test_a_closed_pipe_ends_the_run_without_a_traceback(folder: Path) -> None:
    command = [sys.executable, "-c", "from cospec.cli import main; main()", *generating(folder, "--max-tokens", "500")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) != 0
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


# Help, version, and what comes with the package.


def test_help_lists_the_commands_without_importing_any(run: Run) -> None:
    code = "import sys; from cospec.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in COMMANDS)
    assert "cospec.cli.generate" not in shown.split()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_help_has_an_example_and_the_line_of_the_list(run: Run, name: str) -> None:
    shown = run(name, "--help", members="")
    assert shown.exit_code == 0
    assert COMMANDS[name] in shown.stdout
    assert f"Example: cospec {name}" in shown.stdout


def test_help_shows_the_library_s_defaults_and_names(run: Run) -> None:
    shown = " ".join(run("generate", "--help", members="").stdout.replace("│", " ").split())
    assert f"[default: {SamplingParams.max_tokens}" in shown
    assert ", ".join(schedule_names()) in shown


def test_the_version_is_the_package_s(run: Run) -> None:
    assert run("--version", members="").stdout == f"cospec {__version__}\n"


def test_an_unknown_command_gets_the_nearest_name(run: Run) -> None:
    result = run("generat", members="")
    assert result.exit_code == 2
    assert "'generate'" in result.stderr


def test_models_lists_ensembles_while_no_model_is_there(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "_FOLDER", tmp_path)
    listed = object_of(run("models", "--json", members=""))
    # The real model comes with another package, and is listed whether that is there or not.
    assert [model["name"] for model in listed["models"]] == [demo.SMOLLM2]
    assert listed["ensembles"] == []
    (tmp_path / "ensembles").mkdir()
    (tmp_path / "ensembles" / "we.yaml").write_text("# A pair.\nmembers: [demo:a]\ncombine: {type: mixture}\n")
    (found,) = object_of(run("models", "--json", members=""))["ensembles"]
    assert (found["name"], found["description"], found["parameters"]) == ("demo:we", "A pair.", None)
    assert "not there" in run("models", members="").stdout


def test_models_reads_the_folder_of_each(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    monkeypatch.setattr(demo, "_FOLDER", tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(folder / "a")
    found, real = object_of(run("models", "--json", members=""))["models"]
    assert (found["name"], real["name"]) == ("demo:tiny", demo.SMOLLM2)
    # Embeddings in and out, a layer of four projections, three of the feed-forward part, and three norms.
    assert found["parameters"] == 2 * 300 * 16 + 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32 + 3 * 16
    assert found["architecture"] == "llama, 1 layers of width 16"
    assert str(tmp_path / "models" / "tiny") in run("models", members="").stdout


def test_without_a_tokenizer_the_ids_are_shown() -> None:
    token = Token(token=5, text="", proposer=None)
    for speller, shown in ((TokenSpeller(None), "<5>"), (TokenSpeller(Letters()), "")):
        screen = Screen(["a"], Records(speller=speller, max_tokens=1), is_plain=True)
        assert screen.segment(token).text == shown
