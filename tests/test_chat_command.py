"""`cospec chat`: a conversation on the terminal, and through a pipe."""

import json
import os
import signal
import time
from itertools import count

import pytest
from typer.testing import CliRunner

from cospec import Chat, Ensemble, SamplingParams
from cospec.cli import app
from cospec.cli.conversation import Conversation
from cospec.cli.typed import read_typed
from cospec.core.engine import Engine
from cospec.errors import InvalidPrompt

from .chat_models import write_chat_models
from .cli_models import CONTEXT
from .terminal import Terminal

PIPE = {"FORCE_COLOR": None, "COLUMNS": "200"}
OPTIONS = ("--seed", "1", "--max-tokens", "12", "--schedule", "plain")
SYSTEM = {"role": "system", "content": "one text"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_models(tmp_path_factory.mktemp("chats"))


@pytest.fixture(scope="module")
def ensemble(folder):
    return Ensemble([str(folder / "a"), str(folder / "b")], schedule="plain")


@pytest.fixture
def chat(folder):
    def call(typed, *arguments, members=("a", "b")):
        chosen = [part for name in members for part in ("--member", str(folder / name))]
        typed = typed if isinstance(typed, bytes) else "".join(f"{line}\n" for line in typed)
        return CliRunner().invoke(app, ["chat", *OPTIONS, *chosen, *arguments], env=PIPE, input=typed)

    return call


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def answers(ensemble, *questions, system=None, max_tokens=12):
    """To each question behind all before it, by the library."""
    messages, given = [SYSTEM | {"content": system}] if system else [], []
    for question in questions:
        messages.append(user(question))
        (result,) = ensemble.generate([Chat(messages=tuple(messages))], SamplingParams(seed=1, max_tokens=max_tokens))
        messages.append(assistant(result.text))
        given.append(result.text)
    return given


def bytes_of(texts):
    return "".join(f"{text}\n" for text in texts).encode()


# Through a pipe.


def test_each_line_is_a_turn_and_standard_output_has_the_answers_alone(chat, ensemble):
    result = chat(["two models?", "", "one text", "/stats", "tokens"])
    assert result.exit_code == 0, result.stderr
    expected = answers(ensemble, "two models?", "one text", "tokens")
    assert result.stdout_bytes == bytes_of(expected)
    assert len(set(expected)) == 3


def test_the_system_message_is_set_shown_and_removed(chat, ensemble):
    typed = ["/system", "/system one text", "two models?", "/system", "/reset", '/system ""', "two models?"]
    result = chat(typed)
    expected = [*answers(ensemble, "two models?", system="one text"), *answers(ensemble, "two models?")]
    assert result.stdout_bytes == bytes_of(expected)
    assert expected[0] != expected[1]
    none = "there is no system message"
    said = [line for line in result.stderr.splitlines() if line in (none, "one text")]
    assert said == [none, "one text", "one text", none]
    assert chat(["two models?"], "--system", "one text").stdout_bytes == bytes_of(expected[:1])


def test_a_reset_forgets_what_was_said_and_not_the_system_message(chat, ensemble):
    result = chat(["tokens", "/reset", "two models?"], "--system", "one text")
    expected = [*answers(ensemble, "tokens", system="one text"), *answers(ensemble, "two models?", system="one text")]
    assert result.stdout_bytes == bytes_of(expected)


def test_statistics_are_of_the_last_answer_and_of_all(chat):
    said = chat(["/stats", "two models?", "tokens", "/stats"], "--schedule", "alternate", "--ignore-eos").stderr
    assert "nothing was answered yet" in said
    last, total = (line for line in said.splitlines() if "tokens/s" in line)
    assert last.startswith("last answer: 12 tokens in ")
    assert total.startswith("all 2 answers: 24 tokens in ")
    assert "calls a token: a " in total
    assert "accepted/proposed: " in total


def test_help_lists_every_command_and_an_unknown_one_gets_the_nearest(chat):
    result = chat(["/help", "/stat", "/exit", "never read"])
    for name in ("/help", "/reset", "/system", "/stats", "/exit"):
        assert f"\n{name} " in f"\n{result.stderr}"
    assert "did you mean '/stats'?" in result.stderr
    assert result.stdout == ""
    # What came through a pipe was not all done.
    assert result.exit_code == 2


def test_what_has_no_answer_leaves_the_conversation_as_it_was(chat, ensemble):
    typed = b"two models?\n" + b"the " * CONTEXT + b"\n\xff\ntokens\n"
    result = chat(typed)
    assert result.exit_code == 2
    assert result.stdout_bytes == bytes_of(answers(ensemble, "two models?", "tokens"))
    assert f"its context holds {CONTEXT}" in result.stderr
    assert "/reset begins a new conversation" in result.stderr
    assert "standard input:1 is not UTF-8" in result.stderr
    assert "Traceback" not in result.output


def test_an_answer_that_the_context_cuts_says_so(chat):
    line = "the " * (CONTEXT // 2 - 20)
    said = chat([line], "--max-tokens", str(CONTEXT), "--ignore-eos").stderr
    assert "the members' context is full, and cut the answer; /reset begins a new conversation" in said
    assert "the answer was cut at --max-tokens 12" in chat(["tokens"], "--ignore-eos").stderr
    assert "its end came at once" in chat(["tokens"], "--logit-bias", "0=100").stderr


def test_an_answer_that_fails_is_told_and_taken_back(chat, ensemble, tmp_path):
    file = tmp_path / "kept.jsonl"
    forbidden = [part for token in range(300) for part in ("--logit-bias", f"{token}=-inf")]
    result = chat(["tokens"], *forbidden, "--save", str(file))
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert not file.exists()


def test_models_without_a_template_are_given_the_plain_form_with_one_line_of_notice(chat, folder):
    result = chat(["two models?", "tokens"], members=("plain",))
    assert result.exit_code == 0
    notices = [line for line in result.stderr.splitlines() if "no chat template" in line]
    assert notices == ["no chat template: plain; the conversation is given as `Question: ...`, `Answer: ...`"]
    plain = Ensemble([str(folder / "plain")])
    params = SamplingParams(seed=1, max_tokens=12, stop=("\nQuestion:",))
    (first,) = plain.generate(["Question: two models?\nAnswer:"], params)
    so_far = f"Question: two models?\nAnswer: {first.text.strip()}\nQuestion: tokens\nAnswer:"
    (second,) = plain.generate([so_far], params)
    assert result.stdout_bytes == bytes_of([first.text, second.text])


def test_a_template_that_refuses_the_system_message_is_found_before_anything_is_said(chat, folder, tmp_path):
    template = folder / "a" / "chat_template.jinja"
    before = template.read_text()
    template.write_text("{{ raise_exception('no system message') if messages[0].role == 'system' }}" + before)
    try:
        result = chat(["tokens"], "--system", "one text", members=("a",))
    finally:
        template.write_text(before)
    assert result.exit_code == 2
    assert "the chat template of 'a' refuses these messages: no system message" in result.stderr
    assert result.stdout == ""


# What is kept.


def kept(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_conversation_is_kept_and_gone_on_with(chat, ensemble, tmp_path):
    file = tmp_path / "new" / "kept.jsonl"
    first, second = answers(ensemble, "two models?", "日本", system="one text")
    assert chat(["two models?"], "--save", str(file), "--system", "one text").exit_code == 0
    assert kept(file) == [SYSTEM, user("two models?"), assistant(first)]
    again = chat(["日本"], "--save", str(file))
    assert again.stdout_bytes == bytes_of([second])
    assert kept(file)[3:] == [user("日本"), assistant(second)]
    assert "日本" in file.read_text(encoding="utf-8")
    chat(["/reset"], "--save", str(file))
    assert kept(file) == [SYSTEM]


BAD_FILES = [
    ("words", ":1: not JSON"),
    ('{"role": "user", "content": "a"}', ":1: the last question has no answer"),
    ('{"role": "assistant", "content": "a"}', ":1: role: want 'user', whose turn it is, got 'assistant'"),
    ('{"role": "system", "content": "a"}\n{"role": "system", "content": "a"}', ":2: role: want 'user'"),
    ('{"role": "robot", "content": "a"}', ":1: role: want 'system', 'user' or 'assistant'"),
    ('{"role": "system", "content": "a", "text": "b"}', "'text'"),
    ('{"role": "system", "content": "\\ud800"}', ":1: the message is not valid Unicode"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_a_file_that_holds_no_conversation_is_refused_and_left_alone(chat, tmp_path, text, message):
    file = tmp_path / "kept.jsonl"
    file.write_text(text, encoding="utf-8")
    result = chat(["tokens"], "--save", str(file))
    assert result.exit_code == 2
    assert message in result.stderr
    assert file.read_text(encoding="utf-8") == text


def test_a_file_that_cannot_be_written_is_found_before_anything_is_said(chat, tmp_path):
    result = chat(["tokens"], "--save", str(tmp_path))
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_system_message_of_the_command_line_takes_the_place_of_the_files(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text(json.dumps(SYSTEM) + "\n")
    assert Conversation.load(path, None).system == "one text"
    assert Conversation.load(path, "other").system == "other"
    with pytest.raises(InvalidPrompt, match="--system is not valid Unicode"):
        Conversation.load(None, "\ud800")


# What is typed.


class Listed:
    """Lines of a list; an exception is raised in its turn."""

    is_terminal = True

    def __init__(self, *typed):
        self._typed = iter(typed)

    def read(self, prompt):
        line = next(self._typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["one"], "one"),
        (["one\\", "two"], "one\ntwo"),
        (["one\\", "\\", "two"], "one\n\ntwo"),
        (['"""one', "", '/two"""'], "one\n\n/two"),
        (['"""', "one", "two\\", '"""'], "one\ntwo\\"),
        (['"""one"""'], "one"),
        (['""""""'], ""),
        # The end of what is typed ends a message as well.
        (["one\\"], "one\n"),
        (['"""one', "two"], "one\ntwo"),
        (["one\\", KeyboardInterrupt()], ""),
        (['"""one', KeyboardInterrupt()], ""),
    ],
)
def test_a_message_may_have_several_lines(lines, text):
    assert read_typed(Listed(*lines)).text == text


def test_a_command_is_one_only_at_the_start_of_a_message_without_fences():
    assert read_typed(Listed("/system  a b ")).command == ("/system", "a b")
    assert read_typed(Listed("/stats")).command == ("/stats", "")
    for lines in ([" /stats"], ['"""/stats"""'], ["stats /stats"]):
        assert read_typed(Listed(*lines)).command is None


@pytest.mark.parametrize("end", [EOFError(), KeyboardInterrupt()])
def test_the_end_of_input_in_front_of_a_message_is_the_end(end):
    with pytest.raises(type(end)):
        read_typed(Listed(end))


# Ctrl-C and the terminal.


def test_ctrl_c_through_a_pipe_ends_with_what_was_said_kept_and_marked(chat, ensemble, monkeypatch, tmp_path):
    rounds, step, file = count(1), Engine.step, tmp_path / "kept.jsonl"

    def interrupted(engine):
        if next(rounds) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(engine)

    (whole,) = answers(ensemble, "two models?")
    monkeypatch.setattr(Engine, "step", interrupted)
    result = chat(["two models?", "never read"], "--save", str(file), "--ignore-eos")
    assert result.exit_code == 130
    assert f"interrupted; {file} has the conversation, and the same command goes on with it" in result.stderr
    _, said = kept(file)
    assert said["cut"] is True
    assert whole.startswith(said["content"])
    assert "" != said["content"] != whole


def test_a_conversation_on_a_terminal(folder, tmp_path):
    """Streamed and coloured; Ctrl-C stops an answer and not the program, which Ctrl-D ends."""
    file = tmp_path / "kept.jsonl"
    members = ("--member", str(folder / "a"), "--member", str(folder / "b"), "--schedule", "alternate")
    with Terminal("chat", *members, "--max-tokens", "440", "--ignore-eos", "--save", str(file), cwd=tmp_path) as shown:
        assert "a+" in (greeting := shown.until("/help lists what can be typed")) or "(a, b)" in greeting
        shown.until("proposed by a, b, nobody")
        shown.until("> ")
        shown.type("two models?\n")
        shown.until("two models?\n")
        # The answer begins while it is being decoded.
        while len(shown.shown) == shown.place:
            shown.more()
        shown.type("\x03")
        shown.until("stopped; what was said stays in the conversation")
        shown.until("> ")
        shown.type("one \\\n")
        shown.until("... ")
        shown.type("text\n")
        shown.until("text\n")
        shown.until("> ")
        shown.type("/stats\n")
        assert "440 tokens in" in shown.until("all 2 answers: ")
        shown.until("> ")
        shown.type("\x1b[A\n")  # the line before, called back
        shown.until("all 2 answers: ")
        shown.until("> ")
        shown.type("\x04")
        assert shown.status() == 0
    assert "\x1b[36m" in shown.raw
    assert "\x1b[35m" in shown.raw
    assert "Traceback" not in shown.raw
    roles = [(turn["role"], turn.get("cut", False)) for turn in kept(file)]
    assert roles == [("user", False), ("assistant", True), ("user", False), ("assistant", False)]
    assert kept(file)[2]["content"] == "one \ntext"


def test_ctrl_c_at_the_prompt_ends_the_program(folder, tmp_path):
    with Terminal("chat", "--member", str(folder / "a"), cwd=tmp_path) as shown:
        shown.until("> ")
        # readline listens a moment after it has shown the prompt: a signal before that waits for the next key.
        time.sleep(1)
        shown.type("\x03")
        assert shown.status() == 0
    assert "Traceback" not in shown.raw
