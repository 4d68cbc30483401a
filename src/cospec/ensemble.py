"""What a user writes, members, combination and plan, made ready to run: `generate` and `stream`, and the same for event
loops."""

import asyncio
import copy
import json
import secrets
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import demo
from .core.combine import Combination, as_combination
from .core.draws import Draws
from .core.engine import Engine
from .core.events import Event, Result
from .core.feeding import Participant
from .core.live import Request
from .core.params import SamplingParams
from .core.thread import EngineThread, EventGroup
from .core.verify import is_coupled
from .errors import InvalidEnsemble, InvalidPrompt, InvalidSchedule, UnknownName, shown
from .files import LOAD_OPTIONS, origin, read_settings
from .identity import identity
from .inputs import at
from .measurements import KeptMeasurements, MeasurementFile
from .members import (
    Member,
    Proposer,
    Source,
    as_drafters,
    as_member,
    check_end_tokens,
    check_member_names,
    check_numerics,
    check_sources,
    check_vocabularies,
    check_whole_vocabularies,
    end_ids_of,
    load_runners,
    unique_names,
    written,
)
from .names import MAX_SEQUENCES
from .prompts import Chat, Params, Prompts, as_params, as_prompt, as_prompts
from .prompts import Prompt as Prompt
from .rendering import Renderer, check_template_kwargs
from .runner.memory import check_states
from .runner.padded import padded
from .runner.protocol import is_invariant, proposes_runs, server_of, told_acceptance
from .runner.schemes import LOOKUPS
from .schedule import Plan, Schedule, Setting, make_schedule, plans, resolved_plan, schedule_class, under_schedule
from .schedule.auto import Auto
from .schedule.calibration import TIMED, calibrated, with_rounds

# A thread that decodes for event loops ends when it had nothing to do for so long.
IDLE_SECONDS = 5.0
# Ways of sampling for which measurements are kept; those of the first one are dropped first.
MOST_PLANNERS = 32
# A drawn seed is reported in JSON, whose numbers JavaScript holds exactly up to 2**53.
SEED_BITS = 53


