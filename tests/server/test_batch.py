"""`cospec batch` without a cluster: OpenAI's batch lines and bare ones, resumed however a run ended."""

import json
import signal
import time

import pytest
from typer.testing import CliRunner

from cospec import SamplingParams
from cospec.cli import app

from ..processes import cospec
from .conftest import MODEL

PROMPT = "Question: How much is 7 times 8?\nAnswer:"
ENSEMBLE = ["--ensemble", MODEL, "--proposer", "demo:drafter"]
CHAT = [{"role": "user", "content": "How much is 7 times 8?"}]


def wrapped(custom_id, body, url="/v1/completions"):
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(path, *lines):
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def read(path):
    """Line number -> what was written for it, once."""
    values = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({value["line"] for value in values}) == len(values)
    return {value["line"]: value for value in values}


@pytest.fixture
def batch(tmp_path):
    def call(*options, exit_code=0):
        files = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
        result = CliRunner().invoke(app, ["batch", *files, *ENSEMBLE, *options])
        assert result.exit_code == exit_code, result.output
        return result

    return call


def test_lines_in_openais_shape_are_answered_in_it_as_the_server_answers(batch, tmp_path, client):
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 8, "seed": 4, "logprobs": 2}
    chat = {"messages": CHAT, "max_completion_tokens": 6, "temperature": 0, "n": 2}
    write(tmp_path / "in.jsonl", wrapped("a", body), wrapped("b", chat, "/v1/chat/completions"))
    batch()
    told = read(tmp_path / "out.jsonl")
    assert {number: value["custom_id"] for number, value in told.items()} == {1: "a", 2: "b"}
    assert all(value["error"] is None and value["response"]["status_code"] == 200 for value in told.values())
    served = client.completions.create(**body).choices[0]
    assert told[1]["response"]["body"]["choices"][0]["text"] == served.text
    assert told[1]["response"]["body"]["choices"][0]["logprobs"]["tokens"] == served.logprobs.tokens
    served = client.chat.completions.create(model=MODEL, **chat)
    own = told[2]["response"]["body"]
    assert [each["message"]["content"] for each in own["choices"]] == [each.message.content for each in served.choices]
    assert own["usage"] == served.usage.model_dump(exclude_none=True)


def test_bare_lines_take_what_they_leave_out_from_the_defaults(batch, tmp_path, ensemble):
    write(tmp_path / "in.jsonl", PROMPT, {"prompt": PROMPT, "seed": 8, "id": "x7"}, {"messages": CHAT})
    batch("--defaults", '{"max_tokens": 6, "seed": 3}')
    told = read(tmp_path / "out.jsonl")
    own = [ensemble.generate(PROMPT, SamplingParams(max_tokens=6, seed=seed))[0].text for seed in (3, 8)]
    assert [told[1]["text"], told[2]["text"]] == own
    assert told[2]["id"] == "x7"
    assert told[3]["text"] == told[3]["choices"][0]["message"]["content"]


def test_a_bad_line_is_answered_by_its_number_and_the_others_go_on(batch, tmp_path):
    bad = {
        b"plain words": "in.jsonl:2: not JSON",
        b'"\xff"': "in.jsonl:3: not JSON",
        b"[1, 2]": "in.jsonl:4: a request is an object or a string, got list",
        b'{"promt": "x"}': 'in.jsonl:5: give "prompt" or "messages"',
        b'{"custom_id": "c", "url": "/v1/embeddings", "body": {}}': "url must be /v1/completions or",
        b'{"custom_id": 3, "url": "/v1/completions", "body": {}}': "custom_id must be a text, got 3",
        b'{"custom_id": "d", "method": "GET", "url": "/v1/completions", "body": {}}': "method must be POST",
        b'{"custom_id": "e", "url": "/v1/completions", "body": "x"}': "body must be an object",
        b'{"prompt": "x", "stream": true}': "stream has no meaning in a batch",
        b'{"prompt": "x", "temperature": NaN}': "temperature",
        b'{"prompt": "\\ud800"}': "half of a surrogate pair",
        b'{"prompt": "x", "model": "gpt"}': "the model 'gpt' is not served, only 'demo:we'",
    }
    write(tmp_path / "in.jsonl", {"prompt": PROMPT, "max_tokens": 2}, *bad, {"prompt": PROMPT, "max_tokens": 2})
    result = batch(exit_code=2)
    told = read(tmp_path / "out.jsonl")
    assert sorted(told) == list(range(1, len(bad) + 3))
    for number, message in enumerate(bad.values(), start=2):
        assert message in told[number]["error"]["message"]
    assert told[6]["custom_id"] == "c"
    assert told[1]["text"]
    assert told[len(bad) + 2]["text"]
    assert f"2 answered, {len(bad)} refused, 0 failed" in result.stderr
    # They have their answers, so that nothing is left to do, and the exit code is the same.
    again = batch(exit_code=2)
    assert f"has 14 of 14 answers, {len(bad)} of them refusals" in again.stderr
    assert f"0 answered, {len(bad)} refused, 0 failed" in again.stderr


