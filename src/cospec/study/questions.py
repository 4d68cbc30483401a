"""The prompts of a study, read from a file: with a category, a reference and a way to score, where they have them."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from ..errors import InvalidPrompt
from ..inputs import at, check_unicode, lines, parse_json, read_text, validated
from ..prompts import Chat
from .results import ALL
from .scoring import EXACT, NO_SCORE, REGEX, check_scorer

BUNDLED = Path(__file__).parent / "prompts.jsonl"
# The category of prompts that name none, and that of texts given apart from the prompts.
UNSORTED, TEXTS = "prompts", "texts"

# The fields of a prompt in a file, and their place, `file:line`.
Entry = tuple[Mapping[str, Any], str]


class PromptLine(TypedDict, total=False):
    """A prompt as a file writes it, a text or the messages of a chat; see Question."""

    prompt: str | None
    messages: list[dict[str, Any]] | None
    category: str | None
    reference: str | int | float | None
    score: str | None
    text: str | None
    id: str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt. reference: what its answer is scored against. score: how, see `scoring`. text: a good continuation,
    whose perplexity is measured; None for the reference, unless that is a pattern. where: its file and line.
    """

    prompt: str | Chat
    where: str
    id: str
    category: str = UNSORTED
    reference: str | None = None
    score: str = EXACT
    text: str | None = None

    @property
    def continuation(self) -> str | None:
        """The text after the prompt whose perplexity is measured."""
        if self.text is not None or self.score == REGEX:
            return self.text
        return self.reference

    @property
    def is_scored(self) -> bool:
        return self.reference is not None and self.score != NO_SCORE


def read_questions(path: Path | None, score: str = EXACT) -> list[Question]:
    """The prompts of a file, by its ending: .jsonl (objects or strings), .csv (with a header) or .txt (one a line).

    path: None for the bundled ones. score: how prompts are scored that do not say so themselves. Raises InvalidPrompt,
    UnknownName or InvalidPilot, with file and line.
    """
    if path is None:
        bundled = _json_lines(BUNDLED.read_text(encoding="utf-8"), "bundled")
        return [_question(value, where, score) for value, where in bundled]
    found = _read(path, score)
    if not found:
        raise InvalidPrompt(f"{path} holds no prompts (read to its last line); give at least two")
    counts = Counter(question.category for question in found)
    for question in found:
        if counts[question.category] == 1:
            raise InvalidPrompt(
                f"{question.where}: the category {question.category!r} has only this one prompt, so its spread cannot "
                "be estimated; give it at least two, or put the prompt into another category"
            )
    return found


def read_texts(path: Path) -> dict[str, str]:
    """Texts to measure perplexity on, one or more, as a file of prompts has them, by their place, `file:line`.

    Raises as `read_questions` does."""
    found = {}
    for question in _read(path, EXACT):
        if isinstance(question.prompt, Chat):
            raise InvalidPrompt(f'{question.where}: "messages" are no text to measure perplexity on; give a "prompt"')
        found[question.where] = question.prompt
    if not found:
        raise InvalidPrompt(f"{path} holds no texts (read to its last line)")
    return found


def _read(path: Path, score: str) -> list[Question]:
    if path.suffix not in _READERS:
        raise InvalidPrompt(f"{str(path)!r} ends with {path.suffix!r}; prompts come as {', '.join(_READERS)}")
    entries = _READERS[path.suffix](read_text(path, InvalidPrompt, "prompts"), str(path))
    return [_question(value, where, score) for value, where in entries]


def _json_lines(text: str, name: str) -> Iterator[Entry]:
    for line, where in lines(text, name):
        value = parse_json(line, where, InvalidPrompt)
        if not isinstance(value, str | dict):
            raise InvalidPrompt(
                f'{where}: give a JSON string, or an object with "prompt" or "messages" and perhaps category, '
                "reference, score, text and id"
            )
        yield {"prompt": value} if isinstance(value, str) else value, where


def _table(text: str, name: str) -> Iterator[Entry]:
    """Each row without its empty cells, and the line that it ends in."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, row in enumerate(rows, start=1):
            where = f"{name}:{rows.line_num}"
            if None in row or None in row.values():
                raise InvalidPrompt(f"{where}: a row of another length than the header {rows.fieldnames}")
            yield {"id": str(number)} | {key: value for key, value in row.items() if value}, where
    except csv.Error as error:
        raise InvalidPrompt(f"{name}:{rows.line_num}: not CSV ({error})") from None


def _plain_lines(text: str, name: str) -> Iterator[Entry]:
    return (({"prompt": line}, where) for line, where in lines(text, name))


def _question(value: Mapping[str, Any], where: str, score: str) -> Question:
    for key, inner in value.items():
        if isinstance(inner, str):
            check_unicode(inner, f"{where}: the {key}", InvalidPrompt)
    entry = validated(PromptLine, value, where, InvalidPrompt)
    prompt = _prompt(entry, where)
    given = {key: str(inner) for key, inner in entry.items() if inner is not None and key not in ("prompt", "messages")}
    if given.get("category") in (ALL, TEXTS):
        raise InvalidPrompt(f"{where}: the category {given['category']!r} is the report's own; give it another name")
    if "score" in given:
        check_scorer(given["score"], f"{where}: score")
    found = Question(prompt=prompt, where=where, **{"id": where.rpartition(":")[2], "score": score, **given})
    if found.score == REGEX and found.reference is not None:
        try:
            re.compile(found.reference)
        except re.error as error:
            message = f"{where}: the reference {found.reference!r} is no regular expression: {error}"
            raise InvalidPrompt(message) from None
    return found


def _prompt(entry: PromptLine, where: str) -> str | Chat:
    """Raises InvalidPrompt unless there is a text or a chat, and one of them alone."""
    prompt, messages = entry.get("prompt"), entry.get("messages")
    if prompt is not None and messages is not None:
        raise InvalidPrompt(f'{where}: "prompt" and "messages" exclude each other; give one of them')
    if messages is not None:
        with at(where):
            return Chat(messages=tuple(messages), plain=True)
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidPrompt(f'{where}: no "prompt" here; give a text of at least one character')
    return prompt


def balanced(questions: list[Question], most: int) -> list[int]:
    """Indices of at most `most` questions, spread evenly over the categories, in their order."""
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
