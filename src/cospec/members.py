"""Members as a user names them -> runners: loaded once each, of one vocabulary."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import demo
from .errors import InvalidEnsemble, VocabularyMismatch
from .runner import LoadOptions, Runner, Tokenizer
from .runner.memory import check_memory
from .runner.schemes import DEFAULT, load_runner, missing_attributes, split

Source = str | Path | Runner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model that takes part, or a drafter, with its own prompt if it has one.

    model: a local folder, a hub id, `demo:NAME`, `SCHEME:...` of an installed package (see `runner.schemes`), a
    drafter without a model (`lookup`, `lookup+past`), or a Runner. name: the model's last path component by default.
    prompt: a template, in which {prompt} stands for the user's prompt; a text without it, or token ids, is the
    member's whole prompt. options: how a model given by name is loaded.

    Raises InvalidEnsemble for a value of another type.
    """

    model: Source
    name: str | None = None
    prompt: str | Sequence[int] | None = None
    options: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | Path) and (missing := missing_attributes(self.model)):
            raise InvalidEnsemble(
                f"a member's model is {self.model!r}, which is no Runner: it lacks {', '.join(missing)}; give a "
                "folder, a hub id, demo:NAME or a Runner"
            )
        if self.name is not None and not isinstance(self.name, str):
            raise InvalidEnsemble(f"a member's name is {self.name!r}; give a string, or none for the model's own")
        if not (self.prompt is None or isinstance(self.prompt, str) or _is_ids(self.prompt)):
            raise InvalidEnsemble(
                f"a member's prompt is {self.prompt!r}; give a text, in which {{prompt}} stands for the user's "
                "prompt, a list of token ids, or none"
            )
        if not isinstance(self.options, LoadOptions):
            raise InvalidEnsemble(f"a member's options are {self.options!r}; give LoadOptions(...)")

    @property
    def default_name(self) -> str:
        """The name, or the last path component of the model; a runner object is called `member`."""
        if self.name:
            return self.name
        if not isinstance(self.model, str | Path):
            return "member"
        model = str(self.model)
        _, rest = split(model)
        return Path(rest).name or model


def _is_ids(prompt: object) -> bool:
    return isinstance(prompt, Sequence) and all(
        isinstance(token, int) and not isinstance(token, bool) for token in prompt
    )


def written(member: Member) -> str:
    """Its model as a file names it: as given, a folder by its whole path, since the file may be read from anywhere."""
    return _whole_path(member.model) if isinstance(member.model, str | Path) else str(member.model)


def as_member(source: Source | Member) -> Member:
    return source if isinstance(source, Member) else Member(model=source)


def unique_names(members: Sequence[Member], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """The members' names, with -2, -3, ... added to a name that is taken already."""
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
    """A runner for each member; members of equal model and options share one.

    Raises UnknownName, ModelNotFound, UnsupportedModel or DoesNotFit, and InvalidEnsemble where no member is a model.
    """
    named = [member for member in members if isinstance(member.model, str | Path)]
    distinct = [member for i, member in enumerate(named) if _key(member) not in map(_key, named[:i])]
    check_memory(map(_key, distinct))
    loaded = [(_key(member), load_runner(str(member.model), member.options)) for member in distinct]
    runners = [
        next(runner for key, runner in loaded if key == _key(member))
        if isinstance(member.model, str | Path)
        else member.model
        for member in members
    ]
    sizes = [runner.vocab_size for runner in runners if runner.vocab_size]
    if not sizes:
        names = ", ".join(member.default_name for member in members)
        raise InvalidEnsemble(f"none of {names} is a model with a vocabulary; give at least one that is")
    for runner in runners:
        # A drafter without a model has no vocabulary of its own: it drafts the members' tokens.
        runner.vocab_size = runner.vocab_size or max(sizes)
    return runners


def _key(member: Member) -> tuple[str, LoadOptions]:
    """Model and options, which members that share a runner have in common."""
    model = str(member.model)
    return _whole_path(demo.model_path(model) if demo.is_demo(model) else model), member.options


def _whole_path(model: str | Path) -> str:
    """The same for all ways to write one folder; any other model as it is given."""
    scheme, rest = split(str(model))
    path = Path(rest).expanduser()
    return str(path.resolve()) if scheme == DEFAULT and path.exists() else str(model)


def check_vocabularies(runners: Mapping[str, Runner]) -> None:
    """Raises VocabularyMismatch with the first id that two members' tokenizers give different entries.

    Entries that only some have, behind all that they have in common (an added `<pad>`), are not decoded, which is
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
    differing = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if differing is not None:
        raise VocabularyMismatch(
            f"{first!r} has {len(a)} tokens and {second!r} {len(b)}; they first differ at id {differing} "
            f"({a[differing]!r} and {b[differing]!r}). Choose members of one tokenizer family."
        )
