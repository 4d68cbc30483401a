"""Ensembles written down: a YAML file, or the name of a bundled one, -> settings of `Ensemble`."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal, Required

from typing_extensions import TypedDict

from . import demo
from .core.combine import (
    WEIGHTS,
    as_combination,
    combination_names,
    combination_parameters,
    combination_summary,
    make_combination,
)
from .core.params import SamplingParams
from .errors import InvalidCombination, InvalidEnsemble, UnknownName, shown
from .inputs import Count, Counts, EndTokens, Key, Name, at, checked, json_schema, read_yaml, validated
from .members import Member, as_drafters, check_name, check_prompt, check_system, unique_names
from .names import DEFAULT_COMBINATION, PLACEHOLDER, VERIFICATIONS
from .runner import LoadOptions
from .runner.options import DTYPES, ONE_MODEL
from .runner.schemes import LOOKUPS, is_there
from .schedule import Plan, Setting, schedule_names, under_schedule

# The settings that hold a plan.
PLAN_SETTINGS = ("schedule", "gamma", "proposer", "first", "verification")
# Those of them that belong to the schedule beside which they stand, whatever the ensemble.
_OF_ONE_SCHEDULE = ("gamma", "first")
MEMBER_OPTIONS = {entry.name for entry in fields(LoadOptions)}
# Those that may be given for all models at once.
LOAD_OPTIONS = MEMBER_OPTIONS - {*ONE_MODEL}
SETTINGS = {"members", "combine", *PLAN_SETTINGS, "end_tokens", "max_sequences", *LOAD_OPTIONS}


class LoadSettings(TypedDict, total=False):
    """How models are loaded; see LoadOptions."""

    dtype: Annotated[
        str,
        Key(
            meaning="The type that models compute in. `auto`: as stored on CUDA; on a CPU `bfloat16` if it has AMX and "
            "weights are stored so, else `float32`. On a CPU that multiplies in `bfloat16` without AMX (AVX-512 BF16), "
            "`bfloat16` is faster than the `float32` that `auto` takes.",
            default="auto",
            example="float32",
            known=lambda: DTYPES,
        ),
    ]
    device: Annotated[
        str | None,
        Key(
            meaning="Where models run: `cpu`, `cuda`, `cuda:1`, ...",
            default="`cuda` where there is one, else `cpu`",
            example="cuda:0",
        ),
    ]
    quantization: Annotated[
        dict[str, Any] | Literal["4bit", "8bit"],
        Key(
            meaning="`4bit` or `8bit` of bitsandbytes, or the arguments of a quantisation configuration of "
            "transformers, in which `quant_method` names the method.",
            default="as the weights are stored",
            example="{quant_method: bitsandbytes, load_in_4bit: true}",
        ),
    ]
    trust_remote_code: Annotated[
        bool, Key(meaning="Whether code that ships with the weights may run.", default="false", example="true")
    ]
    allow_pickle: Annotated[
        bool,
        Key(
            meaning="Whether weights that are not safetensors may be read; reading them can run code.",
            default="false",
            example="true",
        ),
    ]
    graphs: Annotated[
        bool | Literal["auto", "shapes"],
        Key(
            meaning="Whether decoding passes are captured as CUDA graphs. `auto`: where the device is CUDA and the "
            "model allows it; `shapes`: the padding to few shapes alone, on any device.",
            default="auto",
            example="false",
        ),
    ]
    numerics: Annotated[
        Literal["default", "invariant"],
        Key(
            meaning="`invariant`: a row is a function of the tokens before it alone, to the last bit, so that with "
            "`verification: coupled` a seed has one text, in `bfloat16` too. On CPUs; a model for which it cannot be "
            "proven is refused.",
            default="default",
            example="invariant",
        ),
    ]
    backend: Annotated[
        Literal["auto", "llama.cpp", "transformers"],
        Key(
            meaning="What runs a GGUF file. `auto`: llama.cpp where it is installed, unless transformers alone "
            "does what is asked of that file; models of other kinds are transformers'.",
            default="auto",
            example="transformers",
        ),
    ]
    gpu_layers: Annotated[
        int | None,
        Key(
            meaning="How many layers of a GGUF file llama.cpp puts on a GPU.",
            default="all, where it was built for one and `device` is not `cpu`",
            example="20",
        ),
    ]
    revision: Annotated[
        Name | None,
        Key(meaning="The branch, tag or commit of a model on the hub.", default="the newest", example="v1.1"),
    ]


class MemberSettings(LoadSettings, total=False):
    """A member, or a model that drafts, with settings of its own; see Member."""

    model: Required[
        Annotated[
            Name,
            Key(
                meaning="A folder or a GGUF file (relative to this file), a hub id, a bundled model such as "
                "`demo:math`, or `SCHEME:...` of an installed package.",
                example="./expert",
            ),
        ]
    ]
    gguf_file: Annotated[
        Name | None,
        Key(
            meaning="Which GGUF file of the model's folder, or of the hub's model, is read.",
            default="the only one of a folder without `config.json`",
            example="expert.Q4_K_M.gguf",
        ),
    ]
    tokenizer: Annotated[
        Name | None,
        Key(
            meaning="A folder (relative to this file) whose tokenizer and chat template take the place of a GGUF "
            "file's.",
            default="the file's own",
            example="./expert-tokenizer",
        ),
    ]
    base: Annotated[
        Name | None,
        Key(
            meaning="The model that an adapter is put on: a folder (relative to this file), a hub id, a bundled model.",
            default="the one that `adapter_config.json` names",
            example="./base",
        ),
    ]
    layers: Annotated[
        Count | None,
        Key(
            meaning="Run the model's first layers alone, so many, then its final norm and head. The weights are those "
            "of the whole model where that is loaded too.",
            default="all, or as `cospec.json` of the model's folder says",
            example="8",
        ),
    ]
    vocabulary: Annotated[
        Count | None,
        Key(
            meaning="A model that only drafts proposes among its most frequent tokens alone, so many, ends included; "
            "its head is cut to them.",
            default="all, or as `cospec.json` of the model's folder says",
            example="8192",
        ),
    ]
    name: Annotated[
        Name | None, Key(meaning="What reports and plans call it.", default="the model's last part", example="expert")
    ]
    prompt: Annotated[
        str | list[int] | None,
        Key(
            meaning=f"A prompt of its own, in which `{PLACEHOLDER}` stands for the user's. A text without it, or token "
            "ids, is its whole prompt.",
            default="the user's prompt",
            example='"Answer badly. {prompt}"',
        ),
    ]
    system: Annotated[
        str | None,
        Key(
            meaning="A system message of its own: it takes the place of a chat's, or stands in front of the chat.",
            default="the chat's",
            example='"Answer like a pirate."',
        ),
    ]


class EnsembleSettings(LoadSettings, total=False):
    """An ensemble of cospec: its members, how their distributions are combined, and the plan; see Ensemble."""

    members: Required[
        Annotated[
            list[Name | MemberSettings],
            Key(
                meaning="The models that are combined: each a model, or keys and values.",
                example="[./expert, {model: ./amateur, device: cpu}]",
            ),
        ]
    ]
    combine: Annotated[
        str | dict[str, Any] | None,
        Key(
            meaning="How the members' distributions become the one that tokens are drawn from: a name, or `type` with "
            "its options.",
            default="`mixture` with equal weights",
            example="{type: mixture, weights: [0.7, 0.3]}",
        ),
    ]
    schedule: Annotated[
        str,
        Key(
            meaning="Which member is fed next, and who drafts. It changes the speed and never the distribution.",
            default="auto",
            example="alternate",
            known=schedule_names,
        ),
    ]
    gamma: Annotated[
        Count | Counts | Literal["auto"] | None,
        Key(
            meaning="How many tokens a proposer drafts a turn: one number, one a member (`alternate`), the drafter's "
            "and the depth (`cascade`), or `auto`, as many as are likely to pay (`fixed`, `mixture`).",
            default="the schedule's",
            example="[1, 3]",
        ),
    ]
    proposer: Annotated[
        Name | MemberSettings | list[Name | MemberSettings] | None,
        Key(
            meaning="Who drafts: a member's name, a model that only drafts (as members are given), `lookup` or "
            "`lookup+past`. Of several, `auto` picks, and `mixture` gives each member its own.",
            default="the first member",
            example="./small",
        ),
    ]
    first: Annotated[
        Name | None,
        Key(
            meaning="The member that is fed first where nothing is drafted (`alternate`), or that is drafted for "
            "(`cascade`).",
            default="the first member",
            example="expert",
        ),
    ]
    verification: Annotated[
        str,
        Key(
            meaning="How drafts are verified. All preserve the distribution: `block` accepts more, and the text of "
            "`coupled` depends on the seed alone.",
            default=Plan.verification,
            example="coupled",
            known=lambda: VERIFICATIONS,
        ),
    ]
    end_tokens: Annotated[
        EndTokens | None,
        Key(
            meaning="The tokens that end a sequence, by ids or as the vocabulary spells them.",
            default="all that the members name as ends",
            example='["<|im_end|>", 0]',
        ),
    ]
    max_sequences: Annotated[
        Count, Key(meaning="How many sequences are decoded at a time.", default="32", example="64")
    ]


def read_settings(spec: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The file's settings under the overrides: `members` as Member objects, `combine` as a combination.

    Folders that the file names, of members and proposers, are relative to it. Overrides that are None count as absent.
    Another schedule than the file's sets aside what belongs to the file's own, as `under_schedule` says.
    Raises InvalidEnsemble for a file that cannot be read or used, UnknownName for unknown settings, and what a value of
    the file raises where it is used, with its place.
    """
    if not isinstance(spec, str | Path):
        raise InvalidEnsemble(
            f"an ensemble is loaded from a YAML file, or by the name of a bundled one, got {shown(spec)}"
        )
    path = demo.ensemble_path(str(spec)) if demo.is_demo(str(spec)) else Path(os.path.expanduser(spec))
    own = _read(path)
    for key in overrides:
        if key not in SETTINGS:
            raise UnknownName("ensemble setting", key, SETTINGS)
    given = {key: value for key, value in overrides.items() if value is not None}
    _check_values(given)
    with at(str(path)):
        _check_values({key: value for key, value in own.items() if key not in given})
    settings = {**own, **given}
    members = _members(settings.get("members"), "members" in given, path, given)
    if "proposer" not in given:
        settings["proposer"] = _proposers(own.get("proposer"), unique_names(members), path, given)
    combination = _combination(settings.get("combine"), own.get("combine"), len(members), path)
    settings |= {"members": members, "combine": combination}
    schedule = given.get("schedule")
    if schedule is not None and schedule != own.get("schedule", Plan.schedule):
        settings = _without_plan_of_own(settings, given)
    return settings


