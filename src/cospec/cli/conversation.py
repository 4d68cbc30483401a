"""The conversation of `cospec chat`: what was said, and the file that keeps it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from ..errors import InvalidPrompt
from ..inputs import check_unicode, lines, parse_json, read_text, validated
from ..prompts import Chat
from ..storage import check_place, keep

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A message. cut: whether Ctrl-C ended it."""

    role: Role
    content: str
    cut: bool = False

    @property
    def message(self) -> dict[str, str]:
        """As a chat template takes it."""
        return {"role": self.role, "content": self.content}

    @property
    def line(self) -> str:
        """As a file keeps it, in JSON."""
        return json.dumps(self.message | ({"cut": True} if self.cut else {}), ensure_ascii=False)


@dataclass(kw_only=True)
class Conversation:
    """Questions and answers in turn. system: the system message. path: of the file that keeps all, if one does.

    plain: whether models without a chat template are given the plain form.
    """

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    path: Path | None = None
    plain: bool = False

    @classmethod
    def load(cls, path: Path | None, system: str | None) -> Self:
        """The conversation of the file; a new one where there is none. system: takes the place of the file's.

        Raises CospecError for a file that holds anything else or could not be written, before anything is said.
        """
        if system is not None:
            check_unicode(system, "--system", InvalidPrompt)
        if path is None:
            return cls(system=system)
        kept = _read(path) if path.exists() else []
        check_place(path)
        own = kept.pop(0).content if kept and kept[0].role == "system" else None
        return cls(system=own if system is None else system, turns=kept, path=path)

    def asked(self, question: str) -> Chat:
        """The whole chat with this question, which the models are to answer."""
        return Chat(messages=tuple(turn.message for turn in (*self._all, _user(question))), plain=self.plain)

    def add(self, question: str, answer: str, *, is_cut: bool) -> None:
        """Keep a question with its answer. Raises CospecError where the file cannot be written."""
        self.turns += [_user(question), Turn(role="assistant", content=answer, cut=is_cut)]
        self._save()

    def reset(self) -> None:
        """Forget all but the system message. Raises as `add` does."""
        self.turns.clear()
        self._save()

    def set_system(self, text: str | None) -> None:
        """Raises as `add` does, and InvalidPrompt for a text that is no Unicode."""
        check_unicode(text or "", "the system message", InvalidPrompt)
        self.system = text
        self._save()

    def _save(self) -> None:
        """Write the file, if there is one. Raises CospecError where it cannot be written."""
        if self.path is not None:
            keep(self.path, "".join(f"{turn.line}\n" for turn in self._all))

    @property
    def _all(self) -> list[Turn]:
        return [*([] if self.system is None else [Turn(role="system", content=self.system)]), *self.turns]


def _user(text: str) -> Turn:
    return Turn(role="user", content=text)


def _read(path: Path) -> list[Turn]:
    """The messages of a file, perhaps one of the system first. Raises InvalidPrompt, with file and line."""
    turns, found = [], [*lines(read_text(path, InvalidPrompt, "conversation"), str(path))]
    for line, where in found:
        value = parse_json(line, where, InvalidPrompt)
        # Escaped, half a surrogate pair is JSON all the same.
        check_unicode(json.dumps(value, ensure_ascii=False), f"{where}: the message", InvalidPrompt)
        turns.append(validated(Turn, value, where, InvalidPrompt))
    _check_order(turns, [where for _, where in found])
    return turns


def _check_order(turns: Sequence[Turn], places: Sequence[str]) -> None:
    """Raises InvalidPrompt, with file and line, unless questions and answers take turns."""
    first = 1 if turns and turns[0].role == "system" else 0
    for number, (turn, where) in enumerate(zip(turns[first:], places[first:], strict=True)):
        wanted = ("user", "assistant")[number % 2]
        if turn.role != wanted:
            raise InvalidPrompt(f"{where}: role: want {wanted!r}, whose turn it is, got {turn.role!r}")
    if (len(turns) - first) % 2:
        raise InvalidPrompt(f"{places[-1]}: the last question has no answer; remove the line, and ask it again")
