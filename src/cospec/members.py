"""Members as a user names them -> runners: loaded once each, of one vocabulary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import demo
from .errors import VocabularyMismatch
from .runner import Runner, Tokenizer
from .runner.hf import LoadOptions, check_memory, load
from .runner.lookup import LookupRunner

Source = str | Path | Runner

# Drafters without a model, by the names they are asked for.
LOOKUPS = ("lookup", "lookup+past")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model that takes part, with its own prompt if it has one.

    model: a local folder, a hub id, `demo:NAME`, or a Runner. name: the model's last path component by default.
    prompt: a template, in which {prompt} stands for the user's prompt; a text without it, or token ids, is the
    member's whole prompt. options: how a model given by path or id is loaded.
    """

    model: Source
    name: str | None = None
    prompt: str | Sequence[int] | None = None
    options: LoadOptions = field(default_factory=LoadOptions)

    @property
    def is_lookup(self) -> bool:
        """Whether it drafts without a model."""
        return isinstance(self.model, str) and self.model in LOOKUPS

    @property
    def path(self) -> str | None:
        """Where the model is to be loaded from; None for a runner or a lookup."""
        if self.is_lookup or not isinstance(self.model, str | Path):
            return None
        model = str(self.model)
        return demo.model_path(model) if demo.is_demo(model) else model

    @property
    def default_name(self) -> str:
        """The name, or one made from the model; a runner object is called `member`."""
        if self.name:
            return self.name
        if not isinstance(self.model, str | Path):
            return "member"
        model = str(self.model)
        return demo.short_name(model) if demo.is_demo(model) else Path(model).name or model


def written(member: Member) -> str:
    """Its model as a file names it: as given, a folder by its whole path, since the file may be read from anywhere."""
    local = Path(str(member.model)).expanduser()
    return str(local.resolve()) if local.is_dir() else str(member.model)


def as_member(source: Source | Member) -> Member:
    return source if isinstance(source, Member) else Member(model=source)


def unique_names(members: Sequence[Member], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """The members' names, with -2, -3, ... added where one stands already."""
    chosen: list[str] = []
    for member in members:
        name = candidate = member.default_name
        count = 1
        while candidate in chosen or candidate in taken:
            count += 1
            candidate = f"{name}-{count}"
        chosen.append(candidate)
    return tuple(chosen)


def load_runners(members: Sequence[Member]) -> list[Runner]:
    """A runner for each member; members of equal path and options share one.

    Raises UnknownName, ModelNotFound, UnsupportedModel or DoesNotFit.
    """
    models = [member for member in members if member.path is not None]
    distinct = [member for i, member in enumerate(models) if not any(_is_same(member, other) for other in models[:i])]
    check_memory([(_where(member), member.options) for member in distinct])
    loaded = [(member, load(str(member.path), member.options)) for member in distinct]
    runners = [None if member.is_lookup else _runner(member, loaded) for member in members]
    size = min(runner.vocab_size for runner in runners if runner is not None)
    return [
        runner or LookupRunner(size, remember=member.model == LOOKUPS[1])
        for runner, member in zip(runners, members, strict=True)
    ]


def _runner(member: Member, loaded: Sequence[tuple[Member, Runner]]) -> Runner:
    if not isinstance(member.model, str | Path):
        return member.model
    return next(runner for other, runner in loaded if _is_same(member, other))


def _is_same(member: Member, other: Member) -> bool:
    return (_where(member), member.options) == (_where(other), other.options)


def _where(member: Member) -> str:
    """The same for two ways to write one folder."""
    path = str(member.path)
    local = Path(path).expanduser()
    return str(local.resolve()) if local.exists() else path


def check_vocabularies(runners: Mapping[str, Runner]) -> None:
    """Raises VocabularyMismatch where two members' ids do not mean the same, with the first that differs."""
    (first, reference), *others = runners.items()
    for name, runner in others:
        if reference.tokenizer and runner.tokenizer:
            _check_entries(first, reference.tokenizer, name, runner.tokenizer)
        elif reference.vocab_size != runner.vocab_size:
            raise VocabularyMismatch(
                f"{first!r} has {reference.vocab_size} tokens and {name!r} {runner.vocab_size}; "
                "choose members of one tokenizer family"
            )


def _check_entries(first: str, one: Tokenizer, second: str, other: Tokenizer) -> None:
    a, b = one.entries(), other.entries()
    if a == b:
        return
    differing = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    entries = [repr(side[differing]) if differing < len(side) else "none" for side in (a, b)]
    raise VocabularyMismatch(
        f"{first!r} has {len(a)} tokens and {second!r} {len(b)}; they first differ at id {differing} "
        f"({entries[0]} and {entries[1]}). Choose members of one tokenizer family."
    )
