"""Members as a user names them -> runners: loaded once each, of one vocabulary."""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from . import demo
from .core.spelling import TokenSpeller
from .errors import InvalidEnsemble, UnknownName, UnsupportedModel, VocabularyMismatch, shown
from .inputs import check_unicode
from .names import PLACEHOLDER
from .runner import LoadOptions, Runner, Tokenizer
from .runner.backends import choose_backends
from .runner.gguf import SUFFIX, gguf_of
from .runner.memory import check_memory
from .runner.options import LLAMA_CPP
from .runner.parts import HeadParts, hidden_size, parts_of
from .runner.pool import one_pool
from .runner.protocol import hands_out_states, is_invariant, reads_states
from .runner.schemes import DEFAULT, LOOKUPS, has_scheme, is_there, load_runner, missing_attributes, split
from .schedule import EACH, Schedule, schedule_class
from .schedule.plan import check_schedule_given

Source = str | Path | Runner

# What stands for the user's prompt elsewhere: in a text without the placeholder it is meant for one.
_ELSEWHERE = ("input", "instruction", "message", "query", "question", "user_input", "user_prompt")
# A name in braces, or in doubled ones. JSON and code in a prompt have other things between them.
_IN_BRACES = re.compile(r"\{+\s*([A-Za-z_]+)\s*\}+")
# What was loaded within `shared_runners`: model and options, and the runner.
_SHARED: ContextVar[list[tuple[tuple[str, LoadOptions], Runner]] | None] = ContextVar("shared runners", default=None)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model that takes part, or a drafter, with its own prompt and system message if it has them.

    model: a local folder or GGUF file, a hub id, `demo:NAME`, `SCHEME:...` of an installed package (see
    `runner.schemes`), a drafter without a model (`lookup`, `lookup+past`), or a Runner. name: the model's last path
    component by default, without `.gguf`. prompt: a template, in which {prompt} stands for the user's prompt; a text
    without it, or token ids, is the member's whole prompt. In a chat the text is the last user message's content, and
    {prompt} stands for what that was. system: takes the place of a chat's system message, or stands in front; it makes
    a chat of a text. options: how a model given by name is loaded.

    Raises InvalidEnsemble for a value of another type.
    """

    model: Source
    name: str | None = None
    prompt: str | Sequence[int] | None = None
    system: str | None = None
    options: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | Path) and (missing := missing_attributes(self.model)):
            raise InvalidEnsemble(
                f"a member's model is {shown(self.model)}, which is no Runner: it lacks {', '.join(missing)}; give a "
                "folder, a hub id, demo:NAME or a Runner"
            )
        if isinstance(self.model, str):
            check_unicode(self.model, f"a member's model {shown(self.model)}", InvalidEnsemble)
        check_name(self.name)
        check_prompt(self.prompt)
        check_system(self.system)
        if isinstance(self.system, str) and self.prompt is not None and not isinstance(self.prompt, str):
            raise InvalidEnsemble(
                "a member has token ids as its whole prompt, and a system message beside them, which would stand "
                "nowhere; leave one of them out"
            )
        if not isinstance(self.options, LoadOptions):
            raise InvalidEnsemble(f"a member's options are {shown(self.options)}; give LoadOptions(...)")

    def under(self, common: Mapping[str, Any]) -> "Member":
        """The same with these load options, such as those that are given for all of an ensemble."""
        return replace(self, options=replace(self.options, **common))

    @property
    def default_name(self) -> str:
        """The name, or the last path component of the model; a runner object is called `member`."""
        if self.name:
            return self.name
        if not isinstance(self.model, str | Path):
            return "member"
        model = str(self.model)
        name = Path(self.options.gguf_file or split(model)[1]).name
        is_file = name.lower().endswith(SUFFIX)
        return name[: -len(SUFFIX)] if is_file and name.lower() != SUFFIX else name or model


# A model that drafts: as a member is given, or a member itself, with its own name, prompt and options.
Proposer: TypeAlias = Source | Member


def check_name(name: object) -> None:
    """Raises InvalidEnsemble for what is no name of a member."""
    if name is None:
        return
    if not isinstance(name, str) or not name:
        raise InvalidEnsemble(f"a member's name is {shown(name)}; give a string, or none for the model's own")
    check_unicode(name, f"a member's name {shown(name)}", InvalidEnsemble)


def check_prompt(prompt: object) -> None:
    """Raises InvalidEnsemble for what is no prompt of a member, or has a placeholder that is not filled in."""
    if isinstance(prompt, str):
        check_unicode(prompt, f"a member's prompt {shown(prompt)}", InvalidEnsemble)
        _check_placeholders(prompt)
    elif prompt is not None and not _is_ids(prompt):
        raise InvalidEnsemble(
            f"a member's prompt is {shown(prompt)}; give a text, in which {PLACEHOLDER} stands for the user's "
            "prompt, a list of token ids, or none"
        )


def check_system(system: object) -> None:
    """Raises InvalidEnsemble for what is no system message of a member, or has a placeholder."""
    if system is None:
        return
    if not isinstance(system, str):
        raise InvalidEnsemble(f"a member's system message is {shown(system)}; give a text, or none")
    check_unicode(system, f"a member's system message {shown(system)}", InvalidEnsemble)
    if PLACEHOLDER in system:
        raise InvalidEnsemble(
            f"a member's system message has {PLACEHOLDER!r}, which stands for nothing there; write it into the "
            "member's prompt"
        )


def _check_placeholders(prompt: str) -> None:
    """Other names in braces may be code, and stay as they are."""
    for found in _IN_BRACES.finditer(prompt):
        name = found[1].lower()
        is_near = bool(difflib.get_close_matches(name, ["prompt"], cutoff=0.75))
        is_usual = name in _ELSEWHERE and PLACEHOLDER not in prompt
        if found[0] != PLACEHOLDER and (is_near or is_usual):
            raise InvalidEnsemble(
                f"a member's prompt has {found[0]!r}, which stands for nothing; write {PLACEHOLDER} for the "
                "user's prompt"
            )


def _is_ids(prompt: object) -> bool:
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray):
        return False
    return all(isinstance(token, int) and not isinstance(token, bool) for token in prompt)


def written(member: Member) -> str:
    """Its model as a file names it: as given, a folder by its whole path, since the file may be read from anywhere."""
    return _whole_path(member.model) if isinstance(member.model, str | Path) else str(member.model)


def as_settings(member: Member, common: Mapping[str, object]) -> str | dict[str, Any]:
    """The member as an ensemble file lists it. common: load options that the file has for all."""
    own = {entry.name: getattr(member.options, entry.name) for entry in fields(LoadOptions)}
    for path in ("base", "tokenizer"):
        own[path] = None if own[path] is None else _whole_path(own[path])
    default = vars(LoadOptions())
    settings = {
        "name": member.name,
        "prompt": member.prompt if member.prompt is None or isinstance(member.prompt, str) else [*member.prompt],
        "system": member.system,
        **{name: value for name, value in own.items() if value != default[name] and name not in common},
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return {"model": written(member), **given} if given else written(member)


def as_member(source: Source | Member) -> Member:
    return source if isinstance(source, Member) else Member(model=source)


def unique_names(members: Sequence[Member], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """The members' names, with -2, -3, ... added to a model's own where it is taken already, or means something else.

    Raises InvalidEnsemble where two are given one name.
    """
    chosen: list[str] = []
    given = [member.name for member in members if member.name]
    for name in given:
        if given.count(name) > 1 or name in taken:
            raise InvalidEnsemble(f"two models are named {name!r}; give each a name of its own")
    for member in members:
        name = candidate = member.default_name
        count = 1
        others = {*chosen, *taken, *(given if not member.name else ()), *_reserved(member)}
        while candidate in others:
            count += 1
            candidate = f"{name}-{count}"
        chosen.append(candidate)
    return tuple(chosen)


def _reserved(member: Member) -> tuple[str, ...]:
    """Names that mean something else where a proposer is named."""
    is_lookup = isinstance(member.model, str) and member.model in LOOKUPS
    return () if is_lookup or member.name else (*LOOKUPS, EACH)


def check_member_names(members: Sequence[Member]) -> None:
    """Raises InvalidEnsemble for a name that would mean something else as a proposer's."""
    for member in members:
        if member.name and (member.name in (*LOOKUPS, EACH) or has_scheme(member.name)):
            raise InvalidEnsemble(
                f"a member is named {member.name!r}, which means something else as a proposer; give it another name"
            )


