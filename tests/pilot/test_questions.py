"""Prompt files: what they may hold, and where they are wrong."""

import subprocess

import pytest
from typer.testing import CliRunner

from cospec.cli import app
from cospec.errors import CospecError, InvalidPilot, InvalidPrompt
from cospec.study.questions import balanced, read_questions, read_texts
from cospec.study.scoring import scorer

from ..processes import cospec


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_bundled_prompts_have_categories_and_references():
    questions = read_questions(None)
    assert {question.category for question in questions} == {"sums", "code", "text"}
    # As many as a margin of a tenth takes.
    assert sum(question.is_scored for question in questions) >= 29
    assert all(question.continuation for question in questions)
    assert len({question.prompt for question in questions}) == len(questions)


def test_the_bundled_references_are_scored_right_by_their_own_rule():
    for question in read_questions(None):
        if question.is_scored:
            assert scorer(question.score)(question.reference, question.reference) == 1


def test_json_lines_tables_and_plain_lines_say_the_same(tmp_path):
    lines = (
        '{"prompt": "a, b", "category": "x", "reference": 7}\n\n"c"\n{"prompt": "d"}\n{"prompt": "e", "category": "x"}'
    )
    table = 'prompt,category,reference\n"a, b",x,7\nc,,\nd,,\ne,x,\n'
    from_lines = read_questions(written(tmp_path, "p.jsonl", lines))
    from_table = read_questions(written(tmp_path, "p.csv", table))
    assert [(q.prompt, q.category, q.reference) for q in from_lines] == [
        ("a, b", "x", "7"), ("c", "prompts", None), ("d", "prompts", None), ("e", "x", None)
    ]  # fmt: skip
    assert [(q.prompt, q.category, q.reference) for q in from_table] == [
        (q.prompt, q.category, q.reference) for q in from_lines
    ]
    assert [q.prompt for q in read_questions(written(tmp_path, "p.txt", "c\n\nd\n"))] == ["c", "d"]
    assert from_lines[1].where.endswith("p.jsonl:3")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", "", "holds no prompts"),
        ("p.jsonl", '"a"\n{"prompt": ', "p.jsonl:2: not JSON"),
        ("p.jsonl", '"a"\n\n{"prompt": 3}', "p.jsonl:3: prompt: want a text, got 3"),
        ("p.jsonl", '"a"\n{"text": "b"}', 'p.jsonl:2: no "prompt"'),
        ("p.jsonl", '"a"\n{"prompt": "b", "categroy": "c"}', "p.jsonl:2 'categroy'; did you mean 'category'"),
        ("p.jsonl", '"a"\n{"prompt": "b", "score": "exactly"}', "p.jsonl:2: score must be"),
        ("p.jsonl", '"a"\n"\\ud800"', "p.jsonl:2: the prompt is not valid Unicode"),
        ("p.jsonl", b'"a"\n"\xff"', "p.jsonl:2 is not UTF-8"),
        ("p.jsonl", '"a"\n[1]', "p.jsonl:2: give a JSON string"),
        ("p.csv", "prompt,category\na,x\nb\n", "p.csv:3: a row of another length"),
        ("p.csv", "prompt\n", "holds no prompts"),
        ("p.txt", "\n\n", "holds no prompts"),
        ("p.parquet", "a", "prompts come as .jsonl, .csv, .txt"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c", "category": "lone"}', "p.jsonl:3: the category"),
        ("p.jsonl", '"a"\n{"prompt": "b", "category": "\\ud800"}', "p.jsonl:2: the category is not valid Unicode"),
        ("p.jsonl", '"a"\n{"prompt": "b", "category": "all"}', "p.jsonl:2: the category 'all' is the report's own"),
        ("p.csv", "prompt,category\na,x\nb,texts\n", "p.csv:3: the category 'texts'"),
        ("p.jsonl", '"a"\n{"prompt": "b", "score": "math:none"}', "p.jsonl:2: score 'math:none' cannot be imported"),
        (
            "p.jsonl",
            '"a"\n{"prompt": "b", "score": "regex", "reference": "(7"}',
            "p.jsonl:2: the reference '(7' is no regular expression",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, name, text, message):
    with pytest.raises(CospecError) as told:
        read_questions(written(tmp_path, name, text))
    assert message in str(told.value)


def test_what_prompts_do_not_say_of_their_score_the_study_does(tmp_path):
    lines = '{"prompt": "a", "reference": "b"}\n{"prompt": "c", "reference": "d", "score": "exact"}'
    path = written(tmp_path, "p.jsonl", lines)
    own, other = read_questions(path, "regex")
    assert (own.score, other.score) == ("regex", "exact")
    # A pattern is no text to take the perplexity of.
    assert (own.continuation, other.continuation) == (None, "d")
    own, other = read_questions(path, "none")
    assert (own.is_scored, other.is_scored) == (False, True)
    assert own.continuation == "b"
    with pytest.raises(InvalidPrompt, match=r"p.jsonl:2: the reference"):
        read_questions(written(tmp_path, "p.jsonl", '"a"\n{"prompt": "c", "reference": "(d"}'), "regex")


def test_lines_that_windows_wrote_end_before_their_carriage_return(tmp_path):
    assert [q.prompt for q in read_questions(written(tmp_path, "p.txt", "c\r\n\r\nd\r\n"))] == ["c", "d"]
    assert [q.prompt for q in read_questions(written(tmp_path, "p.jsonl", '"c"\r\n"d"\r\n'))] == ["c", "d"]
    assert [q.prompt for q in read_questions(written(tmp_path, "p.csv", "prompt\r\nc\r\nd\r\n"))] == ["c", "d"]


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InvalidPrompt, match="No such file"):
        read_questions(tmp_path / "none.jsonl")


