"""What a user writes, members, combination and plan, made ready to run: `generate` and `stream`."""

import copy
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .core.combine import Combination, make_combination
from .core.draws import Draws
from .core.engine import Engine
from .core.events import Event, Result
from .core.feeding import Participant
from .core.live import Request
from .core.params import SamplingParams
from .core.verify import is_coupled
from .errors import InvalidCombination, InvalidEnsemble, InvalidPrompt, UnknownName
from .files import LOAD_OPTIONS, read_settings
from .members import Member, Source, as_member, check_vocabularies, load_runners, unique_names, written
from .runner.schemes import DEFAULT, LOOKUPS, split
from .schedule import EACH, Plan, Schedule, Setting, make_schedule, plans, schedule_class
from .schedule.auto import Auto
from .schedule.plan import check_schedule_given

Prompt = str | Sequence[int]
Params = SamplingParams | Sequence[SamplingParams] | None

PLACEHOLDER = "{prompt}"
# How many sequences are decoded at a time by default.
MAX_SEQUENCES = 32
# Ways of sampling for which measurements are kept; those of the first one are dropped first.
MOST_PLANNERS = 32
# A model that drafts: as a member is given, or a member itself, with its own name, prompt and options.
Proposer = Source | Member


class Ensemble:
    """Several models decoded as one.

    members: paths, hub ids, names with a scheme such as `demo:math`, runners, or Member objects. combine: the target,
    an object or a name; an equal Mixture by default. schedule: a name, or a Schedule of one's own, as an object or
    class. gamma, proposer, first, verification: see Plan. A proposer, given as members are, that is no member is loaded
    as a drafter; `lookup` drafts what followed the same tokens earlier in the sequence, `lookup+past` in finished ones
    too. Of several `auto` picks, and `mixture` gives each member its own: first in their order, and where it may
    measure the one whose drafts the member accepts most. max_sequences: how many are decoded at a time. load_options:
    those of LoadOptions (dtype, device, ...), for all members given by path; they override a member's own.

    Raises a CospecError for anything that cannot run as asked, before anything runs.
    """

    def __init__(
        self,
        members: Sequence[Source | Member],
        combine: Combination | str | None = None,
        *,
        schedule: str | Schedule | type[Schedule] = "auto",
        gamma: int | Sequence[int] | str | None = None,
        proposer: Proposer | Sequence[Proposer] | None = None,
        first: str | None = None,
        verification: str = "block",
        max_sequences: int = MAX_SEQUENCES,
        **load_options: Any,
    ) -> None:
        if isinstance(members, str) or not members:
            raise InvalidEnsemble(f"an ensemble needs a list of at least one member, got {members!r}")
        if not isinstance(max_sequences, int) or max_sequences < 1:
            raise InvalidEnsemble(f"max_sequences must be a whole number of at least 1, got {max_sequences!r}")
        options = _load_options(load_options)
        self.max_sequences = max_sequences
        self.combination = _as_combination(combine, len(members))
        self.combination.check(len(members))
        self.load_options = options
        self._members = [as_member(member) for member in members]
        self.member_names = unique_names(self._members)
        self._drafters, self.drafter_names, chosen = self._drafting(proposer, schedule)
        gammas = gamma if gamma is None or isinstance(gamma, int | str) else tuple(gamma)
        self.plan = Plan(schedule=schedule, gamma=gammas, proposer=chosen, first=first, verification=verification)
        self._planners: dict[object, Auto] = {}
        self.schedule_for(SamplingParams())
        self.runners = load_runners(self.sources)
        self.tokenizer = next((runner.tokenizer for runner in self.runners if runner.tokenizer), None)
        check_vocabularies(dict(zip(self.names, self.runners, strict=True)))

    @classmethod
    def load(cls, spec: str | Path, **overrides: Any) -> "Ensemble":
        """An ensemble by name (`demo:we`) or from a YAML file. What is given here overrides the file.

        A `combine` without `type` changes options of the file's own. Raises InvalidEnsemble for a file that cannot be
        read, UnknownName for settings that are not known, and what the constructor raises.
        """
        return cls(**read_settings(spec, overrides))

    def with_plan(self, plan: Plan | None = None, **changes: Any) -> "Ensemble":
        """The same members, not loaded again, under this plan, or their own, changed so. Raises as the constructor
        does."""
        other = copy.copy(self)
        other.plan = replace(plan or self.plan, **changes)
        other.schedule_for(SamplingParams())
        return other

    def with_combination(self, combine: Combination) -> "Ensemble":
        """The same members, not loaded again, for another target. Raises as the constructor does."""
        other = copy.copy(self)
        combine.check(len(self.member_names))
        # What was measured for one target says little of another.
        other.combination, other._planners = combine, {}
        other.schedule_for(SamplingParams())
        return other

    def loaded(self, name: str) -> Member:
        """That member or drafter with the runner that it has here, for another ensemble. Raises UnknownName."""
        if name not in self.names:
            raise UnknownName("member or drafter", name, self.names)
        index = self.names.index(name)
        return replace(self.sources[index], model=self.runners[index], name=name)

    def alone(self, name: str) -> "Ensemble":
        """That member by itself, not loaded again, under `plain`. Raises UnknownName."""
        return Ensemble([self.loaded(name)], schedule="plain", max_sequences=self.max_sequences)

    @property
    def names(self) -> tuple[str, ...]:
        """Members, then drafters."""
        return self.member_names + self.drafter_names

    @property
    def vocab_size(self) -> int:
        """Columns of a row of r."""
        return min(runner.vocab_size for runner in self.runners)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """What the members and drafters compute in."""
        return {runner.dtype for runner in self.runners}

    def generate(self, prompts: Prompt | Sequence[Prompt], params: Params = None) -> list[Result]:
        """Decode each prompt (a text or token ids; or a list of them) n times; prompt by prompt, sample by sample.

        params: one for all, or one each. Raises a CospecError before anything is decoded; a sequence that fails while
        being decoded ends with finish_reason "error", and the others go on.
        """
        results = [event.result for event in self.stream(prompts, params) if event.result is not None]
        return sorted(results, key=lambda result: (result.prompt_index, result.index))

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: Params = None,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """The same, as it comes: an event for each text and round in which it moved. Closing it aborts what is live.

        should_stop: asked before each round; once it holds, what is live ends as it is, with finish_reason "abort".
        """
        return self._run(deque(self._requests(prompts, params)), should_stop)

    def engine(self, calls_at_once: int = 1) -> Engine:
        """A new engine over these members; what it decodes is given by `request`.

        calls_at_once: how many members may be called side by side, each with as many threads as torch has been given;
        members whose runners share state must not be.
        """
        participants = [Participant(name, runner) for name, runner in zip(self.names, self.runners, strict=True)]
        return Engine(participants, len(self.member_names), calls_at_once)

    def request(self, prompt: Prompt, params: SamplingParams, index: int = 0) -> Request:
        """What the engine is given for one sample of one prompt."""
        ids = self._encode(prompt)
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        return Request(
            prompt=ids,
            lane_prompts=[self._lane_prompt(source, prompt, ids) for source in self.sources],
            params=params,
            combination=self.combination,
            schedule=self.planner_for(params) or self.schedule_for(params),
            verification=self.plan.verification,
            draws=Draws(seed, index),
            decode=self.tokenizer.decode if self.tokenizer else None,
            index=index,
        )

    def schedule_for(self, params: SamplingParams) -> Schedule:
        """The plan's schedule under this sampling. Raises InvalidSchedule where it cannot be had."""
        return make_schedule(self.plan, self.setting(params))

    def planner_for(self, params: SamplingParams) -> Auto | None:
        """What chooses plans, or draft lengths, under this sampling, for all sequences; None where the plan is fixed.

        With a seed it may not measure where the text would depend on what was measured: unless verification is
        coupled, or the temperature 0.
        """
        plan = self.plan
        is_free = params.seed is None or is_coupled(plan.verification, params.temperature)
        is_planned = plan.is_paced or (plan.schedule == "auto" and plan.gamma is None)
        if not is_planned or not is_free:
            return None
        setting = self.setting(params)
        # The legal schedules, and the target, depend on these.
        key = (params.warpers, params.is_biased, plan, setting.drafters)
        if key not in self._planners:
            weighed = [plan] if plan.is_paced else plans(setting, plan.verification)
            if len(self._planners) >= MOST_PLANNERS:
                del self._planners[next(iter(self._planners))]
            self._planners[key] = Auto.of_plans(weighed, setting, plan.name)
        return self._planners[key]

    def setting(self, params: SamplingParams) -> Setting:
        """What plans are made for: the target and who takes part, under this sampling."""
        return Setting(
            combination=self.combination, members=self.member_names, drafters=self.drafter_names, params=params
        )

    @property
    def sources(self) -> list[Member]:
        """Members, then drafters, as given, under the load options of all."""
        given = [*self._members, *self._drafters]
        return [replace(source, options=replace(source.options, **self.load_options)) for source in given]

    def _requests(self, prompts: Prompt | Sequence[Prompt], params: Params) -> list[Request]:
        """Every sample of every prompt, all of them checked before the first runs."""
        listed = as_prompts(prompts)
        requests = []
        engine = self.engine()
        for prompt_index, (prompt, own) in enumerate(zip(listed, _as_params(params, len(listed)), strict=True)):
            try:
                first = replace(self.request(prompt, own), prompt_index=prompt_index)
                engine.check(first)
            except InvalidPrompt as error:
                raise InvalidPrompt(str(error), prompt_index) from None
            seed = first.draws.seed
            requests += [replace(first, draws=Draws(seed, index), index=index) for index in range(own.n)]
        return requests

    def _run(self, waiting: deque[Request], should_stop: Callable[[], bool]) -> Iterator[Event]:
        engine = self.engine()
        live: list[int] = []
        try:
            while waiting or engine.num_live:
                while waiting and engine.num_live < self.max_sequences:
                    live.append(engine.add(waiting.popleft()))
                if should_stop():
                    break
                for event in engine.step():
                    if event.result is not None:
                        live.remove(event.id)
                    yield event
            for id in live:
                yield engine.abort(id)
        finally:
            engine.close()

    def _drafting(
        self, proposer: Proposer | Sequence[Proposer] | None, schedule: str | Schedule | type[Schedule]
    ) -> tuple[list[Member], tuple[str, ...], str | None]:
        """The models that only draft, their names, and the plan's proposer, unless that is left to the schedule."""
        given = _as_sources(proposer)
        chosen = [self._member_named(source) for source in given]
        drafters = [as_member(source) for source, name in zip(given, chosen, strict=True) if name is None]
        names = unique_names(drafters, taken=self.member_names)
        if len(names) > 1 and EACH in _special_proposers(schedule):
            return drafters, names, EACH
        if len(given) != 1:
            return drafters, names, None
        return drafters, names, names[0] if names else chosen[0]

    def _member_named(self, proposer: Proposer) -> str | None:
        """The member that is meant, or None for a model that only drafts. Raises UnknownName."""
        for name, member in zip(self.member_names, self._members, strict=True):
            is_named = isinstance(proposer, str) and proposer in (name, member.model)
            if proposer is member or proposer is member.model or is_named:
                return name
        is_model = not isinstance(proposer, str) or "/" in proposer or Path(proposer).exists()
        if not is_model and split(str(proposer))[0] == DEFAULT and not str(proposer).startswith(f"{DEFAULT}:"):
            raise UnknownName("proposer", str(proposer), (*self.member_names, *LOOKUPS))
        return None

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                models = [
                    written(member) if isinstance(member.model, str | Path) else name
                    for name, member in zip(self.member_names, self._members, strict=True)
                ]
                raise InvalidPrompt(
                    f"no tokenizer (tokenizer.json or tokenizer.model) came with {', '.join(models)}; add its files to "
                    "the model's folder, or give the prompt as token ids (--token-ids)"
                )
            ids = tuple(self.tokenizer.encode(prompt))
        else:
            ids = tuple(prompt)
            if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
                raise InvalidPrompt(f"a prompt is a text or a list of token ids, got {prompt!r}")
        if not ids:
            raise InvalidPrompt("the prompt is empty; give at least one token")
        return ids

    def _lane_prompt(self, source: Member, prompt: Prompt, ids: tuple[int, ...]) -> tuple[int, ...]:
        """What this member is given for the user's prompt."""
        if source.prompt is None:
            return ids
        if not isinstance(source.prompt, str):
            return tuple(source.prompt)
        if self.tokenizer is None:
            raise InvalidPrompt(
                f"the prompt of {source.default_name!r} is a text, and no member has a tokenizer; give it as token ids"
            )
        encode = self.tokenizer.encode
        if PLACEHOLDER not in source.prompt:
            return tuple(encode(source.prompt))
        if isinstance(prompt, str):
            return tuple(encode(source.prompt.replace(PLACEHOLDER, prompt)))
        before, after = source.prompt.split(PLACEHOLDER, 1)
        return (*(encode(before) if before else ()), *ids, *(encode(after) if after else ()))


