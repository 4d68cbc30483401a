"""Prompts of a study, as files give them: with a category, a reference and a way to score, if they have them."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidPrompt, UnknownName
from .results import ALL
from .scoring import EXACT, NO_SCORE, REGEX, check_scorer

BUNDLED = Path(__file__).parent / "prompts.jsonl"
# What prompts without a category are taken to be of, and the category of texts that stand apart from the prompts.
UNSORTED, TEXTS = "prompts", "texts"
KEYS = ("prompt", "category", "reference", "score", "text", "id")

# What a line of a file holds, where that is, and its number.
Entry = tuple[Mapping[str, Any], str, int]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt. reference: what its answer is scored against. score: how, see `scoring`.

    text: a good continuation, whose perplexity is taken; the reference unless given, or unless that is a pattern.
    where: its file and line.
    """

    prompt: str
    where: str
    id: str
    category: str = UNSORTED
    reference: str | None = None
    score: str = EXACT
    text: str | None = None

    @property
    def continuation(self) -> str | None:
        """What perplexity is measured on; it goes on where the prompt ends."""
        if self.text is not None or self.score == REGEX:
            return self.text
        return self.reference

    @property
    def is_scored(self) -> bool:
        return self.reference is not None and self.score != NO_SCORE


def read_questions(path: Path | None, score: str = EXACT) -> list[Question]:
    """Those of the file, by its ending: .jsonl (objects or strings), .csv (with a header) or .txt (a prompt a line).

    None for the bundled ones. score: how those that do not say are scored. Raises InvalidPrompt, UnknownName or
    InvalidPilot, with file and line.
    """
    if path is None:
        return [_question(*entry, score) for entry in _json_lines(BUNDLED.read_text(encoding="utf-8"), "bundled")]
    found = _read(path, score)
    if not found:
        raise InvalidPrompt(f"{path} holds no prompts (looked at it to its last line); give at least two")
    _check_categories(found)
    return found


def read_texts(path: Path) -> list[Question]:
    """Texts to measure perplexity on, one or more, as a file of prompts has them. Raises as `read_questions` does."""
    found = _read(path, EXACT)
    if not found:
        raise InvalidPrompt(f"{path} holds no texts (looked at it to its last line)")
    return found


def _read(path: Path, score: str) -> list[Question]:
    if path.suffix not in _READERS:
        raise InvalidPrompt(f"{str(path)!r} ends with {path.suffix!r}; prompts come as {', '.join(_READERS)}")
    return [_question(*entry, score) for entry in _READERS[path.suffix](_text(path), str(path))]


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


def _lines(text: str, name: str) -> Iterator[tuple[str, str, int]]:
    """Those that are not blank, as entries."""
    # Only "\n" ends a line of JSON lines, and "\r\n" one that Windows wrote; str.splitlines knows more.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield line.removesuffix("\r"), f"{name}:{number}", number


def _json_lines(text: str, name: str) -> Iterator[Entry]:
    return ((_from_json(line, where), where, number) for line, where, number in _lines(text, name))


def _from_json(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidPrompt(f"{where}: not JSON ({error})") from None
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise InvalidPrompt(
            f'{where}: give a JSON string, or an object with "prompt" and perhaps {", ".join(KEYS[1:])}'
        )
    return value


def _table(text: str, name: str) -> Iterator[Entry]:
    """Each row without its empty cells, and where it ends."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, row in enumerate(rows, start=1):
            where = f"{name}:{rows.line_num}"
            if None in row or None in row.values():
                raise InvalidPrompt(f"{where}: a row of another length than the header {rows.fieldnames}")
            yield {key: value for key, value in row.items() if value}, where, number
    except csv.Error as error:
        raise InvalidPrompt(f"{name}:{rows.line_num}: not CSV ({error})") from None


def _plain_lines(text: str, name: str) -> Iterator[Entry]:
    return (({"prompt": line}, where, number) for line, where, number in _lines(text, name))


def _question(value: Mapping[str, Any], where: str, number: int, score: str) -> Question:
    for key, inner in value.items():
        if key not in KEYS:
            raise UnknownName(f"key of {where}", str(key), KEYS)
        if inner is not None and not isinstance(inner, str) and not (key in ("id", "reference") and _is_number(inner)):
            raise InvalidPrompt(f"{where}: {key} must be a text, got {inner!r}")
    given = {key: str(inner) for key, inner in value.items() if inner is not None}
    for key, inner in given.items():
        if not _is_unicode(inner):
            raise InvalidPrompt(f"{where}: the {key} is not valid Unicode")
    if not given.get("prompt", "").strip():
        raise InvalidPrompt(f'{where}: no "prompt" here; give a text of at least one character')
    if given.get("category") in (ALL, TEXTS):
        raise InvalidPrompt(f"{where}: the category {given['category']!r} is the report's own; give it another name")
    if "score" in given:
        check_scorer(given["score"], f"{where}: score")
    found = Question(where=where, **{"id": str(number), "score": score, **given})
    if found.score == REGEX and found.reference is not None:
        _check_pattern(found.reference, where)
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_unicode(text: str) -> bool:
    """Half a surrogate pair is taken by no tokenizer."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise InvalidPrompt(f"{where}: the reference {pattern!r} is no regular expression: {error}") from None


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


_READERS: dict[str, Callable[[str, str], Iterator[Entry]]] = {
    ".jsonl": _json_lines,
    ".csv": _table,
    ".txt": _plain_lines,
}