class Ensemble:
    """Several models decoded as one.

    members: paths, hub ids, names with a scheme such as `demo:math`, runners, or Member objects. combine: the target,
    an object or a name; an equal Mixture by default. schedule: a name, or a Schedule of one's own, as an object or
    class. gamma, proposer, first, verification: see Plan. A proposer, given as members are, that is no member is loaded
    as a drafter; `lookup` drafts what followed the same tokens earlier in the sequence, `lookup+past` in finished ones
    too. Of several `auto` picks, and `mixture` gives each member its own: first in their order, and where it may
    measure the one whose drafts the member accepts most. end_tokens: what ends a sequence, by ids or as the vocabulary
    spells it, in place of all that the members name. max_sequences: how many are decoded at a time. load_options:
    those of LoadOptions (dtype, device, ...), for all members given by path; they override a member's own.
    keep_measurements: whether `auto` begins with what it measured in earlier processes, and keeps what it measures, in
    the folder COSPEC_CACHE (~/.cache/cospec by default), or beside the ensemble's file, where its path is given.

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
        end_tokens: Sequence[int | str] | None = None,
        max_sequences: int = MAX_SEQUENCES,
        keep_measurements: bool | Path = True,
        **load_options: Any,
    ) -> None:
        if not isinstance(members, list | tuple) or not members:
            raise InvalidEnsemble(f"an ensemble needs a list of at least one member, got {shown(members)}")
        if not isinstance(max_sequences, int) or isinstance(max_sequences, bool) or max_sequences < 1:
            raise InvalidEnsemble(f"max_sequences must be a whole number of at least 1, got {shown(max_sequences)}")
        check_end_tokens(end_tokens)
        options = _load_options(load_options)
        members_given = members
        self.max_sequences = max_sequences
        self.combination = as_combination(combine, len(members))
        self.combination.check(len(members))
        self.load_options = options
        self.end_tokens = None if end_tokens is None else (*end_tokens,)
        self._members = [as_member(member) for member in members]
        self.member_names = unique_names(self._members)
        check_member_names(self._members)
        drafting = as_drafters(proposer, self._members, self.member_names, schedule)
        self._drafters, self.drafter_names = drafting.models, drafting.names
        self.plan = Plan(
            schedule=schedule, gamma=gamma, proposer=drafting.proposer, first=first, verification=verification
        )
        self._planners: dict[object, Auto] = {}
        self._servers: tuple[int, ...] = ()
        self._runs: tuple[int, ...] = ()
        self._told: dict[int, float] = {}
        self.schedule_for(SamplingParams())
        sources, num_members = self.sources, len(self._members)
        self.runners = load_runners(sources[:num_members], sources[num_members:])
        self.tokenizer = next((runner.tokenizer for runner in self.runners if runner.tokenizer), None)
        check_vocabularies(dict(zip(self.names, self.runners, strict=True)))
        members, drafters = self.runners[:num_members], self.runners[num_members:]
        check_whole_vocabularies(dict(zip(self.member_names, members, strict=True)))
        check_numerics(dict(zip(self.member_names, self.sources, strict=False)), members)
        check_sources(
            dict(zip(self.member_names, members, strict=True)), dict(zip(self.drafter_names, drafters, strict=True))
        )
        check_states(dict(zip(self.names, self.runners, strict=True)), max_sequences)
        self.runners = [*members, *(padded(drafter, self.vocab_size) for drafter in drafters)]
        servers = [id(server_of(runner)) for runner in self.runners]
        self._servers = tuple(map(servers.index, servers))
        self._runs = tuple(lane for lane, runner in enumerate(self.runners) if proposes_runs(runner))
        self._told = {
            lane: told
            for lane, runner in enumerate(self.runners[num_members:], num_members)
            if (told := told_acceptance(runner)) is not None
        }
        self._renderers = [
            Renderer(name=name, member=source, tokenizer=runner.tokenizer or self.tokenizer, common=self.tokenizer)
            for name, source, runner in zip(self.names, self.sources, self.runners, strict=True)
        ]
        for renderer in self._renderers:
            renderer.check_system()
        self._own_end_ids = end_ids_of(self.end_tokens, self.tokenizer, self.vocab_size)
        # Copies under other plans share these, so that all that awaits their members is decoded together.
        self._engine = self.engine()
        self._thread = EngineThread(max_sequences=max_sequences, idle_seconds=IDLE_SECONDS)
        self._preparing = threading.Lock()
        self._kept = KeptMeasurements(None)
        if self._is_planned:
            given = {"members": members_given, "combine": combine, "proposer": proposer, "schedule": schedule}
            self._begin_measuring(given | options, keep_measurements)

    def __repr__(self) -> str:
        drafters = f", drafters={[*self.drafter_names]}" if self.drafter_names else ""
        return (
            f"Ensemble(members={[*self.member_names]}, combine={self.combination}, plan={str(self.plan)!r}{drafters})"
        )

    @classmethod
    def load(cls, spec: str | Path, *, keep_measurements: bool = True, **overrides: Any) -> "Ensemble":
        """An ensemble by name (`demo:we`) or from a YAML file. What is given here overrides the file.

        keep_measurements: whether `auto` begins with what it measured in earlier processes, and keeps what it measures,
        in a file beside this one, or in the cache folder. A `combine` without `type` changes options of the file's own.
        Raises InvalidEnsemble for a file that cannot be read, UnknownName for settings that are not known, and what the
        constructor raises.
        """
        settings = read_settings(spec, overrides)
        beside = None if demo.is_demo(str(spec)) else Path(spec)
        with at(origin(spec, overrides)):
            return cls(**settings, keep_measurements=(beside or True) if keep_measurements else False)

    def with_plan(self, plan: Plan | None = None, **changes: Any) -> "Ensemble":
        """The same members, not loaded again, under this plan, or their own, changed so. Raises as the constructor
        does."""
        other = copy.copy(self)
        other.plan = replace(plan or self.plan, **changes)
        other.schedule_for(SamplingParams())
        return other

    def plan_under(self, schedule: str | None = None, verification: str | None = None) -> Plan:
        """The plan with these in place of its own; another schedule sets aside what belongs to its own, see
        `under_schedule`. Raises UnknownName."""
        plan = self.plan if verification is None else replace(self.plan, verification=verification)
        if schedule is None or schedule == plan.name:
            return plan
        return under_schedule(plan, schedule, self.setting(SamplingParams()))

    def with_combination(self, combine: Combination) -> "Ensemble":
        """The same members, not loaded again, for another target. Raises as the constructor does."""
        other = copy.copy(self)
        combine.check(len(self.member_names))
        # What was measured for one target says little of another, but for the cost of forward passes.
        other.combination, other._planners = combine, {}
        other._kept = self._kept.of_costs()
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
        return Ensemble(
            [self.loaded(name)], schedule="plain", end_tokens=self.end_tokens, max_sequences=self.max_sequences
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Members, then drafters."""
        return self.member_names + self.drafter_names

    @property
    def has_own_prompts(self) -> bool:
        """Whether members have prompts or system messages of their own."""
        return any(renderer.has_own for renderer in self._renderers[: len(self.member_names)])

    @property
    def templated(self) -> tuple[str, ...]:
        """The members that have a chat template."""
        members = self._renderers[: len(self.member_names)]
        return tuple(renderer.name for renderer in members if renderer.has_template)

    @property
    def vocab_size(self) -> int:
        """Columns of a row of r: the entries that all members have in common."""
        return min(runner.vocab_size for runner in self.runners[: len(self.member_names)])

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a sequence: the ensemble's own, or those of all members together."""
        return self._engine.end_ids

    @property
    def is_invariant(self) -> bool:
        """Whether every row of r is a function of the tokens before it alone, to the last bit. Then the text of a seed
        is the same under every schedule and in every batch, where verification is coupled or the temperature 0."""
        return all(is_invariant(runner) for runner in self.runners[: len(self.member_names)])

    def generate(self, prompts: Prompts, params: Params = None) -> list[Result]:
        """Decode each prompt n times; prompt by prompt, sample by sample.

        prompts: a text, token ids, or a chat (a list of messages, or a Chat); or a list of them.
        params: one for all, or one each. Raises a CospecError before anything is decoded; a sequence that fails while
        being decoded ends with finish_reason "error", and the others go on.
        """
        results = [event.result for event in self.stream(prompts, params) if event.result is not None]
        return sorted(results, key=lambda result: (result.prompt_index, result.index))

    def stream(
        self,
        prompts: Prompts,
        params: Params = None,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """The same, as it comes: an event for each text and round in which it moved. Closing it aborts what is live.

        should_stop: asked before each round; once it holds, what is live ends as it is, with finish_reason "abort".
        """
        return self._run(deque(self._prepared(prompts, params)), should_stop)

    async def agenerate(self, prompts: Prompts, params: Params = None) -> list[Result]:
        """`generate` for an event loop, which goes on while the models run in a thread of their own.

        Calls that overlap share one engine and are batched together, `max_sequences` at a time in all, also those of
        other event loops, and of `with_plan` and `with_combination`::

            poem, letter = await asyncio.gather(ensemble.agenerate("A poem:"), ensemble.agenerate("A letter:"))

        With equal seeds the results are those of `generate`. Cancelling the task aborts its sequences before the next
        round. Raises what `generate` raises, and EngineStopped once the engine has died.

        `generate` and `stream`, which decode in the thread that calls them, may be called meanwhile in any thread:
        rounds take turns. Other ensembles that were made of members `loaded` here must wait.
        """
        results = [event.result async for event in self.astream(prompts, params) if event.result is not None]
        return sorted(results, key=lambda result: (result.prompt_index, result.index))

    async def astream(self, prompts: Prompts, params: Params = None) -> AsyncGenerator[Event]:
        """The same, as it comes: an event for each text and round in which it moved, as `stream` gives them.

        Leaving the loop early aborts what is live once the generator is closed: by `contextlib.aclosing`, or by the
        event loop. The sheet of an event goes on changing until its text is finished.
        """
        group = EventGroup(await asyncio.to_thread(self._prepared, prompts, params))
        self._thread.submit(self._engine, group)
        try:
            async for event in group.items():
                yield event
        finally:
            self._thread.cancel(group)

    def engine(self, calls_at_once: int = 1) -> Engine:
        """A new engine over these members; what it decodes is given by `request`.

        calls_at_once: how many members may be called side by side, each with as many threads as torch has been given;
        members whose runners share state must not be.
        """
        participants = [Participant(name, runner) for name, runner in zip(self.names, self.runners, strict=True)]
        return Engine(participants, len(self.member_names), calls_at_once, self._own_end_ids)

    def request(self, prompt: Prompt, params: SamplingParams, index: int = 0) -> Request:
        """What the engine is given for one sample of one prompt. Raises InvalidPrompt or InvalidSampling."""
        (params,) = as_params(params, 1)
        lane_prompts = self._rendered(as_prompt(prompt), params)
        seed = params.seed if params.seed is not None else secrets.randbits(SEED_BITS)
        planner = self.planner_for(params)
        return Request(
            prompt=lane_prompts[0],
            lane_prompts=lane_prompts,
            params=params,
            combination=self.combination,
            schedule=planner or self.schedule_for(params),
            schedule_name=self.plan.name,
            plan=None if planner else str(resolved_plan(self.plan, self.setting(params))),
            verification=self.plan.verification,
            draws=Draws(seed, index),
            tokenizer=self.tokenizer,
            index=index,
        )

    def rendered(self, prompt: Prompt) -> list[tuple[int, ...]]:
        """What each of `names` is given for a prompt, in token ids.

        A text or token ids as they are, or in the member's own prompt; a chat by the template of the member's own
        tokenizer, with its own system message. A drafter with neither prompt nor system message of its own is given
        what the member is that it drafts for. Raises InvalidPrompt.
        """
        return self._rendered(as_prompt(prompt), SamplingParams())

    def chat_text(self, chat: Chat, *, goes_on: bool = False) -> str:
        """What the first member is given for a chat, as the text that its template makes of it. goes_on: whether what
        follows goes on with the last message, in place of a new one. Raises InvalidPrompt."""
        self.check_template_kwargs(chat)
        return self._renderers[0].chat_text(chat, goes_on=goes_on)

    def check_template_kwargs(self, chat: Chat) -> None:
        """Raises InvalidPrompt for what no member's chat template reads of that which the chat gives them."""
        check_template_kwargs(chat.template_kwargs, self._renderers[: len(self.member_names)])

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
        if not self._is_planned or not is_free:
            return None
        setting = self.setting(params)
        # The legal schedules, and the target, depend on these.
        key = (params.warpers, params.is_biased, plan, setting.drafters)
        if key not in self._planners:
            weighed = [plan] if plan.is_paced else plans(setting, plan.verification)
            if len(self._planners) >= MOST_PLANNERS:
                del self._planners[next(iter(self._planners))]
            self._planners[key] = self._new_planner(weighed, setting)
        return self._planners[key]

    def setting(self, params: SamplingParams) -> Setting:
        """What plans are made for: the target and who takes part, under this sampling."""
        return Setting(
            combination=self.combination,
            members=self.member_names,
            drafters=self.drafter_names,
            params=params,
            servers=self._servers,
            runs=self._runs,
            acceptances=self._told,
        )

    @property
    def sources(self) -> list[Member]:
        """Members, then drafters, as given, under the load options of all."""
        given = [*self._members, *self._drafters]
        return [source.under(self.load_options) for source in given]

    @property
    def _is_planned(self) -> bool:
        """Whether the plan, or its draft lengths, are chosen by what is measured."""
        return self.plan.is_paced or (self.plan.schedule == "auto" and self.plan.gamma is None)

    def _begin_measuring(self, arguments: dict[str, Any], keep: bool | Path) -> None:
        """Find what was measured in earlier processes, and measure what forward passes cost where there is nothing.
        Runners that are given as they are may be anything: what they cost is seen as they decode."""
        lanes = [i for i, source in enumerate(self.sources) if isinstance(source.model, str | Path)]
        if len(lanes) < len(self.runners):
            return
        if keep is not False:
            beside = keep if isinstance(keep, Path) else None
            file = MeasurementFile.of(identity(arguments), [runner.dtype for runner in self.runners], beside)
            self._kept = KeptMeasurements(file)
            weakref.finalize(self, self._kept.save_at_the_end)
        if not self._kept.costs:
            models = {i: self.runners[i] for i in lanes if self.sources[i].model not in LOOKUPS}
            self._kept.costs = calibrated(models, self._servers)
            if self._kept.costs:
                self._kept.costs = self._with_rounds(self._kept.costs)

    def _with_rounds(self, costs: Sequence[Any]) -> Sequence[Any]:
        """The same, and the engine's own, over the members and the first drafter that is a model: a lookup proposes
        nothing where there is nothing to find, and would remember."""
        num_members = len(self.member_names)
        drafters = [lane for lane in range(num_members, len(self.names)) if lane not in self._runs][:1]
        lanes = [*range(num_members), *drafters]
        setting = replace(
            self.setting(TIMED),
            drafters=tuple(self.names[lane] for lane in drafters),
            servers=tuple(min(self._servers[lane], index) for index, lane in enumerate(lanes)),
            runs=(),
            acceptances={},
        )
        participants = [Participant(self.names[lane], self.runners[lane]) for lane in lanes]
        engine = Engine(participants, num_members, end_ids=self._own_end_ids)
        return with_rounds(costs, engine, setting, self.plan.verification, self.tokenizer)

    def _new_planner(self, weighed: Sequence[Plan], setting: Setting) -> Auto:
        """A planner that begins with what is known."""
        params, plan = setting.params, self.plan
        whose = str(plan) if plan.is_paced else plan.name
        sampling = json.dumps([repr(params.warpers), params.is_biased, whose, plan.verification])
        while not self._kept.begin(planner := Auto.of_plans(weighed, setting, plan.name), sampling):
            pass
        return planner

    def _requests(self, prompts: Prompts, params: Params) -> list[Request]:
        """Every sample of every prompt, all of them checked before the first runs."""
        listed = as_prompts(prompts)
        requests = []
        engine = self.engine()
        for prompt_index, (prompt, own) in enumerate(zip(listed, as_params(params, len(listed)), strict=True)):
            try:
                first = replace(self.request(prompt, own), prompt_index=prompt_index)
                engine.check(first)
            except InvalidPrompt as error:
                raise InvalidPrompt(str(error), prompt_index) from None
            seed = first.draws.seed
            requests += [replace(first, draws=Draws(seed, index), index=index) for index in range(own.n)]
        return requests

    def _prepared(self, prompts: Prompts, params: Params) -> list[Request]:
        """The requests, prepared in any thread: one caller at a time, since what `auto` measures is kept for all."""
        with self._preparing:
            return self._requests(prompts, params)

    def _run(self, waiting: deque[Request], should_stop: Callable[[], bool]) -> Iterator[Event]:
        engine, turn = self.engine(), self._thread.turn
        live: list[int] = []
        try:
            while waiting or engine.num_live:
                with turn:
                    while waiting and engine.num_live < self.max_sequences:
                        live.append(engine.add(waiting.popleft()))
                if should_stop():
                    break
                with turn:
                    events = engine.step()
                for event in events:
                    if event.result is not None:
                        live.remove(event.id)
                    yield event
            for id in live:
                with turn:
                    event = engine.abort(id)
                yield event
        finally:
            with turn:
                engine.close()
                self._kept.save_soon()

    def _rendered(self, prompt: str | list[int] | Chat, params: SamplingParams) -> list[tuple[int, ...]]:
        self._check_tokenizer(prompt)
        if isinstance(prompt, Chat):
            self.check_template_kwargs(prompt)
        ids = None if isinstance(prompt, Chat) else self._encoded(prompt)
        num_members, known = len(self.member_names), dict[object, tuple[int, ...]]()

        def lane(renderer: Renderer) -> tuple[int, ...]:
            # Members of one tokenizer object are given the same; a long chat is rendered once.
            key = (id(renderer.tokenizer), renderer.name if renderer.has_own else None)
            if key not in known:
                known[key] = renderer.lane(prompt, ids)
            return known[key]

        members = [lane(renderer) for renderer in self._renderers[:num_members]]
        drafters = self._renderers[num_members:]
        owners = self._owners(params) if drafters else ()
        return members + [
            lane(own) if own.has_own else members[owner] for own, owner in zip(drafters, owners, strict=True)
        ]

    def _owners(self, params: SamplingParams) -> Sequence[int]:
        """For each drafter the member that it drafts for, under this plan and sampling. Raises InvalidSchedule for what
        a schedule of one's own answers otherwise."""
        schedule, num_members = self.plan.schedule, len(self.member_names)
        kind = schedule_class(schedule) if isinstance(schedule, str) else schedule
        owners = kind.owners(self.plan, self.setting(params))
        if len(owners) != len(self.drafter_names) or any(owner not in range(num_members) for owner in owners):
            raise InvalidSchedule(
                f"the schedule {self.plan.name!r} names the owners {shown(owners)} of {len(self.drafter_names)} "
                f"drafters; it must name a member of {num_members} for each"
            )
        return owners

    def _encoded(self, prompt: str | list[int]) -> tuple[int, ...]:
        ids = self._renderers[0].text(prompt) if isinstance(prompt, str) else tuple(prompt)
        if not ids:
            raise InvalidPrompt("the prompt is empty; give at least one token")
        return ids

    def _check_tokenizer(self, prompt: str | list[int] | Chat) -> None:
        """Raises InvalidPrompt for a text, the prompt or a member's own, where there is no tokenizer."""
        own = [renderer.member.prompt for renderer in self._renderers if isinstance(renderer.member.prompt, str)]
        texts: Sequence[object] = own if isinstance(prompt, list) else [prompt]
        if texts and self.tokenizer is None:
            what = "chat" if isinstance(prompt, Chat) else "text"
            raise InvalidPrompt(f"{self._without_tokenizer()} the {what} {shown(texts[0])} as token ids (--token-ids)")

    def _without_tokenizer(self) -> str:
        """What an error says of members without a tokenizer, up to what is to be given instead."""
        models = [written(member) for member in self._members if isinstance(member.model, str | Path)]
        if not models:
            return "these members have no tokenizer; give"
        return (
            f"{', '.join(models)} came without a tokenizer (tokenizer.json or tokenizer.model); add its files to the "
            "model's folder, or give"
        )


def _load_options(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in LOAD_OPTIONS:
            raise UnknownName("option of Ensemble", name, LOAD_OPTIONS)
    return {name: value for name, value in given.items() if value is not None}