@dataclass(frozen=True, kw_only=True)
class Drafting:
    """Who may draft. models: those that are no members, of these names. proposer: the plan's, unless that is left to
    the schedule."""

    models: list[Member]
    names: tuple[str, ...]
    proposer: str | None


def as_drafters(
    given: Proposer | Sequence[Proposer] | None,
    members: Sequence[Member],
    member_names: Sequence[str],
    schedule: str | Schedule | type[Schedule],
) -> Drafting:
    """The proposers as given, held against the members. Raises UnknownName for a name that is no model either."""
    listed: list[Any] = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    chosen = [_member_meant(source, members, member_names) for source in listed]
    models = [as_member(source) for source, name in zip(listed, chosen, strict=True) if name is None]
    names = unique_names(models, taken=member_names)
    proposer = None
    if len(names) > 1 and EACH in _special_proposers(schedule):
        proposer = EACH
    elif len(listed) == 1:
        proposer = names[0] if names else chosen[0]
    return Drafting(models=models, names=names, proposer=proposer)


def _member_meant(proposer: Proposer, members: Sequence[Member], names: Sequence[str]) -> str | None:
    """The member that is meant, or None for a model that only drafts. Raises UnknownName."""
    for name, member in zip(names, members, strict=True):
        is_named = isinstance(proposer, str) and proposer in (name, member.model)
        if proposer is member or proposer is member.model or is_named:
            return name
    is_model = not isinstance(proposer, str) or "/" in proposer or os.path.exists(proposer)
    if not is_model and split(str(proposer))[0] == DEFAULT and not str(proposer).startswith(f"{DEFAULT}:"):
        raise UnknownName("proposer", str(proposer), (*names, *LOOKUPS))
    return None