def test_a_refusal_of_the_server_comes_with_its_status(batch, tmp_path):
    write(tmp_path / "in.jsonl", wrapped("a", {"prompt": PROMPT, "n": 0}))
    batch(exit_code=2)
    response = read(tmp_path / "out.jsonl")[1]["response"]
    assert response["status_code"] == 400
    assert response["body"]["error"]["param"] == "n"


def test_the_counts_are_a_json_object_if_asked(batch, tmp_path):
    write(tmp_path / "in.jsonl", {"prompt": PROMPT, "max_tokens": 3}, "x")
    options = ("--json", "--defaults", '{"max_tokens": 3}')
    counts = json.loads(batch(*options).stdout)
    assert counts.pop("seconds") > 0
    assert counts == {"skipped": 0, "answered": 2, "refused": 0, "failed": 0, "tokens": 6}
    assert json.loads(batch(*options).stdout)["skipped"] == 2


def test_half_a_line_is_answered_again(batch, tmp_path):
    write(tmp_path / "in.jsonl", *[{"prompt": PROMPT, "seed": seed, "max_tokens": 4} for seed in range(3)])
    batch()
    whole = read(tmp_path / "out.jsonl")
    raw = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_bytes(raw[:-40])
    assert "has 2 of 3 answers" in batch().stderr
    assert {number: value["text"] for number, value in read(tmp_path / "out.jsonl").items()} == {
        number: value["text"] for number, value in whole.items()
    }
    # Only the end of its line is missing: it is whole.
    (tmp_path / "out.jsonl").write_bytes(raw[:-1])
    batch()
    assert (tmp_path / "out.jsonl").read_bytes() == raw


def test_answers_to_what_was_asked_otherwise_are_refused_and_left_alone(batch, tmp_path):
    lines = [{"prompt": PROMPT, "seed": 1}, PROMPT, [], wrapped("a", {"prompt": PROMPT})]
    defaults = ("--defaults", '{"max_tokens": 2}')
    write(tmp_path / "in.jsonl", *lines)
    batch(*defaults, exit_code=2)
    answers = (tmp_path / "out.jsonl").read_text()

    def refused(message, *options):
        stderr = batch(*options, exit_code=2).stderr
        return message in stderr and (tmp_path / "out.jsonl").read_text() == answers

    assert refused("defaults.max_tokens 2 was kept, 3 is asked", "--defaults", '{"max_tokens": 3}')
    assert refused("weights [0.5, 0.5] was kept, [0.3, 0.7] is asked", *defaults, "--weight", "0.3", "--weight", "0.7")
    assert refused("schedule auto was kept, plain is asked", *defaults, "--schedule", "plain")
    assert refused("verification block was kept, token is asked", *defaults, "--verification", "token")
    assert refused("dtype float32 was kept, bfloat16 is asked", *defaults, "--dtype", "bfloat16")
    for index, other in ((0, {"prompt": PROMPT, "seed": 2}), (1, "Once"), (3, wrapped("a", {"prompt": "Once"}))):
        write(tmp_path / "in.jsonl", *lines[:index], other, *lines[index + 1 :])
        assert refused(f"in.jsonl:{index + 1}, was made with other settings: request has changed", *defaults)
    write(tmp_path / "in.jsonl", *lines[::-1])
    assert refused("request has changed", *defaults)
    write(tmp_path / "in.jsonl", *lines[:3])
    assert refused("is no answer to a line of", *defaults)
    write(tmp_path / "in.jsonl", *lines, "Once")
    assert "has 4 of 5 answers" in batch(*defaults, exit_code=2).stderr


