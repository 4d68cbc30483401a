"""The bundled models and ensembles, which run offline: `demo:math`, `demo:we`, ..."""

import json
from pathlib import Path

from ..errors import UnknownName

PREFIX = "demo:"
_FOLDER = Path(__file__).parent


def is_demo(name: str) -> bool:
    return name.startswith(PREFIX)


def short_name(name: str) -> str:
    """`demo:math` -> `math`."""
    return name.removeprefix(PREFIX)


def models() -> list[str]:
    """The bundled models' names, as `demo:NAME`."""
    return sorted(PREFIX + path.parent.name for path in _FOLDER.glob("models/*/config.json"))


def ensembles() -> list[str]:
    """The bundled ensembles' names, as `demo:NAME`."""
    return sorted(PREFIX + path.stem for path in _FOLDER.glob("ensembles/*.yaml"))


def model_path(name: str) -> str:
    """The folder of a bundled model. Raises UnknownName."""
    if name not in models():
        raise UnknownName("bundled model", name, models())
    return str(_FOLDER / "models" / short_name(name))


def ensemble_path(name: str) -> Path:
    """The file of a bundled ensemble. Raises UnknownName."""
    if name not in ensembles():
        raise UnknownName("bundled ensemble", name, ensembles())
    return _FOLDER / "ensembles" / f"{short_name(name)}.yaml"


def prompts() -> list[str]:
    """Thirty prompts of our own writing, twenty sums and ten pieces of code, of unequal lengths."""
    lines = (_FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]
