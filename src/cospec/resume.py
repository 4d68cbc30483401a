"""Result files that a later run of the same command goes on with.

What is kept says which settings it was made with. They are held against those of the present run, one by one, so that
a file never mixes the results of two.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from .errors import CospecError
from .storage import keep, refusal, to_json

# The key of a row under which its settings stand.
SETTINGS = "settings"
# What a hash begins with, so that messages say that something changed and not how its hash did.
DIGEST = "blake2b:"
# The hash of what is not here yet, which is held against nothing.
UNKNOWN = f"{DIGEST}?"
# So many differences are named in a message, and a value is cut behind so many characters.
MOST_NAMED, MOST_SHOWN = 6, 80

_REMEDY = "Give the same settings to go on, or another file"

Settings = Mapping[str, Any]


def digest(value: object) -> str:
    """A hash of a value in JSON's types, such as a text that is too long to be kept beside its result."""
    return DIGEST + blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def differences(kept: object, now: object, name: str = "") -> Iterator[str]:
    """What differs between settings, in words, setting by setting; both in JSON's types."""
    if isinstance(kept, Mapping) and isinstance(now, Mapping):
        for key in {**kept, **now}:
            yield from differences(kept.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif kept == now or UNKNOWN in (kept, now):
        return
    elif isinstance(kept, list) and isinstance(now, list) and (_is_long(kept) or _is_long(now)):
        for place in range(max(len(kept), len(now))):
            one, other = (each[place] if place < len(each) else None for each in (kept, now))
            yield from differences(one, other, f"{name}[{place}]")
    elif _is_opaque(kept) and _is_opaque(now):
        yield f"{name} has changed"
    elif now is None:
        yield f"{name}{_shown(kept)} was kept, none is asked"
    elif kept is None:
        yield f"no {name} was kept, {'one' if _is_opaque(now) else _shown(now).strip()} is asked"
    else:
        yield f"{name}{_shown(kept)} was kept,{_shown(now) or ' another'} is asked"


def check_settings(
    what: str, kept: object, now: object, remedy: str, error_type: type[CospecError] = CospecError
) -> None:
    """Raises `error_type` unless the settings are the same. what: is kept. remedy: what to do, besides."""
    if differing := [*differences(plain(kept), plain(now))]:
        more = f"; and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
        named = "; ".join(differing[:MOST_NAMED])
        raise error_type(f"{what} was made with other settings: {named}{more}. {remedy}")


def plain(value: object) -> Any:
    """The value as it comes back from a file of JSON: a tuple as a list, and keys as strings."""
    return json.loads(to_json(value))


def _is_opaque(value: object) -> bool:
    """Whether the value itself says nothing to a reader."""
    return isinstance(value, Mapping) or (isinstance(value, str) and value.startswith(DIGEST))


def _is_long(values: list[object]) -> bool:
    """Whether a list is compared item by item."""
    return any(map(_is_opaque, values)) or len(json.dumps(values)) > MOST_SHOWN


def _shown(value: object) -> str:
    """The value in a message, behind a space; empty for what says nothing."""
    if _is_opaque(value):
        return ""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return f" {text[:MOST_SHOWN]}…" if len(text) > MOST_SHOWN else f" {text}"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A row that a run is to have written.

    place: where its prompt or request stands, for messages. settings: everything that the row depends on.
    """

    place: str
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class KeptRows:
    """Rows of a file by number. redone: places in the file, from 1, of the rows that are to be replaced."""

    rows: Mapping[int, Settings] = field(default_factory=dict)
    redone: frozenset[int] = frozenset()


def read_rows(
    path: Path,
    key: str,
    wanted: Mapping[int, Wanted],
    what: str,
    *,
    defaults: Settings | None = None,
    may_redo: Callable[[Settings], bool] = lambda row: False,
) -> KeptRows:
    """The rows of a file that stand, held against what is wanted now; none where there is no file.

    key: a row's number stands under it. what: a row is, for messages. defaults: settings that rows leave out. may_redo:
    whether a row may be replaced where its settings differ. Raises CospecError, with the place in the file and what
    differs, for a row of other settings, and for a line that is no such row.
    """
    if path.exists() and not path.is_file():
        raise CospecError(f"{path} is no regular file, which a later run could go on with; give another one")
    try:
        lines = _whole_lines(path.read_bytes()) if path.exists() else []
    except OSError as error:
        raise CospecError(f"the results in {str(path)!r} cannot be read: {error.strerror or error}") from None
    rows: dict[int, Settings] = {}
    redone = set()
    for place, line in enumerate(lines, start=1):
        row, where = _parsed(line), f"{path}:{place}"
        number = row.get(key) if row else None
        own = wanted.get(number) if isinstance(number, int) else None
        made_with = {**(defaults or {}), **row[SETTINGS]} if row and isinstance(row.get(SETTINGS), Mapping) else None
        if row and made_with and may_redo(row) and (own is None or made_with != plain(own.settings)):
            redone.add(place)
        elif row is None or own is None or not isinstance(number, int):
            raise CospecError(f"{where} is no {what}; give another file, or remove the line")
        elif number in rows:
            raise CospecError(f"{where} is the second {what} for {own.place}; remove one of the two")
        elif made_with is None:
            raise CospecError(
                f"{where} is no {what} that says which settings it was made with, since an earlier version of cospec "
                "wrote it; give another file, or remove this one"
            )
        else:
            check_settings(f"{where}, for {own.place},", made_with, own.settings, _REMEDY)
            rows[number] = row
    return KeptRows(rows=rows, redone=frozenset(redone))


class RowFile:
    """Appends rows, a line each, to a file of which `kept` was read.

    What is to be replaced, and the incomplete line that a killed run leaves, goes as the first row is appended. Raises
    CospecError, with the file's name, where it cannot be written.
    """

    def __init__(self, path: Path, kept: KeptRows) -> None:
        self._path, self._kept, self._is_clean = path, kept, False
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._is_clean:
            self._clean()
        self.close()

    def append(self, row: Settings) -> None:
        if not self._is_clean:
            self._clean()
        line = (to_json(row) + "\n").encode()
        length = os.fstat(self._file.fileno()).st_size
        try:
            if (written := self._file.write(line)) != len(line):
                # Where a part found room, what follows says why not all did.
                self._file.write(line[written:])
        except OSError as error:
            self._file.truncate(length)
            raise refusal(self._path, error) from None

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        try:
            # Unbuffered: a row is in the file, or not, when `append` returns.
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise refusal(self._path, error) from None

    def _clean(self) -> None:
        raw = self._path.read_bytes()
        lines = [line for place, line in enumerate(_whole_lines(raw), start=1) if place not in self._kept.redone]
        text = b"".join(line + b"\n" for line in lines)
        if text != raw:
            self._file.close()
            keep(self._path, text.decode())
            self._open()
        self._is_clean = True


def _whole_lines(raw: bytes) -> list[bytes]:
    """All but the incomplete line that a run leaves which is killed while it writes."""
    *lines, last = raw.split(b"\n")
    is_incomplete = last.startswith(b"{") and _parsed(last) is None
    return [*lines, last] if last and not is_incomplete else lines


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of this line, None where it holds none."""
    try:
        value = json.loads(line.decode())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