def origin(spec: str | Path, overrides: Mapping[str, Any]) -> str:
    """What an error of the settings together is said to be about: the file, and what was given beside it."""
    given = [f"{key} {shown(value)}" for key, value in overrides.items() if value is not None]
    return f"{spec} with {', '.join(given)}" if given else str(spec)


def _check_values(settings: Mapping[str, Any]) -> None:
    """Raises what a value raises that cannot be had in any plan or on this machine, whatever stands beside it."""
    plan = {key: settings[key] for key in PLAN_SETTINGS if key in settings and key != "proposer"}
    Plan(**plan)
    LoadOptions(**{key: settings[key] for key in LOAD_OPTIONS & settings.keys() if settings[key] is not None})


def _without_plan_of_own(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what belongs to the file's schedule: its gamma and first member, and a proposer that the
    schedule given does not take."""
    names = unique_names(settings["members"])
    drafting = as_drafters(settings["proposer"], settings["members"], names, settings["schedule"])
    combination = as_combination(settings["combine"], len(names))
    setting = Setting(combination=combination, members=names, drafters=drafting.names, params=SamplingParams())
    own = Plan(proposer=drafting.proposer, verification=settings.get("verification", Plan.verification))
    is_taken = under_schedule(own, settings["schedule"], setting).proposer == drafting.proposer
    dropped = {*_OF_ONE_SCHEDULE, *(() if is_taken else ("proposer",))} - given.keys()
    return {key: value for key, value in settings.items() if key not in dropped}


def plan_settings(plan: Plan, proposers: Sequence[str | dict[str, Any]]) -> dict[str, Any]:
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
    listed = [*settings["members"], *_listed(settings.get("proposer"))]
    models = [entry if isinstance(entry, str) else entry["model"] for entry in listed]
    return any(not Path(model).is_absolute() and _beside(model, path.parent) != model for model in models)


def ensemble_schema() -> dict[str, Any]:
    """The JSON schema of an ensemble's file, with the combinations that are installed."""
    schema = json_schema(EnsembleSettings)
    combine = schema["properties"]["combine"]
    combine["anyOf"] = [{"enum": combination_names()}, *map(_combination_schema, combination_names()), {"type": "null"}]
    schema["properties"]["members"]["minItems"] = 1
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _combination_schema(kind: str) -> dict[str, Any]:
    """That of `type` with the options of this combination; `type` may be left out of a mixture."""
    options = {}
    required = [] if kind == DEFAULT_COMBINATION else ["type"]
    for name, parameter in combination_parameters(kind).items():
        options[name] = json_schema(parameter.annotation)
        if parameter.default is not Parameter.empty:
            options[name]["default"] = parameter.default
        elif name != WEIGHTS:
            required.append(name)
    return {
        "type": "object",
        "description": combination_summary(kind),
        "properties": {"type": {"const": kind}, **options},
        "required": required,
        "additionalProperties": False,
        "examples": [{"type": kind, **_example_options(options)}],
    }


def _example_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that have a value by default, or one as an example, and weights of two members."""
    weights = {WEIGHTS: [0.7, 0.3]} if WEIGHTS in options else {}
    examples = {name: option["examples"][0] for name, option in options.items() if "examples" in option}
    return (
        weights
        | examples
        | {name: option["default"] for name, option in options.items() if option.get("default") is not None}
    )


def _read(path: Path) -> EnsembleSettings:
    if not is_there(path) or not path.is_file():
        raise InvalidEnsemble(
            f"no ensemble file at {str(path)!r}; give a YAML file or one of {', '.join(demo.ensembles())}"
        )
    value = read_yaml(path, InvalidEnsemble)
    if isinstance(value, Mapping) and not value.get("members"):
        listed = f", got {shown(value['members'])}" if "members" in value else ""
        raise InvalidEnsemble(f"{path} lists no members; give `members:` a list of models{listed}")
    settings = validated(EnsembleSettings, value, str(path), InvalidEnsemble)
    _check_combination(settings.get("combine"), path)
    _check_own_options(settings, path)
    return settings


def _listed(proposer: Any) -> list[Any]:
    return [] if proposer is None else list(proposer) if isinstance(proposer, list | tuple) else [proposer]


def _beside(model: str, folder: Path) -> str:
    """The model's folder or file where `folder` holds it, and any other relative path as one of `folder`; otherwise the
    model as written."""
    if demo.is_demo(model) or model in LOOKUPS:
        return model
    is_path = model.startswith(("./", "../", ".\\", "..\\")) or model in (".", "..")
    return str(folder / model) if is_path or is_there(folder / model) else model


def _members(listed: Any, is_given: bool, path: Path, given: Mapping[str, Any]) -> list[Member]:
    """The members of the file, or of an override. Raises InvalidEnsemble, of the file with the place."""
    if not isinstance(listed, list | tuple) or not listed:
        raise InvalidEnsemble(f"members must be a list of models, got {shown(listed)}")
    where = "members" if is_given else f"{path}: members"
    # What is given beside the file is relative to the working directory, as proposers given so are.
    folder = Path() if is_given else path.parent
    members = [_member(entry, f"{where}[{i}]", folder, given) for i, entry in enumerate(listed)]
    with at(where):
        unique_names(members)
    return members


def _member(entry: Any, where: str, folder: Path, given: Mapping[str, Any]) -> Member:
    """A member from a file or an override: a Member, a model, or the mapping of MemberSettings.

    given: the overrides; a load option that they set for all holds, whatever the member's own is.
    """
    if isinstance(entry, Member):
        return entry
    if isinstance(entry, str | Path):
        return Member(model=_beside(str(entry), folder))
    if not isinstance(entry, Mapping):
        with at(where):
            return Member(model=entry)
    settings = validated(MemberSettings, entry, where, InvalidEnsemble)
    name, prompt, system = settings.get("name"), settings.get("prompt"), settings.get("system")
    with at(f"{where}.name"):
        check_name(name)
    with at(f"{where}.prompt"):
        check_prompt(prompt)
    with at(f"{where}.system"):
        check_system(system)
    options: dict[str, Any] = {key: value for key, value in settings.items() if key in MEMBER_OPTIONS - given.keys()}
    for path in {"base", "tokenizer"} & options.keys():
        options[path] = options[path] and _beside(options[path], folder)
    with at(where):
        loading = LoadOptions(**options)
        model = _beside(settings["model"], folder)
        return Member(model=model, name=name, prompt=prompt, system=system, options=loading)


def _check_own_options(settings: EnsembleSettings, path: Path) -> None:
    """Raises InvalidEnsemble for a load option that one member sets and the file sets otherwise for all."""
    listed = {"members": settings["members"], "proposer": _listed(settings.get("proposer"))}
    of_file: Mapping[str, Any] = {key: value for key, value in settings.items() if key in LOAD_OPTIONS}
    for place, entries in listed.items():
        for index, entry in enumerate(entries):
            for key in of_file.keys() & (entry.keys() if isinstance(entry, Mapping) else set()):
                own, of_all = entry[key], of_file[key]
                if own != of_all and of_all is not None:
                    raise InvalidEnsemble(
                        f"{path}: {place}[{index}].{key} is {shown(own)}, and {key} {shown(of_all)} holds for all "
                        "models of the file; give it to each model, or to the file alone"
                    )


def _proposers(given: Any, names: Sequence[str], path: Path, overrides: Mapping[str, Any]) -> Any:
    """Members by their names, and other models by their folders, or with settings of their own."""

    def proposer(entry: Any, where: str) -> str | Member:
        if isinstance(entry, str):
            return entry if entry in names else _beside(entry, path.parent)
        return _member(entry, where, path.parent, overrides)

    if not isinstance(given, list):
        return None if given is None else proposer(given, f"{path}: proposer")
    return [proposer(entry, f"{path}: proposer[{i}]") for i, entry in enumerate(given)] or None


def _combination(given: Any, own: Any, num_members: int, path: Path) -> Any:
    """A combination object from a name, a mapping with `type`, or one without it, which changes the file's own."""
    if given is None or not isinstance(given, str | Mapping):
        return given
    options = _options(given)
    if "type" not in options:
        options = {**_options(own), **options}
    with at(f"{path}: combine") if given is own else nullcontext():
        kind = options.pop("type", DEFAULT_COMBINATION)
        if not isinstance(kind, str) or not all(isinstance(name, str) for name in options):
            raise InvalidCombination(
                "combine is a name, or keys and values such as {type: mixture, weights: [0.5, 0.5]}, got "
                f"{shown(given)}"
            )
        return make_combination(kind, num_members, **options)


def _check_combination(combine: Any, path: Path) -> None:
    """Raises UnknownName for a combination or an option that is not known, InvalidEnsemble for a value of another type
    than the option's."""
    if combine is None:
        return
    options = _options(combine)
    kind = checked(str, options.pop("type", DEFAULT_COMBINATION), str(path), InvalidEnsemble, ("combine", "type"))
    with at(f"{path}: combine"):
        known = combination_parameters(kind)
    for name, value in options.items():
        if name not in known:
            raise UnknownName(f"key of {path}: combine", str(name), ("type", *known))
        checked(known[name].annotation, value, str(path), InvalidEnsemble, ("combine", name))


def _options(combine: Any) -> dict[str, Any]:
    return {"type": combine} if isinstance(combine, str) else dict(combine or {})