def _special_proposers(schedule: str | Schedule | type[Schedule]) -> tuple[str, ...]:
    """What the schedule's plans may name as proposer beside members and drafters."""
    check_schedule_given(schedule)
    return (schedule_class(schedule) if isinstance(schedule, str) else schedule).special_proposers


def load_runners(members: Sequence[Member], drafters: Sequence[Member] = ()) -> list[Runner]:
    """A runner for each member, then for each drafter; those of equal model and options share one, within
    `shared_runners` with those of other ensembles too.

    Raises UnknownName, ModelNotFound, UnsupportedModel or DoesNotFit, and InvalidEnsemble where no member is a model.
    """
    members, drafters = with_backends(members, drafters)
    _check_heads(members, drafters)
    sources = [*members, *drafters]
    needed = [_key(member) for member in members if isinstance(member.model, str | Path)]
    named = [member for member in sources if isinstance(member.model, str | Path)]
    distinct = [member for i, member in enumerate(named) if _key(member) not in map(_key, named[:i])]
    shared = _SHARED.get()
    loaded = [(key, runner) for key, runner in shared or () if key in map(_key, distinct)]
    missing = [member for member in distinct if _key(member) not in [key for key, _ in loaded]]
    known = [weights for key, _ in loaded for weights in _weights(*key)]
    weights = [each for member in missing for each in _weights(*_key(member)) if each not in known]
    check_memory(each for i, each in enumerate(weights) if each not in weights[:i])
    with one_pool():
        for member in missing:
            load = load_runner if _key(member) in needed else _load_drafter
            loaded.append((_key(member), load(str(member.model), member.options)))
    if shared is not None:
        # A drafter without a model is given the vocabulary of its own ensemble, and learns from its sequences.
        shared += [entry for entry in loaded if entry[1].vocab_size and entry not in shared]
    runners = [
        next(runner for key, runner in loaded if key == _key(member))
        if isinstance(member.model, str | Path)
        else member.model
        for member in sources
    ]
    sizes = [runner.vocab_size for runner in runners if runner.vocab_size]
    if not sizes:
        names = ", ".join(member.default_name for member in sources)
        raise InvalidEnsemble(f"none of {names} is a model with a vocabulary; give at least one that is")
    for runner in runners:
        # A drafter without a model has no vocabulary of its own: it drafts the members' tokens.
        runner.vocab_size = runner.vocab_size or max(sizes)
    return runners