def test_a_refused_line_is_corrected_and_answered_alone(batch, tmp_path):
    """Its answer is replaced; the others stay as they are, byte for byte."""
    defaults = ("--defaults", '{"max_tokens": 3, "seed": 1}')
    lines = [{"prompt": PROMPT}, {"promt": PROMPT}, wrapped("a", {"prompt": PROMPT, "n": 0}), {"prompt": "Once"}]
    write(tmp_path / "in.jsonl", *lines)
    assert "2 answered, 2 refused" in batch(*defaults, exit_code=2).stderr
    before = [line for line in (tmp_path / "out.jsonl").read_text().splitlines() if '"line": 2' not in line]
    write(tmp_path / "in.jsonl", lines[0], {"prompt": "Twice"}, *lines[2:])
    again = batch(*defaults, exit_code=2).stderr
    assert "has 3 of 4 answers, 1 of them refusals" in again
    assert "1 answered, 1 refused, 0 failed" in again
    *kept, new = (tmp_path / "out.jsonl").read_text().splitlines()
    assert kept == before
    assert json.loads(new)["line"] == 2
    assert json.loads(new)["text"]
    write(tmp_path / "in.jsonl", lines[0], {"prompt": "Twice"}, wrapped("a", {"prompt": PROMPT}), lines[3])
    assert "1 answered, 0 refused, 0 failed" in batch(*defaults).stderr
    fresh = read(tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").unlink()
    batch(*defaults)
    assert {line: text_of(row) for line, row in fresh.items()} == {
        line: text_of(row) for line, row in read(tmp_path / "out.jsonl").items()
    }


def text_of(row):
    return row["text"] if "text" in row else row["response"]["body"]["choices"][0]["text"]


@pytest.mark.parametrize("content", ['{"line": 9}\n', '{"line": 1, "id": "other"}\n', "[]\n", "notes", '{"a": 1}'])
def test_a_file_of_anything_else_is_refused_and_left_alone(batch, tmp_path, content):
    write(tmp_path / "in.jsonl", {"prompt": PROMPT, "id": "mine"})
    (tmp_path / "out.jsonl").write_text(content)
    assert "out.jsonl:1 is no answer to a line of" in batch(exit_code=2).stderr
    assert (tmp_path / "out.jsonl").read_text() == content


@pytest.mark.parametrize(
    ("defaults", "message"), [("{", "--defaults is not JSON"), ("[1]", "--defaults must be an object")]
)
def test_defaults_that_are_no_object_are_refused(batch, tmp_path, defaults, message):
    write(tmp_path / "in.jsonl", PROMPT)
    assert message in batch("--defaults", defaults, exit_code=2).stderr


def test_an_input_without_requests_is_refused(batch, tmp_path):
    assert "no requests can be read from" in batch(exit_code=2).stderr
    write(tmp_path / "in.jsonl", b"", b" ")
    assert "holds no requests" in batch(exit_code=2).stderr


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_goes_on_without_a_double(batch, tmp_path, number, exit_code):
    requests = [{"prompt": PROMPT, "seed": seed, "max_tokens": 24, "ignore_eos": True} for seed in range(12)]
    write(tmp_path / "in.jsonl", *requests)
    out = tmp_path / "out.jsonl"
    command = ["batch", str(tmp_path / "in.jsonl"), str(out), *ENSEMBLE, "--max-sequences", "2"]
    with cospec(*command) as running:
        while not out.exists() or not out.read_bytes().count(b"\n"):
            time.sleep(0.01)
        running.send_signal(number)
        assert running.wait(30) == exit_code
    num_kept = out.read_bytes().count(b"\n")
    assert 0 < num_kept < len(requests)
    assert f"has {num_kept} of 12 answers" in batch().stderr
    resumed = read(out)
    assert sorted(resumed) == list(range(1, 13))
    out.unlink()
    batch()
    assert {line: each["text"] for line, each in resumed.items()} == {line: e["text"] for line, e in read(out).items()}
