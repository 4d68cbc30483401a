"""Chats as prompts of the command line: `--chat`, `--system`, and files with `messages`."""

import json

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from cospec import Chat, Ensemble, Member, SamplingParams
from cospec.cli import app
from cospec.errors import InvalidPrompt
from cospec.study.methods import PlannedMethod
from cospec.study.peers import encoded
from cospec.study.perplexity import ReferenceText, text_logprobs
from cospec.study.questions import read_questions, read_texts

from .chat_models import write_chat_models

PIPE = {"FORCE_COLOR": None, "COLUMNS": "200"}
QUESTION = {"role": "user", "content": "two models?"}
SYSTEM = {"role": "system", "content": "one text"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_models(tmp_path_factory.mktemp("chats"))


@pytest.fixture
def run(folder):
    def call(*arguments, members="ab", input=None):
        names = {"p": "plain"}
        chosen = [part for name in members for part in ("--member", str(folder / names.get(name, name)))]
        return CliRunner().invoke(app, [*arguments, *chosen], env=PIPE, input=input)

    return call


@pytest.fixture
def generate(run):
    def call(*arguments, **more):
        return run("generate", "--temperature", "0", "--max-tokens", "6", "--ignore-eos", *arguments, **more)

    return call


def rendered(folder, *messages):
    """The ids of a chat, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "a")
    text = tokenizer.apply_chat_template([*messages], add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)


def object_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(result, message):
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)


def written(tmp_path, *values):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return file


# generate.


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (("--chat",), [QUESTION]),
        (("--system", "one text"), [SYSTEM, QUESTION]),
        (("--chat", "--system", "one text"), [SYSTEM, QUESTION]),
    ],
)
def test_a_text_is_a_users_message_by_the_models_own_template(generate, folder, options, messages):
    ids = rendered(folder, *messages)
    found = object_of(generate("two models?", "--json", *options))
    bare = object_of(generate("--token-ids", ",".join(map(str, ids)), "--json"))
    assert found["token_ids"] == bare["token_ids"]
    assert found["prompt_tokens"] == len(ids)
    assert found["token_ids"] != object_of(generate("two models?", "--json"))["token_ids"]


def test_chat_is_refused_by_name_where_a_model_has_no_template(generate):
    refused(generate("two models?", "--chat", members="ap"), "'plain' has no chat template")
    refused(generate("two models?", "--system", "one text", members="p"), "'plain' has no chat template")


def test_token_ids_make_no_chat(generate):
    refused(generate("--token-ids", "5,6", "--chat"), "--token-ids: a chat is made of texts")


def test_a_file_has_texts_ids_and_messages_side_by_side(generate, folder, tmp_path):
    file = written(tmp_path, "two models?", {"messages": [SYSTEM, QUESTION], "id": "x"}, {"messages": [QUESTION]})
    found = [json.loads(line) for line in generate("--prompts", str(file), "--json").stdout.splitlines()]
    assert [line["prompt_tokens"] for line in found[1:]] == [
        len(rendered(folder, SYSTEM, QUESTION)), len(rendered(folder, QUESTION))
    ]  # fmt: skip
    assert found[1]["id"] == "x"
    assert found[2]["text"] == object_of(generate("two models?", "--chat", "--json"))["text"]
    # A chat's own system message stays; the others get this one.
    with_system = generate("--prompts", str(file), "--json", "--system", "the target")
    found = [json.loads(line)["prompt_tokens"] for line in with_system.stdout.splitlines()]
    other = len(rendered(folder, {"role": "system", "content": "the target"}, QUESTION))
    assert found == [other, len(rendered(folder, SYSTEM, QUESTION)), other]


def test_messages_are_plain_where_a_template_is_missing_and_chats_were_not_asked_for(generate, tmp_path):
    file = written(tmp_path, {"messages": [QUESTION]})
    found = generate("--prompts", str(file), "--json", members="p")
    assert found.stderr == "no chat template: plain; chats are given as `Question: ...`, `Answer: ...`\n"
    plain = object_of(generate("Question: two models?\nAnswer:", "--json", members="p"))
    assert json.loads(found.stdout)["token_ids"] == plain["token_ids"]
    refused(generate("--prompts", str(file), "--chat", members="p"), "'plain' has no chat template")


BAD_LINES = [
    ({"prompt": "x", "messages": [QUESTION]}, ':2: "prompt" and "messages" exclude each other'),
    ({"messages": []}, ":2: the chat is empty"),
    ({"messages": "hello"}, ":2: a chat is a list of messages"),
    ({"messages": [{"role": "user"}]}, ":2: message 0 of the chat has no content"),
    ({"messages": [{"content": "x"}]}, ":2: message 0 of the chat has no role"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, ":2: message 0 of the chat"),
    ({"messages": [QUESTION, QUESTION]}, ":2: the chat template of 'a' refuses these messages: questions and answers"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[message for _, message in BAD_LINES])
def test_a_bad_chat_is_named_with_file_and_line_before_anything_runs(generate, tmp_path, line, message):
    refused(generate("--prompts", str(written(tmp_path, "fine", line))), message)


def test_results_of_a_chat_that_has_changed_are_not_gone_on_with(generate, tmp_path):
    out = tmp_path / "out.jsonl"
    call = ("--prompts", str(written(tmp_path, {"messages": [QUESTION]})), "--out", str(out))
    assert generate(*call).exit_code == 0
    kept = out.read_text()
    assert "nothing is left to do" in generate(*call).stderr
    refused(generate(*call, "--system", "one text"), "prompt has changed")
    written(tmp_path, {"messages": [SYSTEM, QUESTION]})
    refused(generate(*call), "prompt has changed")
    assert out.read_text() == kept


def test_an_answer_that_ended_at_once_says_what_may_be_wrong(run):
    hint = "a, b ended at once; they have chat templates: try --chat"
    ends = ("generate", "hello", "--logit-bias", "0=100", "--temperature", "0")
    assert hint in run(*ends).stderr
    assert "plain ended" not in run(*ends, members="p").stderr
    assert "a ended at once; it has a chat template: try --chat" in run(*ends, members="ap").stderr
    assert "try --chat" not in run(*ends, "--chat").stderr
    assert "try --chat" not in run("generate", "hello", "--max-tokens", "2", "--ignore-eos").stderr


def test_standard_input_is_the_prompt_as_it_is(generate):
    given = object_of(generate("two\nlines\n", "--json"))
    piped = object_of(generate("-", "--json", input="two\nlines\n"))
    assert (
        piped["prompt_tokens"] == given["prompt_tokens"] > object_of(generate("two\nlines", "--json"))["prompt_tokens"]
    )
    assert piped["token_ids"] == given["token_ids"]


# Studies.


def test_each_peer_is_fed_what_its_member_is_given(folder):
    members = [Member(model=str(folder / "a"), system="one text"), Member(model=str(folder / "b"))]
    ensemble = Ensemble(members, dtype="float32")
    chat = Chat(messages=(QUESTION,))
    own = [encoded(ensemble, member, chat).tolist() for member in (0, 1)]
    assert own == [[rendered(folder, SYSTEM, QUESTION)], [rendered(folder, QUESTION)]]


@pytest.mark.parametrize(("members", "system"), [("ab", None), ("ab", "one text"), ("b", None), ("a", "one text")])
def test_the_perplexity_of_an_answer_is_that_of_its_tokens(folder, members, system):
    """With one prompt for all members, with one of each, and by each alone."""
    first, *others = (str(folder / name) for name in members)
    ensemble = Ensemble([Member(model=first, system=system), *others], schedule="plain")
    answer = ReferenceText.answering(ensemble.tokenizer, Chat(messages=(QUESTION,)), " two models decode")
    (found,) = text_logprobs(PlannedMethod(name="plain", ensemble=ensemble, params=None), [answer])
    assert found.num_tokens == len(answer.tokens) > 1
    # r of each token, asked for by itself.
    total = 0.0
    for number, token in enumerate(answer.tokens):
        members = ensemble.rendered(Chat(messages=(QUESTION,)))
        own = [Member(model=runner, prompt=[*ids, *answer.tokens[:number]])
               for runner, ids in zip(ensemble.runners, members, strict=True)]  # fmt: skip
        (result,) = Ensemble(own, schedule="plain").generate(
            [[1]], SamplingParams(max_tokens=1, ignore_eos=True, logit_bias={token: 1000.0}, logprobs=0)
        )
        total += result.logprobs[0].logprob
    assert found.total == pytest.approx(total, abs=1e-4)


def test_a_pilots_questions_may_be_chats(tmp_path):
    lines = [{"messages": [QUESTION], "reference": "5", "category": "x"}, {"prompt": "b", "category": "x"}]
    chat, text = read_questions(written(tmp_path, *lines))
    assert chat.prompt == Chat(messages=(QUESTION,), plain=True)
    assert (chat.continuation, text.prompt) == ("5", "b")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "x", "messages": [QUESTION]}, ':2: "prompt" and "messages" exclude each other'),
        ({"messages": []}, ":2: the chat is empty"),
        ({"messages": [3]}, r":2: messages\[0\]: want keys and values, got 3"),
        ({"messages": [{"role": "user"}]}, ":2: message 0 of the chat has no content"),
    ],
)
def test_a_bad_chat_of_a_pilot_is_named_with_its_line(tmp_path, line, message):
    with pytest.raises(InvalidPrompt, match=message):
        read_questions(written(tmp_path, "a", line))


def test_a_text_to_measure_perplexity_on_is_no_chat(tmp_path):
    with pytest.raises(InvalidPrompt, match=':1: "messages" are no text'):
        read_texts(written(tmp_path, {"messages": [QUESTION]}))


def test_bench_tune_and_verify_take_chats(run, tmp_path, folder):
    file = ("--prompts", str(written(tmp_path, {"messages": [QUESTION]}, "one text")))
    out = tmp_path / "results"
    bench = ("bench", *file, "--chat", "--num-prompts", "2", "--max-tokens", "4", "--repeats", "1")
    bench = (*bench, "--methods", "plain,hf:a,bare", "--json", "--out", str(out), "--no-plots")
    assert object_of(run(*bench))["methods"]
    refused(run(*bench, "--system", "the target"), "prompts[0] has changed")
    verified = run("verify", *file, "--chat", "--max-tokens", "4", "--samples", "20", "--json")
    assert object_of(verified)["exact"] is True
    tuned = object_of(run("tune", *file, "--chat", "--max-tokens", "24", "--json"))
    assert tuned["plan"]
    for command in (("bench", *file, "--chat"), ("verify", *file, "--chat"), ("tune", *file, "--chat")):
        refused(run(*command, members="p"), "'plain' has no chat template")