def with_backends(members: Sequence[Member], drafters: Sequence[Member] = ()) -> tuple[list[Member], list[Member]]:
    """Both, with the back end of each GGUF file chosen for all of them together, by the rule of `backends`."""
    sources = [*members, *drafters]
    named = [member for member in sources if isinstance(member.model, str | Path)]
    chosen = iter(choose_backends([(str(member.model), member.options) for member in named]))
    settled = [
        replace(member, options=next(chosen)) if isinstance(member.model, str | Path) else member for member in sources
    ]
    return settled[: len(members)], settled[len(members) :]


def _check_heads(members: Sequence[Member], drafters: Sequence[Member]) -> None:
    """Raises InvalidEnsemble for a drafting head that cannot read these members, as far as files say it."""
    for member in members:
        if _head_of(member) is not None:
            raise InvalidEnsemble(
                f"the member {member.default_name!r} is a drafting head, which reads members and is none; give it as "
                "a proposer"
            )
    for drafter in drafters:
        head = _head_of(drafter)
        if head is None:
            continue
        _check_number(drafter.default_name, head.members, len(members))
        for member in members:
            if isinstance(member.model, str | Path):
                if member.options.backend == LLAMA_CPP:
                    raise _unreadable(
                        drafter.default_name,
                        member.default_name,
                        "is run by llama.cpp",
                        ": set backend to transformers",
                    )
                _check_size(drafter.default_name, head.hidden, member.default_name, hidden_size(*_key(member)))


def check_sources(members: Mapping[str, Runner], drafters: Mapping[str, Runner]) -> None:
    """Raises InvalidEnsemble for a drafter that reads members' hidden states, where these have none such."""
    for name, drafter in drafters.items():
        if not reads_states(drafter):
            continue
        _check_number(name, drafter.num_sources, len(members))
        for member, runner in members.items():
            if not hands_out_states(runner):
                raise _unreadable(name, member, f"is run by a {type(runner).__name__}")
            _check_size(name, drafter.state_size, member, runner.state_size)


def _head_of(member: Member) -> HeadParts | None:
    return parts_of(str(member.model), member.options).head if isinstance(member.model, str | Path) else None


def _check_number(drafter: str, wanted: int, given: int) -> None:
    if wanted != given:
        raise InvalidEnsemble(
            f"the drafter {drafter!r} reads the hidden states of {wanted} members, and this ensemble has {given}; "
            "give the ensemble that it was trained for, or another proposer"
        )


def _check_size(drafter: str, wanted: int, member: str, given: int | None) -> None:
    if given is not None and wanted != given:
        raise InvalidEnsemble(
            f"the drafter {drafter!r} reads hidden states of {wanted} numbers, and those of {member!r} have {given}; "
            "give the ensemble that it was trained for, or another proposer"
        )


