"""Ensembles written down: a YAML file, or the name of a bundled one, -> settings of `Ensemble`."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Required

from typing_extensions import TypedDict

from . import demo
from .core.combine import make_combination
from .errors import InvalidCombination, InvalidEnsemble, UnknownName
from .inputs import read_yaml, validated
from .members import Member, unique_names
from .runner import LoadOptions
from .runner.schemes import LOOKUPS
from .schedule import Plan

# The settings that hold a plan.
PLAN_SETTINGS = ("schedule", "gamma", "proposer", "first", "verification")
LOAD_OPTIONS = {entry.name for entry in fields(LoadOptions)}
SETTINGS = {"members", "combine", *PLAN_SETTINGS, "max_sequences", *LOAD_OPTIONS}


class LoadSettings(TypedDict, total=False):
    """The load options as a file writes them; see LoadOptions."""

    dtype: str
    device: str | None
    quantization: dict[str, Any] | str
    trust_remote_code: bool
    allow_pickle: bool
    graphs: bool | str
    revision: str | None


class MemberSettings(LoadSettings, total=False):
    """A member as a file lists it; see Member."""

    model: Required[str]
    name: str | None
    prompt: str | list[int] | None


class EnsembleSettings(LoadSettings, total=False):
    """An ensemble's file; see Ensemble."""

    members: list[str | MemberSettings]
    combine: str | dict[str, int | float | str | list[float] | None] | None
    schedule: str
    gamma: int | list[int] | str | None
    proposer: str | list[str] | None
    first: str | None
    verification: str
    max_sequences: int


def read_settings(spec: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The file's settings under the overrides: `members` as Member objects, `combine` as a combination.

    Folders that the file names, of members and proposers, are relative to it. Overrides that are None count as absent.
    Raises InvalidEnsemble for a file that cannot be read or used, UnknownName for unknown settings.
    """
    path = demo.ensemble_path(str(spec)) if demo.is_demo(str(spec)) else Path(spec).expanduser()
    own = _read(path)
    for key in overrides:
        if key not in SETTINGS:
            raise UnknownName("ensemble setting", key, SETTINGS)
    given = {key: value for key, value in overrides.items() if value is not None}
    settings = {**own, **given}
    listed = settings.get("members")
    if not isinstance(listed, list | tuple) or not listed:
        raise InvalidEnsemble(f"{path} lists no members; give `members:` a list of models")
    members = [_member(entry, path.parent) for entry in listed]
    if "proposer" in own and "proposer" not in given:
        settings["proposer"] = _proposers(own["proposer"], unique_names(members), path.parent)
    combination = _combination(settings.get("combine"), own.get("combine"), len(members))
    return {**settings, "members": members, "combine": combination}


def plan_settings(plan: Plan, proposers: Sequence[str]) -> dict[str, Any]:
    """The values of `PLAN_SETTINGS` that make this plan. proposers: as the file is to name them."""
    settings: dict[str, Any] = {"schedule": plan.name}
    if plan.is_paced:
        settings["gamma"] = plan.gamma
    elif plan.gammas:
        settings["gamma"] = _one_or_all(plan.gammas)
    if proposers:
        settings["proposer"] = _one_or_all(proposers)
    if plan.first:
        settings["first"] = plan.first
    return settings | {"verification": plan.verification}


def _one_or_all(values: Sequence[Any]) -> Any:
    return list(values) if len(values) > 1 else values[0]


def has_relative_models(path: Path) -> bool:
    """Whether the file names folders relative to its own. Raises InvalidEnsemble if it cannot be read."""
    settings = _read(path)
    models = [entry if isinstance(entry, str) else entry["model"] for entry in settings.get("members", [])]
    models += _listed(settings.get("proposer"))
    return any(not Path(model).is_absolute() and _beside(model, path.parent) != model for model in models)


def _read(path: Path) -> EnsembleSettings:
    if not path.is_file():
        raise InvalidEnsemble(
            f"no ensemble file at {str(path)!r}; give a YAML file or one of {', '.join(demo.ensembles())}"
        )
    return validated(EnsembleSettings, read_yaml(path, InvalidEnsemble), str(path), InvalidEnsemble)


def _listed(proposer: str | list[str] | None) -> list[str]:
    return [proposer] if isinstance(proposer, str) else proposer or []


def _beside(model: str, folder: Path) -> str:
    """The model's folder where `folder` holds it; otherwise the model as written."""
    is_name = demo.is_demo(model) or model in LOOKUPS or not model
    return str(folder / model) if not is_name and (folder / model).is_dir() else model


def _proposers(given: str | list[str] | None, members: Sequence[str], folder: Path) -> str | list[str] | None:
    """Members by their names, and other models by their folders."""
    found = [name if name in members else _beside(name, folder) for name in _listed(given)]
    return found[0] if isinstance(given, str) else found or None


def _combination(given: Any, own: Any, num_members: int) -> Any:
    """A combination object from a name, a mapping with `type`, or one without it, which changes the file's own."""
    if given is None or not isinstance(given, str | Mapping):
        return given
    options = _options(given)
    if "type" not in options:
        options = {**_options(own or {}), **options}
    if isinstance(options.get("weights"), str):
        raise InvalidCombination(f"combine: weights must be a list of numbers, got {options['weights']!r}")
    return make_combination(str(options.pop("type", "mixture")), num_members, **options)


def _options(combine: Any) -> dict[str, Any]:
    return {"type": combine} if isinstance(combine, str) else dict(combine)


def _member(entry: Any, folder: Path) -> Member:
    """A member from a file or an override: a Member, a model, or the mapping of MemberSettings."""
    if isinstance(entry, Member):
        return entry
    if isinstance(entry, str | Path):
        return Member(model=_beside(str(entry), folder))
    if not isinstance(entry, Mapping):
        return Member(model=entry)
    settings: dict[str, Any] = dict(validated(MemberSettings, entry, "members", InvalidEnsemble))
    model, name, prompt = settings.pop("model"), settings.pop("name", None), settings.pop("prompt", None)
    return Member(model=_beside(model, folder), name=name, prompt=prompt, options=LoadOptions(**settings))
