"""What an ensemble's output depends on, known before a model is loaded; results are held against it (see `resume`)."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .core.combine import Combination, as_combination, settings_of
from .members import Member, as_drafters, as_member, unique_names, with_backends, written
from .resume import plain
from .runner import LoadOptions
from .runner.fingerprint import fingerprint, is_local
from .runner.options import LLAMA_CPP, device_of
from .runner.parts import parts_of
from .schedule import Plan

# Load options that change no distribution: where memory comes from, and what may be run.
_IRRELEVANT = ("device", "gpu_layers", "graphs", "trust_remote_code", "allow_pickle")


def identity(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Members, target and plan of the ensemble that these arguments of `Ensemble` make, in JSON's types.

    Schedule and verification change no distribution, but with a seed they change the text, and always what is counted.
    """
    members = [as_member(member) for member in arguments["members"]]
    names = unique_names(members)
    options = {entry.name: arguments[entry.name] for entry in fields(LoadOptions) if entry.name in arguments}
    drafting = as_drafters(arguments.get("proposer"), members, names, arguments.get("schedule") or Plan.schedule)
    members, models = _run_by(members, drafting.models, options)
    # A list: where each member has a drafter, their order says whose is whose.
    drafters = [{"name": name, **_member(model, options)} for name, model in zip(drafting.names, models, strict=True)]
    defaults = {"schedule": Plan.schedule, "verification": Plan.verification}
    plan = {key: arguments.get(key) for key in ("schedule", "gamma", "first", "verification")}
    return {
        "members": {name: _member(member, options) for name, member in zip(names, members, strict=True)},
        "combination": _combination(arguments.get("combine"), len(members)),
        **defaults,
        **{key: _json(value) for key, value in plan.items() if value is not None},
        **({"end_tokens": [*ends]} if (ends := arguments.get("end_tokens")) else {}),
        **({"proposer": drafting.proposer} if drafting.proposer else {}),
        **({"drafters": drafters} if drafters else {}),
    }


def _run_by(
    members: Sequence[Member], drafters: Sequence[Member], options: Mapping[str, Any]
) -> tuple[list[Member], list[Member]]:
    """Members and drafters under the load options of all, with the back end that runs each: its products round
    otherwise. A device may be another machine's, where a cluster's workers decode: it is named, and not looked for."""
    common = {key: value for key, value in options.items() if key != "device"}
    return with_backends([each.under(common) for each in members], [each.under(common) for each in drafters])


def _member(member: Member, options: Mapping[str, Any]) -> dict[str, Any]:
    device = options.get("device") or device_of(member.options)
    load = member.options
    model = str(member.model) if isinstance(member.model, str | Path) else None
    # A file is known by its fingerprint, however it was named.
    irrelevant = (*_IRRELEVANT, "gguf_file") if model and is_local(model) else _IRRELEVANT
    own = {entry.name: getattr(load, entry.name) for entry in fields(load) if entry.name not in irrelevant}
    # As in results from before there was a choice.
    if not load.is_invariant:
        del own["numerics"]
    if load.backend != LLAMA_CPP:
        del own["backend"]
    if load.tokenizer is not None:
        own["tokenizer"] = fingerprint(load.tokenizer)
    files = fingerprint(model, load) if model else None
    parts = parts_of(model, load) if model else None
    base = fingerprint(parts.whole, parts.options) if parts and (parts.adapter or parts.head) else None
    if base:
        # Where the base lies does not matter.
        own["base"] = base
    return {
        # A folder may be moved; a model of the hub keeps its name, and what has no files is known by it alone.
        **({} if model and is_local(model) else {"model": written(member)}),
        **({"files": files} if files else {}),
        **({"prompt": member.prompt} if member.prompt is not None else {}),
        **({"system": member.system} if member.system is not None else {}),
        **{key: _json(value) for key, value in own.items() if value not in (None, {})},
        "device": device.partition(":")[0],
    }


def _combination(combine: Combination | str | None, num_members: int) -> dict[str, Any]:
    made = as_combination(combine, num_members)
    return {"type": made.name, **{key: _json(value) for key, value in settings_of(made).items()}}


def _json(value: object) -> Any:
    """The value in JSON's types, as Python writes it where it has none of them."""
    try:
        return plain(value)
    except TypeError:
        return repr(value)