def _as_combination(combine: Combination | str | None, num_members: int) -> Combination:
    """A combination object; a name, or none, stands for the one of that name, or a mixture, with equal weights."""
    if combine is None or isinstance(combine, str):
        return make_combination(combine or "mixture", num_members)
    if isinstance(combine, type) or not isinstance(combine, Combination):
        raise InvalidCombination(
            f"combine is {combine!r}; give cospec.Mixture([...]) or another combination, or a name"
        )
    return combine


def _special_proposers(schedule: str | Schedule | type[Schedule]) -> tuple[str, ...]:
    """What the schedule's plans may name as proposer beside members and drafters."""
    check_schedule_given(schedule)
    return (schedule_class(schedule) if isinstance(schedule, str) else schedule).special_proposers


def _as_sources(proposer: Proposer | Sequence[Proposer] | None) -> list[Proposer]:
    """None, one or several proposers as a list."""
    if proposer is None:
        return []
    listed: list[Any] = list(proposer) if isinstance(proposer, list | tuple) else [proposer]
    return listed


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts; one text, or one list of token ids, is a list of one."""
    if isinstance(prompts, str):
        return [prompts]
    listed: list[Any] = list(prompts)
    if listed and all(isinstance(item, int) for item in listed):
        return [listed]
    return listed


def _as_params(params: Params, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise InvalidPrompt(f"got {len(params)} sampling parameters for {count} prompts; give one for all, or one each")
    return list(params)


def _load_options(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in LOAD_OPTIONS:
            raise UnknownName("option of Ensemble", name, LOAD_OPTIONS)
    return {name: value for name, value in given.items() if value is not None}
