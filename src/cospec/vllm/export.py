"""An ensemble -> a folder that `vllm serve` takes as it is, and the command."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..core.combine import Combination, Guided, Mixture
from ..core.params import SamplingParams
from ..errors import CospecError, InvalidCombination, InvalidEnsemble, UnsupportedModel, shown
from ..members import (
    Member,
    as_drafters,
    as_member,
    check_vocabularies,
    end_ids_of,
    unique_names,
)
from ..runner.hf.tokenizer import HfTokenizer
from ..runner.hf.whole import GENERATION, Outline, outline, place_of, write_whole
from ..runner.parts import parts_of
from ..runner.schemes import DEFAULT, LOOKUPS, split
from ..schedule.plain import Plain
from ..storage import keep, refusal
from . import ARCHITECTURE
from .described import KEY, DescribedMember, Description

# Drafted tokens a turn, where the ensemble says none.
GAMMA = 4
# What vLLM's lookup takes for the same text: so many tokens, the longest first.
_NGRAM = {"prompt_lookup_max": 4, "prompt_lookup_min": 2}
# The folder within OUT of what had to be written, and the drafter's.
MODELS, DRAFTER = "models", "drafter"
_INSTEAD = "use cospec serve"
# What a configuration says of one model and not of the ensemble.
_OF_ONE_MODEL = ("quantization_config", "auto_map", "rope_scaling", "rope_parameters", "_name_or_path")
# What transformers writes of tokenizers, of one kind or another.
_TOKENIZER_FILES = (
    "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float64: "float32"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """out: the folder. command: of `vllm serve`. notes: what differs from cospec's own server, in sentences."""

    out: Path
    command: list[str]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Export:
    """An ensemble to be exported. settings: arguments of `Ensemble`. name: what clients call it. params: what every
    request has of member_temperature and member_top_p."""

    settings: Mapping[str, Any]
    combination: Combination
    name: str
    params: SamplingParams = field(default_factory=SamplingParams)

    def write(self, out: Path) -> Exported:
        """Raises a CospecError, before any weights are read, for what vLLM cannot hold."""
        members = {name: self._loaded(member) for name, member in zip(self._names, self._members, strict=True)}
        self._refuse(members)
        drafter, speculation, notes = self._drafter()
        _check_empty(out)
        wholes = {name: _checked_source(name, member, out) for name, member in members.items()}
        of_drafter = None if drafter is None else _checked_source(drafter.default_name, drafter, out)
        _mark(out)
        outlines = {name: _outlined(member, wholes[name], out / MODELS / name) for name, member in members.items()}
        for name, own in outlines.items():
            _refuse_outline(name, own)
        check_vocabularies(outlines)
        described = self._described(members, outlines)
        notes += [*_template_notes(outlines), *_prompt_notes(outlines)]
        self._write_model(out, described, outlines)
        if drafter is not None:
            own = _outlined(drafter, of_drafter, out / DRAFTER / MODELS / drafter.default_name)
            speculation["model"] = str(_drafter_folder(drafter.default_name, own, out / DRAFTER, described, outlines))
        return Exported(out=out, command=self._command(out, outlines, speculation), notes=notes)

    @property
    def _members(self) -> list[Member]:
        return [as_member(member) for member in self.settings["members"]]

    @property
    def _names(self) -> tuple[str, ...]:
        return unique_names(self._members)

    def _loaded(self, member: Member) -> Member:
        """With the load options of all."""
        known = vars(member.options)
        common = {key: value for key, value in self.settings.items() if key in known and value is not None}
        return member.under(common)

    def _refuse(self, members: Mapping[str, Member]) -> None:
        """Raises a CospecError for what the settings alone tell."""
        if isinstance(self.combination, Guided):
            raise InvalidCombination(
                "guided combines one model under two prompts, and vLLM feeds all members the same one, which makes r "
                f"that model's own distribution; {_INSTEAD}"
            )
        for name, member in members.items():
            self._refuse_member(name, member)

    def _refuse_member(self, name: str, member: Member) -> None:
        if member.prompt is not None or member.system is not None:
            raise InvalidEnsemble(
                f"the member {name!r} has a {'prompt' if member.prompt is not None else 'system message'} of its own, "
                f"and vLLM feeds all members the same tokens at the same positions; {_INSTEAD}"
            )
        _refuse_model(name, member)
        if member.options.is_invariant:
            raise InvalidEnsemble(
                "numerics is invariant, which is cospec's own way to compute; leave it out (vLLM has "
                f"VLLM_BATCH_INVARIANT=1, on some GPUs), or {_INSTEAD}"
            )

    def _drafter(self) -> tuple[Member | None, dict[str, Any], list[str]]:
        """The model that drafts, vLLM's settings of drafting, and what is left out; nothing drafts by default."""
        schedule = self.settings.get("schedule") or "auto"
        if schedule in (Plain, Plain.name):
            return None, {}, []
        drafting = as_drafters(self.settings.get("proposer"), self._members, self._names, schedule)
        models = [member for member in drafting.models if member.model not in LOOKUPS]
        gamma = self.settings.get("gamma")
        count = gamma if isinstance(gamma, int) else GAMMA
        notes = []
        if drafting.proposer in self._names:
            notes.append(
                f"the member {drafting.proposer!r} cannot draft within vLLM, which would load it once more; give a "
                "small model, or lookup, as --proposer"
            )
        if len(drafting.models) > 1:
            used = models[0].default_name if models else "lookup"
            notes.append(f"vLLM has one drafter: {used!r} is used, and the other proposers are left out")
        if models:
            drafter = self._loaded(models[0])
            _refuse_model(drafter.default_name, drafter)
            return drafter, {"method": "draft_model", "model": "", "num_speculative_tokens": count}, notes
        if drafting.models:
            if drafting.models[0].model != "lookup":
                notes.append("vLLM looks up in a sequence itself alone: what finished ones had is not looked up")
            return None, {"method": "ngram", "num_speculative_tokens": count, **_NGRAM}, notes
        return None, {}, notes

    def _described(self, members: Mapping[str, Member], outlines: Mapping[str, Outline]) -> Description:
        described = Description(
            members=tuple(
                DescribedMember(
                    name=name,
                    model=str(own.folder.resolve()),
                    trust_remote_code=members[name].options.trust_remote_code,
                )
                for name, own in outlines.items()
            ),
            combination=self.combination,
            vocab_size=min(own.vocab_size for own in outlines.values()),
            member_temperature=self.params.member_temperature,
            member_top_p=self.params.member_top_p,
        )
        # What the folder says is read again as vLLM will read it.
        assert Description.from_json(json.loads(json.dumps(described.to_json()))) == described
        return described

    def _write_model(self, out: Path, described: Description, outlines: Mapping[str, Outline]) -> None:
        _write_folder(out, described, outlines, self._end_ids(described, outlines))
        named = [own.tokenizer for own in outlines.values() if own.tokenizer is not None]
        if named:
            own = _spelling(named)
            own.save(out)
            template = next((each.chat_template for each in named if each.has_chat_template), None)
            if template is not None and not own.has_chat_template:
                keep(out / "chat_template.jinja", str(template))

    def _end_ids(self, described: Description, outlines: Mapping[str, Outline]) -> list[int]:
        """The ensemble's own ends, or those of all members. Raises InvalidEnsemble where vLLM would end elsewhere."""
        tokenizer = next((own.tokenizer for own in outlines.values() if own.tokenizer is not None), None)
        given = end_ids_of(self.settings.get("end_tokens"), tokenizer, described.vocab_size)
        if given is None:
            return [*dict.fromkeys(token for own in outlines.values() for token in own.end_ids)]
        missing = [token for token in (tokenizer.end_ids if tokenizer else ()) if token not in given]
        if missing:
            raise InvalidEnsemble(
                f"end_tokens is {shown(self.settings['end_tokens'])}, without the tokenizer's own end {missing[0]}, at "
                f"which vLLM ends every sequence; add it, or {_INSTEAD}"
            )
        return [*given]

    def _command(self, out: Path, outlines: Mapping[str, Outline], speculation: Mapping[str, Any]) -> list[str]:
        command = ["vllm", "serve", str(out), "--served-model-name", self.name, "--dtype", _dtype_of(outlines)]
        contexts = [own.context for own in outlines.values() if own.context]
        command += ["--max-model-len", str(min(contexts))] if contexts else []
        command += ["--middleware", "cospec.vllm.middleware.RefuseOthers"]
        return command + (["--speculative-config", json.dumps(speculation)] if speculation else [])