def test_few_prompts_are_taken_from_all_categories(tmp_path):
    text = "\n".join(f'{{"prompt": "{i}", "category": "{"a" if i < 8 else "b"}"}}' for i in range(10))
    questions = read_questions(written(tmp_path, "p.jsonl", text))
    assert balanced(questions, 4) == [0, 1, 8, 9]
    assert balanced(questions, 100) == list(range(10))


@pytest.mark.parametrize(
    ("name", "answer", "reference", "score"),
    [
        ("exact", " yes\n", "yes", 1),
        ("exact", "yes, it is", "yes", 0),
        ("numeric", "3 + 4 = <<3+4=7>>7\n#### 7", "7.0", 1),
        ("numeric", "1,200 miles", "#### 1200", 1),
        ("numeric", "#### 7\nQuestion: 8", "7", 0),
        ("numeric", "none", "7", 0),
        ("regex", "so it is Tuesday.", r"\bTues(day)?\b", 1),
        ("math:isclose", "1", "2", None),
    ],
)
def test_answers_are_scored(name, answer, reference, score):
    if score is None:
        with pytest.raises(InvalidPilot, match="raised TypeError"):
            scorer(name)(answer, reference)
    else:
        assert scorer(name)(answer, reference) == score


def test_one_text_is_enough_to_be_weighed(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("a text of its own\n", encoding="utf-8")
    assert [*read_texts(path).values()] == ["a text of its own"]
    with pytest.raises(InvalidPrompt, match="this one prompt"):
        read_questions(path)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(InvalidPrompt, match="no texts"):
        read_texts(path)


def test_a_score_of_ones_own_is_found_where_the_command_is_given(tmp_path):
    (tmp_path / "beside_me.py").write_text("def right(answer, reference):\n    return 1\n", encoding="utf-8")
    command = ["pilot", "--prompts", "none.jsonl", "--score"]
    with cospec(*command, "beside_me:right", cwd=tmp_path, stderr=subprocess.PIPE, text=True) as run:
        _, errors = run.communicate()
    assert run.returncode == 2
    assert "no prompts can be read" in " ".join(errors.split())
    missing = CliRunner().invoke(app, [*command, "beside_you:right"])
    assert missing.exit_code == 2
    assert "cannot be imported" in " ".join(missing.stderr.split())


def test_a_score_of_ones_own_is_called_and_checked(tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text(
        "def share(answer, reference):\n    return len(answer) / len(reference)\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert scorer("own_scores:share")("ab", "abcd") == 0.5
    with pytest.raises(InvalidPilot, match="between 0 and 1"):
        scorer("own_scores:share")("abcde", "abcd")
    with pytest.raises(InvalidPilot, match="cannot be imported"):
        scorer("own_scores:nothing")
    with pytest.raises(InvalidPilot, match="module:function"):
        scorer("nothing")
