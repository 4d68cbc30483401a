"""Ensembles written down: a YAML file, or the name of a bundled one, -> settings of `Ensemble`."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from . import demo
from .core.combine import make_combination
from .errors import InvalidEnsemble, UnknownName
from .members import Member
from .runner.hf import LoadOptions
from .schedule import Plan

# Those that a plan stands in.
PLAN_SETTINGS = ("schedule", "gamma", "proposer", "first", "verification")
LOAD_OPTIONS = {entry.name for entry in fields(LoadOptions)}
SETTINGS = {
    "members",
    "combine",
    *PLAN_SETTINGS,
    "max_sequences",
    *LOAD_OPTIONS,
}
_MEMBER_SETTINGS = {"model", "name", "prompt", *LOAD_OPTIONS}


def read_settings(spec: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The file's settings under the overrides: `members` as Member objects, `combine` as a combination.

    Raises InvalidEnsemble for a file that cannot be read, UnknownName for settings that are not known.
    """
    path = demo.ensemble_path(str(spec)) if demo.is_demo(str(spec)) else Path(spec).expanduser()
    own = _read(path)
    settings = {**own, **{key: value for key, value in overrides.items() if value is not None}}
    for key in settings:
        if key not in SETTINGS:
            raise UnknownName("ensemble setting", str(key), SETTINGS)
    members = settings.get("members")
    if not isinstance(members, list | tuple) or not members:
        raise InvalidEnsemble(f"{path} lists no members; give `members:` a list of models")
    settings["members"] = [_member(entry, path.parent) for entry in members]
    settings["combine"] = _combination(settings.get("combine"), own.get("combine"), len(members))
    return settings


def plan_settings(plan: Plan, proposers: Sequence[str]) -> dict[str, Any]:
    """Those of `PLAN_SETTINGS` that make this plan. proposers: as the file is to name them."""
    settings: dict[str, Any] = {"schedule": plan.schedule}
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
    """Whether the file names folders that are looked for beside it. Raises InvalidEnsemble if it cannot be read."""
    members = _read(path).get("members") or ()
    models = [str(entry.get("model", "") if isinstance(entry, Mapping) else entry) for entry in members]
    return any(not Path(model).is_absolute() and (path.parent / model).is_dir() for model in models if model)


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidEnsemble(
            f"no ensemble file at {str(path)!r} ({type(error).__name__}); "
            f"give a YAML file or one of {', '.join(demo.ensembles())}"
        ) from None
    except yaml.YAMLError as error:
        raise InvalidEnsemble(f"{path} is not YAML: {error}") from None
    if not isinstance(settings, dict):
        raise InvalidEnsemble(f"{path} holds no settings; it needs at least `members:`")
    return settings


def _combination(given: Any, own: Any, num_members: int) -> Any:
    """A combination object from a name, a mapping with `type`, or one without it, which changes the file's own."""
    if given is None or not isinstance(given, str | Mapping):
        return given
    options = _options(given)
    if "type" not in options:
        options = {**_options(own or {}), **options}
    return make_combination(str(options.pop("type", "mixture")), num_members, **options)


def _options(combine: Any) -> dict[str, Any]:
    return {"type": combine} if isinstance(combine, str) else dict(combine)


def _member(entry: Any, folder: Path) -> Member:
    """A member as a file lists it: a model, or a mapping with `model` and what else there is."""
    if isinstance(entry, Member):
        return entry
    if not isinstance(entry, str | Path | Mapping):
        return Member(model=entry)
    settings: dict[str, Any] = dict(entry) if isinstance(entry, Mapping) else {"model": entry}
    for key in settings:
        if key not in _MEMBER_SETTINGS:
            raise UnknownName("member setting", str(key), _MEMBER_SETTINGS)
    if "model" not in settings:
        raise InvalidEnsemble(f"a member without `model`: {settings}; name its folder, hub id or demo model")
    model = str(settings.pop("model"))
    # Relative paths in a file are relative to the file.
    if not demo.is_demo(model) and (folder / model).is_dir():
        model = str(folder / model)
    name, prompt = settings.pop("name", None), settings.pop("prompt", None)
    return Member(model=model, name=name, prompt=prompt, options=LoadOptions(**settings))