def _dtype_of(outlines: Mapping[str, Outline]) -> str:
    """The type that cospec computes in; of several the one that holds the others."""
    widest = None
    for own in outlines.values():
        widest = own.dtype if widest is None else torch.promote_types(widest, own.dtype)
    assert widest is not None
    return _DTYPES[widest]


def _check_empty(out: Path) -> None:
    """Raises CospecError where something lies that was not exported."""
    try:
        is_ours = not out.exists() or not any(out.iterdir()) or KEY in _read(out / "config.json")
    except OSError as error:
        raise refusal(out, error) from None
    if not is_ours:
        raise CospecError(f"{out} holds other files, and no exported ensemble; give a folder that is empty or new")


def _mark(out: Path) -> None:
    """Make the folder one that a later export may write again, wherever this one ends, and that vLLM refuses until
    then. What an earlier one wrote of the tokenizer goes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _TOKENIZER_FILES:
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise refusal(out, error) from None
    unfinished = {"architectures": [ARCHITECTURE], "model_type": "llama", KEY: "unfinished"}
    keep(out / "config.json", json.dumps(unfinished) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _refuse_model(name: str, member: Member) -> None:
    """Raises a CospecError for a member or drafter that is no model of transformers as its files are."""
    if not isinstance(member.model, str | Path):
        raise InvalidEnsemble(f"{name!r} is {shown(member.model)}, an object; vLLM reads folders; {_INSTEAD}")
    scheme, _ = split(str(member.model))
    if scheme not in (DEFAULT, "demo"):
        raise InvalidEnsemble(f"{name!r} is a model of the runner {scheme!r}, which vLLM has not; {_INSTEAD}")
    if parts_of(str(member.model), member.options).head is not None:
        raise InvalidEnsemble(
            f"{name!r} is a drafting head, which reads the hidden states of every member, and vLLM gives drafters "
            f"those of one model; leave it out, or {_INSTEAD}"
        )
    if member.options.quantization:
        raise InvalidEnsemble(
            f"{name!r} is quantised as it is loaded ({shown(member.options.quantization)}); vLLM reads weights "
            "that are stored quantised (AWQ, GPTQ, compressed-tensors, FP8): give such a folder as the member"
        )


def _checked_source(name: str, member: Member, out: Path) -> Outline | None:
    """The outline of the whole model that this one is, or stands on; None for a GGUF file. Raises a CospecError for one
    that cannot be exported, as far as that can be told without its weights."""
    path, parts = place_of(str(member.model), member.options)
    if path.resolve().is_relative_to(out.resolve()):
        raise InvalidEnsemble(f"{name!r} lies in {str(out)!r}, which is to be written; give another folder to write")
    if not path.is_dir():
        return None
    whole = outline(parts.whole, path, parts.options)
    _refuse_outline(name, whole)
    if not parts.is_whole and getattr(whole.config, "quantization_config", None):
        raise UnsupportedModel(
            f"{name!r} stands on {parts.whole!r}, whose weights are stored quantised and cannot be written as another "
            f"model; give {'an adapter on' if parts.adapter else 'layers of'} weights that are not, or {_INSTEAD}"
        )
    return whole


def _outlined(member: Member, whole: Outline | None, folder: Path) -> Outline:
    """The model's outline, written whole first where it is a part, an adapter, or a GGUF file. whole: what
    `_checked_source` gives."""
    _, parts = place_of(str(member.model), member.options)
    if parts.is_whole and whole is not None:
        return whole
    write_whole(str(member.model), member.options, folder)
    return outline(str(folder), folder, replace(parts.options, gguf_file=None, revision=None))


def _refuse_outline(name: str, own: Outline) -> None:
    kind = own.config.model_type
    if getattr(own.config, KEY, None) is not None:
        raise InvalidEnsemble(
            f"{name!r} is an exported ensemble; give its members, with the weights that they have in it"
        )
    if own.has_state:
        raise UnsupportedModel(
            f"{name!r} ({kind}) keeps a recurrent state, for which vLLM has no room beside other members' caches; "
            f"{_INSTEAD}"
        )
    if own.is_wrapper:
        raise UnsupportedModel(
            f"{name!r} ({kind}) is a model of text and images, whose language model vLLM cannot run as a part of "
            f"another; {_INSTEAD}, or give its language model alone"
        )


def _template_notes(outlines: Mapping[str, Outline]) -> list[str]:
    found = {name: own.tokenizer.chat_template for name, own in outlines.items() if own.tokenizer is not None}
    given = {name: template for name, template in found.items() if template}
    if len({*map(str, given.values())}) <= 1:
        return []
    first = next(iter(given))
    return [f"chat templates differ: vLLM renders chats by that of {first!r} for all members; {_INSTEAD} for their own"]


def _spelling(named: Sequence[HfTokenizer]) -> HfTokenizer:
    """The tokenizer with the fewest entries, which spells what all members know."""
    return min(named, key=lambda tokenizer: len(tokenizer.entries()))


def _prompt_notes(outlines: Mapping[str, Outline]) -> list[str]:
    """Where vLLM puts other special tokens around a prompt than cospec, which puts those of the first tokenizer in
    front, and none behind."""
    named = [own.tokenizer for own in outlines.values() if own.tokenizer is not None]
    if not named:
        return []
    own, first = _spelling(named), named[0]
    if (own.in_front, own.behind) == (first.in_front, ()):
        return []
    entries = first.entries()
    theirs = ", ".join(entries[token] for token in (*own.in_front, *own.behind))
    ours = ", ".join(entries[token] for token in first.in_front)
    return [
        f"vLLM puts {theirs or 'nothing'} around a prompt, and cospec {ours or 'nothing'}: send prompts as token ids, "
        "or with add_special_tokens false"
    ]


def _write_folder(out: Path, described: Description, outlines: Mapping[str, Outline], end_ids: Sequence[int]) -> None:
    """The files by which vLLM finds the class and its settings."""
    out.mkdir(parents=True, exist_ok=True)
    first = next(iter(outlines.values()))
    config = {key: value for key, value in _read(first.folder / "config.json").items() if key not in _OF_ONE_MODEL}
    contexts = [own.context for own in outlines.values() if own.context]
    ends = [token for token in end_ids if token < described.vocab_size]
    config |= {"architectures": [ARCHITECTURE], "vocab_size": described.vocab_size, "eos_token_id": ends or None}
    config |= {"max_position_embeddings": min(contexts)} if contexts else {}
    config |= {"dtype": _dtype_of(outlines), KEY: described.to_json()}
    keep(out / "config.json", json.dumps(config, indent=2) + "\n")
    keep(out / GENERATION, json.dumps({"eos_token_id": ends or None}) + "\n")
    # vLLM reads some weights of the folder itself before those that the class names.
    save_file({KEY: torch.tensor([len(outlines)])}, out / "model.safetensors")


def _drafter_folder(
    name: str, own: Outline, out: Path, described: Description, outlines: Mapping[str, Outline]
) -> Path:
    """The drafter as it is, or, where its vocabulary is padded in another way than r's, as an ensemble of one member,
    cut to the entries of r. own: of the drafter, by name."""
    _refuse_outline(name, own)
    check_vocabularies({next(iter(outlines)): next(iter(outlines.values())), name: own})
    if own.vocab_size < described.vocab_size:
        raise UnsupportedModel(
            f"the drafter {name!r} knows {own.vocab_size} entries and r has {described.vocab_size}: vLLM wants as "
            f"many; {_INSTEAD}, which drafts among those"
        )
    if own.config.get_text_config().vocab_size == described.vocab_size:
        return own.folder.resolve()
    alone = replace(
        described,
        members=(DescribedMember(name=name, model=str(own.folder.resolve())),),
        combination=Mixture([1.0]),
        member_temperature=1.0,
        member_top_p=1.0,
    )
    _write_folder(out, alone, {name: own}, own.end_ids)
    if own.tokenizer is not None:
        own.tokenizer.save(out)
    return out.resolve()
