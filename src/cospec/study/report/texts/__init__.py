"""What the report says, a file a language. Every file has every key; fields in braces are filled in."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from ....errors import UnknownName

LANGUAGES = ("en", "ja")


@dataclass(frozen=True)
class Texts:
    """language: en or ja. table: key -> text."""

    language: str
    table: Mapping[str, str]

    def __call__(self, key: str, values: Mapping[str, object] | None = None) -> str:
        """That text, its fields filled in."""
        return self.table[key].format_map(values or {})


@cache
def load_texts(language: str) -> Texts:
    """Read once in a process. Raises UnknownName for a language that there is no file of."""
    if language not in LANGUAGES:
        raise UnknownName("language", language, LANGUAGES)
    nested = yaml.safe_load((Path(__file__).parent / f"{language}.yaml").read_text(encoding="utf-8"))
    # A per cent sign stays with its number.
    table = {
        f"{group}.{key}": text.replace(" %", "\u00a0%") for group, keys in nested.items() for key, text in keys.items()
    }
    return Texts(language, table)