def _unreadable(drafter: str, member: str, why: str, advice: str = "") -> InvalidEnsemble:
    return InvalidEnsemble(
        f"the drafter {drafter!r} reads members' hidden states, and {member!r} {why}, which hands out none; leave the "
        f"drafter out, or give models that transformers runs{advice}"
    )


def _load_drafter(model: str, options: LoadOptions) -> Runner:
    """With default numerics where it cannot have invariant ones: what is decoded does not depend on who drafts it."""
    try:
        return load_runner(model, options)
    except UnsupportedModel as error:
        if not options.is_invariant:
            raise
        runner = load_runner(model, replace(options, numerics="default"))
        logger.warning("%s. It only drafts, and does so with default numerics: coupled text does not change", error)
        return runner


@contextmanager
def shared_runners() -> Iterator[None]:
    """Within it, members of equal model and options are loaded once for all ensembles. Forward passes of a runner must
    not overlap: decode with these ensembles in one thread, or in turn."""
    token = _SHARED.set([])
    try:
        with one_pool():
            yield
    finally:
        _SHARED.reset(token)


def _key(member: Member) -> tuple[str, LoadOptions]:
    """Model and options, which members that share a runner have in common: of a GGUF file its path, whether that was
    given or its folder."""
    model = str(member.model)
    path = _whole_path(demo.path_of(model))
    file = gguf_of(Path(path), member.options) if split(path)[0] == DEFAULT else None
    return (os.path.realpath(file), replace(member.options, gguf_file=None)) if file else (path, member.options)


def _weights(model: str, options: LoadOptions) -> list[tuple[str, LoadOptions]]:
    """What is read of weights for a model: a whole model, which others may stand on too, and an adapter or a drafting
    head on it."""
    parts = parts_of(model, options)
    whole = (_whole_path(demo.path_of(parts.whole)), parts.options)
    own = parts.head.folder if parts.head else parts.adapter
    return [whole, *([(str(own), parts.options)] if own else [])]


def _whole_path(model: str | Path) -> str:
    """The same for all ways to write one folder; any other model as it is given."""
    scheme, rest = split(str(model))
    path = os.path.expanduser(rest)
    return os.path.realpath(path) if scheme == DEFAULT and is_there(Path(path)) else str(model)


def check_numerics(members: Mapping[str, Member], runners: Sequence[Runner]) -> None:
    """Raises UnsupportedModel for a member that was to have invariant numerics, and whose runner does not have them."""
    for (name, member), runner in zip(members.items(), runners, strict=True):
        if member.options.is_invariant and not is_invariant(runner):
            raise UnsupportedModel(
                f"the member {name!r} cannot be run with numerics: invariant: its runner, a {type(runner).__name__}, "
                'does not say that a row is a function of the tokens before it alone (numerics = "invariant"); leave '
                "numerics at default, or choose another model"
            )


def check_whole_vocabularies(runners: Mapping[str, Runner]) -> None:
    """Raises InvalidEnsemble for a member that gives some tokens no probability because its head was cut."""
    for name, runner in runners.items():
        ids = getattr(runner, "vocabulary", None)
        if ids is not None:
            raise InvalidEnsemble(
                f"the member {name!r} is cut to {len(ids)} tokens (vocabulary), as a drafter alone may be: r would "
                "give the others no probability; leave `vocabulary` out, or give it as a proposer"
            )


