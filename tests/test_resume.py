"""Results that a later run goes on with: a file never mixes those of two commands, however a run ended."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cospec.errors import CospecError
from cospec.identity import identity
from cospec.resume import SETTINGS, RowFile, Wanted, check_settings, differences, digest, read_rows
from cospec.runner.fingerprint import MOST_HASHED, fingerprint

# What differs, in words.


@pytest.mark.parametrize(
    ("kept", "now", "said"),
    [
        ({"temperature": 0.7}, {"temperature": 1.0}, ["temperature 0.7 was kept, 1.0 is asked"]),
        ({}, {"seed": 1}, ["no seed was kept, 1 is asked"]),
        ({"seed": 1}, {"seed": None}, ["seed 1 was kept, none is asked"]),
        ({"prompt": digest("a")}, {"prompt": digest("b")}, ["prompt has changed"]),
        ({"members": {"a": {"dtype": "auto"}}}, {"members": {"a": {"dtype": "float16"}}}, ["members.a.dtype auto was"]),
        ({"members": {"a": {}}}, {"members": {"a": {}, "b": {}}}, ["no members.b was kept, one is asked"]),
        ({"stop": []}, {"stop": ["x"]}, ['stop [] was kept, ["x"] is asked']),
        ({"prompts": [digest("a"), digest("b")]}, {"prompts": [digest("a"), digest("c")]}, ["prompts[1] has changed"]),
    ],
)
def test_what_differs_is_named_with_both_values(kept, now, said):
    found = [*differences(kept, now)]
    assert len(found) == len(said)
    assert all(one.startswith(other) for one, other in zip(found, said, strict=True))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


@given(OBJECTS, OBJECTS)
@example({"a": True}, {"a": 1})
def test_settings_are_the_same_exactly_where_nothing_differs(kept, now):
    """A setting that is null is one that was not given."""
    assert ([*differences(kept, now)] == []) == (without_nulls(kept) == without_nulls(now))
    assert [*differences(now, now)] == []


def test_a_long_list_of_differences_is_cut():
    with pytest.raises(CospecError, match=r"a 0 was kept, 1 is asked; .*; and 4 more\. Go away"):
        check_settings("x", dict.fromkeys("abcdefghij", 0), dict.fromkeys("abcdefghij", 1), "Go away")


def test_each_drafter_is_held_against_what_drafted_before(tmp_path):
    """Two of one name, in their order; a member that is named by its model is none."""

    def made(*proposers):
        return identity({"members": ["demo:math", "demo:general"], "proposer": [*proposers], "schedule": "mixture"})

    one, other = tmp_path / "1" / "small", tmp_path / "2" / "small"
    for folder, text in ((one, "1"), (other, "2")):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(text)
    assert [each["name"] for each in made(one, other)["drafters"]] == ["small", "small-2"]
    assert [*differences(made(one, other), made(one, one))]
    assert [*differences(made(one, other), made(other, one))]
    assert made("demo:math") == made("math")
    assert "drafters" not in made("demo:math")
    assert made("math") != made("general")


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        (1 << 40).to_bytes(8, "little"),
        *(
            len(text).to_bytes(8, "little") + text
            for text in (
                b"none",
                b"\xff{}\xfe",
                b"[]",
                b'{"w": 1}',
                b'{"w": {}}',
                b'{"w": {"data_offsets": [1]}}',
                b'{"w": {"data_offsets": ["a", "b"]}}',
                b'{"w": {"data_offsets": [0.5, 1.5]}}',
                b'{"w": {"data_offsets": [-999, 0]}}',
                b'{"w": {"data_offsets": [0, 999999999999999999999999]}}',
                b"[" * 99999,
            )
        ),
    ],
    ids=range(13),
)
def test_broken_weights_have_a_fingerprint_that_changes_with_them(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(header + bytes(2 * MOST_HASHED))
    before = fingerprint(str(path))
    path.write_bytes(header + b"\1" * (2 * MOST_HASHED))
    assert fingerprint(str(path)) != before


# Rows.


def wanted(*prompts, temperature=1.0):
    return {
        number: Wanted(place=f"in:{number}", settings={"prompt": digest(prompt), "temperature": temperature})
        for number, prompt in enumerate(prompts)
    }


def run(path, rows, *, most=99):
    """A run that answers what is wanted, `most` rows of it: each row is its own settings."""
    kept = read_rows(path, "index", rows, "result")
    with RowFile(path, kept) as file:
        for number in [number for number in rows if number not in kept.rows][:most]:
            file.append({"index": number, SETTINGS: rows[number].settings})


PROMPTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=5)


@given(st.data(), PROMPTS, PROMPTS, st.sampled_from([0.5, 1.0]), st.integers(0, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_second_run_gives_a_fresh_runs_rows_or_is_refused_and_changes_nothing(
    tmp_path, data, first, second, temperature, most
):
    """For any edit of prompts and options, and a first run that was killed at any byte."""
    path = tmp_path / "out.jsonl"
    path.unlink(missing_ok=True)
    run(path, wanted(*first), most=most)
    raw = path.read_bytes()
    before = raw[: data.draw(st.integers(0, len(raw)))]
    path.write_bytes(before)
    now = wanted(*second, temperature=temperature)
    try:
        run(path, now)
    except CospecError:
        assert path.read_bytes() == before
        whole = [json.loads(line) for line in before.split(b"\n") if line.endswith(b"}}")]
        numbers = [row["index"] for row in whole]
        assert any(i >= len(second) or first[i] != second[i] or temperature != 1.0 for i in numbers)
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert sorted(rows, key=lambda row: row["index"]) == [
            {"index": number, SETTINGS: row.settings} for number, row in now.items()
        ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"index": 7}', "is no result; give another file"),
        ('{"index": true}', "is no result"),
        ('{"index": [1]}', "is no result"),
        ("[1]", "is no result"),
        ("\n{}", "is no result"),
        ('{"index": 0}', "an earlier version of cospec wrote it"),
        ('{"index": 0, "settings": 3}', "an earlier version of cospec wrote it"),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path, content, said):
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(CospecError, match=rf"out\.jsonl:1 .*{said}"):
        read_rows(path, "index", wanted("a", "b"), "result")


def test_a_second_row_for_one_prompt_is_refused(tmp_path):
    path, row = tmp_path / "out.jsonl", json.dumps({"index": 0, SETTINGS: wanted("a")[0].settings})
    path.write_text(f"{row}\n{row}\n")
    with pytest.raises(CospecError, match=r"out\.jsonl:2 is the second result for in:0; remove one"):
        read_rows(path, "index", wanted("a"), "result")


def test_a_model_that_is_downloaded_by_the_first_run_is_the_same_in_the_second(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    before = identity({"members": ["someone/model"]})
    snapshot = tmp_path / "models--someone--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--someone--model" / "refs").mkdir()
    (tmp_path / "models--someone--model" / "refs" / "main").write_text("a" * 40)
    after = identity({"members": ["someone/model"]})
    assert before != after
    assert not [*differences(before, after)]
    assert [*differences(after, identity({"members": ["someone/other"]}))]
    (tmp_path / "models--someone--model" / "refs" / "main").write_text("b" * 40)
    newer = tmp_path / "models--someone--model" / "snapshots" / ("b" * 40)
    newer.mkdir()
    (newer / "config.json").write_text("{}")
    assert [*differences(after, identity({"members": ["someone/model"]}))]
