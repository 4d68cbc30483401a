"""Prompts of a study, as files give them: with a category, a reference and a way to score, if they have them."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidPrompt, UnknownName
from .scoring import NO_SCORE, check_scorer

BUNDLED = Path(__file__).parent / "prompts.jsonl"
# What prompts without a category are taken to be of.
UNSORTED = "prompts"
KEYS = ("prompt", "category", "reference", "score", "text", "id")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt. reference: what its answer is scored against. score: how, see `scoring`; None for the study's way.

    text: a good continuation, whose perplexity is taken; the reference unless given, or unless that is a pattern.
    where: its file and line.
    """

    prompt: str
    where: str
    id: str
    category: str = UNSORTED
    reference: str | None = None
    score: str | None = None
    text: str | None = None

    @property
    def continuation(self) -> str | None:
        """What perplexity is measured on; it goes on where the prompt ends."""
        if self.text is not None or self.score == "regex":
            return self.text
        return self.reference

    @property
    def is_scored(self) -> bool:
        return self.reference is not None and self.score != NO_SCORE


def read_questions(path: Path | None) -> list[Question]:
    """Those of the file, by its ending: .jsonl (objects or strings), .csv (with a header) or .txt (a prompt a line).

    None for the bundled ones. Raises InvalidPrompt or UnknownName, with file and line.
    """
    if path is None:
        return _from_json_lines(BUNDLED.read_text(encoding="utf-8"), "bundled")
    if path.suffix not in _READERS:
        raise InvalidPrompt(f"{str(path)!r} ends with {path.suffix!r}; prompts come as {', '.join(_READERS)}")
    found = _READERS[path.suffix](_text(path), str(path))
    if not found:
        raise InvalidPrompt(f"{path} holds no prompts (looked at it to its last line); give at least two")
    _check_categories(found)
    return found


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidPrompt(f"no prompts can be read from {str(path)!r}: {error.strerror or error}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidPrompt(f"{path}:{line} is not UTF-8: byte {error.start} is {raw[error.start]:#04x}") from None


def _from_json_lines(text: str, name: str) -> list[Question]:
    # Only "\n" ends a line of JSON lines; str.splitlines knows more.
    lines = enumerate(text.split("\n"), start=1)
    return [_from_json(line, f"{name}:{number}", number) for number, line in lines if line.strip()]


def _from_json(line: str, where: str, number: int) -> Question:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidPrompt(f"{where}: not JSON ({error})") from None
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise InvalidPrompt(
            f'{where}: give a JSON string, or an object with "prompt" and perhaps {", ".join(KEYS[1:])}'
        )
    return _question(value, where, number)


def _from_csv(text: str, name: str) -> list[Question]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    return [_question(row, where, number) for number, (row, where) in enumerate(_rows(rows, name), start=1)]


def _rows(rows: "csv.DictReader[str]", name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Each row without its empty cells, and where it ends."""
    try:
        for row in rows:
            where = f"{name}:{rows.line_num}"
            if None in row or None in row.values():
                raise InvalidPrompt(f"{where}: a row of another length than the header {rows.fieldnames}")
            yield {key: value for key, value in row.items() if value}, where
    except csv.Error as error:
        raise InvalidPrompt(f"{name}:{rows.line_num}: not CSV ({error})") from None


def _from_lines(text: str, name: str) -> list[Question]:
    lines = enumerate(text.split("\n"), start=1)
    return [_question({"prompt": line}, f"{name}:{number}", number) for number, line in lines if line.strip()]


def _question(value: Mapping[str, Any], where: str, number: int) -> Question:
    for key, inner in value.items():
        if key not in KEYS:
            raise UnknownName(f"key of {where}", str(key), KEYS)
        if inner is not None and not isinstance(inner, str) and not (key in ("id", "reference") and _is_number(inner)):
            raise InvalidPrompt(f"{where}: {key} must be a text, got {inner!r}")
    given = {key: str(inner) for key, inner in value.items() if inner is not None}
    prompt = given.get("prompt", "")
    if not prompt.strip():
        raise InvalidPrompt(f'{where}: no "prompt" here; give a text of at least one character')
    if not _is_unicode(prompt):
        raise InvalidPrompt(f"{where}: the prompt is not valid Unicode")
    if "score" in given:
        check_scorer(given["score"], f"{where}: score")
    return Question(where=where, id=given.pop("id", str(number)), **given)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_unicode(text: str) -> bool:
    """Half a surrogate pair is taken by no tokenizer."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _check_categories(questions: list[Question]) -> None:
    """Raises InvalidPrompt for a category of which nothing can be said."""
    counts = Counter(question.category for question in questions)
    for question in questions:
        if counts[question.category] == 1:
            raise InvalidPrompt(
                f"{question.where}: the category {question.category!r} has this one prompt, of which no spread can be "
                "told; give it at least two, or put the prompt into another category"
            )


def balanced(questions: list[Question], most: int) -> list[int]:
    """Indices of at most so many, as many of each category as goes, in their order."""
    by_category: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        by_category.setdefault(question.category, []).append(index)
    picked: list[int] = []
    for turn in range(max(map(len, by_category.values()))):
        picked += [indices[turn] for indices in by_category.values() if turn < len(indices)]
    return sorted(picked[:most])


_READERS = {".jsonl": _from_json_lines, ".csv": _from_csv, ".txt": _from_lines}