class HasVocabulary(Protocol):
    """A runner, or what is known of a model before it is loaded."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...


def check_vocabularies(runners: Mapping[str, HasVocabulary]) -> None:
    """Raises VocabularyMismatch with the first id that two members' tokenizers give different entries.

    Added entries that only some have, behind all that they have in common (a `<pad>`), are not decoded, and this is
    logged.
    """
    (first, reference), *others = runners.items()
    for name, runner in others:
        if reference.tokenizer and runner.tokenizer:
            _check_entries(first, reference.tokenizer, name, runner.tokenizer)
        elif reference.vocab_size != runner.vocab_size:
            raise VocabularyMismatch(
                f"{first!r} has {reference.vocab_size} tokens and {name!r} {runner.vocab_size}; "
                "choose members of one tokenizer family"
            )
    listed = {name: runner.tokenizer.entries() for name, runner in runners.items() if runner.tokenizer}
    if len({len(entries) for entries in listed.values()}) > 1:
        longest = max(listed, key=lambda name: len(listed[name]))
        common = min(map(len, listed.values()))
        logger.warning(
            "%r has %d tokens more than others, from %r on: they are never decoded, r is over the %d that all have",
            *(longest, len(listed[longest]) - common, listed[longest][common], common),
        )


def _check_entries(first: str, one: Tokenizer, second: str, other: Tokenizer) -> None:
    a, b = one.entries(), other.entries()
    common = min(len(a), len(b))
    differing = next((i for i in range(common) if a[i] != b[i]), None)
    if differing is None:
        longer = one if len(a) > len(b) else other
        # More words are another way to split a text; added ones stand beside it.
        differing = next((i for i in range(common, len(longer.entries())) if not _is_added(longer, i)), None)
    if differing is not None:
        entries = [repr(side[differing]) if differing < len(side) else "none" for side in (a, b)]
        raise VocabularyMismatch(
            f"{first!r} has {len(a)} tokens and {second!r} {len(b)}; they first differ at id {differing} "
            f"({entries[0]} and {entries[1]}). Choose members of one tokenizer family."
        )


def _is_added(tokenizer: Tokenizer, token: int) -> bool:
    """Whether an entry was added to the vocabulary, or pads it; as far as the tokenizer can tell."""
    added = getattr(tokenizer, "added", None)
    return added is None or token in added or not tokenizer.entries()[token]


def check_end_tokens(given: object) -> None:
    """Raises InvalidEnsemble for what are no tokens that end a sequence."""
    if given is None:
        return
    is_list = isinstance(given, list | tuple) and len(given) > 0
    if not is_list or not all(_is_token(token) for token in given):  # type: ignore[attr-defined]
        raise InvalidEnsemble(
            f"end_tokens is {shown(given)}; give a list of at least one token id, or text as the vocabulary spells it, "
            'such as ["<|im_end|>"], or leave it out for the ends that the members name'
        )


def _is_token(token: object) -> bool:
    is_id = isinstance(token, int) and not isinstance(token, bool) and token >= 0
    return is_id or (isinstance(token, str) and bool(token))


def end_ids_of(
    given: Sequence[int | str] | None, tokenizer: Tokenizer | None, vocab_size: int
) -> tuple[int, ...] | None:
    """The ids of an ensemble's own end tokens; None where it has none of its own. Raises InvalidEnsemble for one that
    the vocabulary lacks."""
    if given is None:
        return None
    ids = (token if isinstance(token, int) else _id_of(token, tokenizer) for token in given)
    found = dict(zip(given, ids, strict=True))
    for token, id in found.items():
        if id is None or id >= vocab_size:
            reason = "is no entry of the vocabulary" if tokenizer or isinstance(token, int) else "needs a tokenizer"
            raise InvalidEnsemble(
                f"end_tokens has {shown(token)}, which {reason}; give ids from 0 to {vocab_size - 1}, or entries as "
                "the members' tokenizer spells them"
            )
    return tuple(id for id in dict.fromkeys(found.values()) if id is not None)


def _id_of(text: str, tokenizer: Tokenizer | None) -> int | None:
    """The id of an entry, as the vocabulary writes it or as it stands in a text; None where there is none."""
    if tokenizer is None:
        return None
    entries = tokenizer.entries()
    if text in entries:
        return entries.index(text)
    spell = TokenSpeller(tokenizer).spell
    return next((id for id in range(len(entries)) if spell(id) == text), None)
