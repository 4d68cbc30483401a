"""The engine: one round for every live sequence at a time. It knows no schedule, combination or model by name.

A round: feed the lanes whose turn it is, all sequences that share a runner in one forward pass; settle the positions
whose cells are filled; let the proposers draft.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import CospecError, InvalidPrompt, InvalidSampling, InvalidSchedule, MemberFailed, shown
from ..runner.protocol import Source, proposes_runs, reads_states
from .events import Event
from .faults import guarded, isolate_failures
from .feeding import Feeding, Participant, RoundFeeds
from .live import Live, Request
from .policy import Round
from .propose import Proposal, certain_draft, propose
from .score import score
from .settle import refine, settle
from .sheet import Lane, Sheet
from .text import TextStream, text_decoder
from .tokens import Token, TokenLogprob

logger = logging.getLogger(__name__)


class Engine:
    """Decodes any number of sequences at once, each with its own progress, target, schedule and sampling.

    participants: the members in the order of the combination, then the drafters. num_at_once: how many forward passes,
    of different runners, may run side by side. end_ids: tokens that end a sequence; None for those of all members
    together.
    """

    def __init__(
        self,
        participants: Sequence[Participant],
        num_members: int,
        num_at_once: int = 1,
        end_ids: Sequence[int] | None = None,
    ) -> None:
        self.participants = tuple(participants)
        self.num_members = num_members
        self.vocab_size = min(participant.runner.vocab_size for participant in participants[:num_members])
        if end_ids is None:
            end_ids = [token for member in participants[:num_members] for token in member.runner.end_ids]
        self.end_ids = tuple(token for token in dict.fromkeys(end_ids) if 0 <= token < self.vocab_size)
        self._run_proposers = {i for i, each in enumerate(self.participants) if proposes_runs(each.runner)}
        self._feeding = Feeding(self.participants, num_members, num_at_once)
        self._live: dict[int, Live] = {}
        self._num_added = 0

    @property
    def num_live(self) -> int:
        """Sequences that have not left, finished ones that await log-probabilities included."""
        return len(self._live)

    def check(self, request: Request) -> None:
        """Raises InvalidPrompt or InvalidSampling if the request cannot run."""
        self._checked_limit(request)

    def add(self, request: Request) -> int:
        """Take in a sequence, which joins in the next round; its id.

        Raises as `check` does, and MemberFailed where a runner has no slot for it; then nothing has changed.
        """
        limit, params = self._checked_limit(request), request.params
        end_ids = () if params.ignore_eos else self.end_ids
        text = guarded("the tokenizer", _text, request)
        if isinstance(text, CospecError):
            raise text
        sheet = Sheet(
            prompt=request.prompt,
            params=params,
            draws=request.draws,
            combination=request.combination,
            schedule=request.schedule,
            verification=request.verification,
            lanes=self._open(request),
            num_members=self.num_members,
            end_ids=frozenset((*end_ids, *params.stop_token_ids)),
            limit=limit,
            scored=0 if params.prompt_logprobs is None else 1 - len(request.prompt),
        )
        self._num_added += 1
        live = self._live[self._num_added] = Live(self._num_added, request, sheet, text)
        live.has_begun = live.report(sheet.schedule.on_begin, sheet) is None
        if sheet.limit == 0 and not sheet.is_finished:
            sheet.finish("length")
        return live.id

    def abort(self, id: int) -> Event:
        """End a sequence now; its slots are free for the next."""
        live = self._live[id]
        if not live.sheet.is_finished:
            live.sheet.finish("abort")
            live.close_text()
        event = live.make_event((), (), is_over=True)
        self._leave(live)
        return event

    def close(self) -> None:
        """Abort all that is live, and give threads back."""
        for id in list(self._live):
            self.abort(id)
        self._feeding.close()

    def step(self) -> list[Event]:
        """One round. An event for each sequence that it moved; those that are finished have left."""
        started = time.perf_counter()
        lives = [*self._live.values()]
        before = {live: live.sheet.num_changes for live in lives}
        num_decided = -sum(live.sheet.num_drafts_decided for live in lives)
        fed = self._feeding.feed(lives)
        # While a prompt is read in chunks, nothing else happens to its sequence.
        moved = [live for live in fed.moved if not live.prompt_pending or live.sheet.is_finished]
        tokens = self._settle([live for live in moved if not live.sheet.is_finished])
        logprobs = {live: self._score(live) for live in moved}
        self._draft(moved)
        for live in moved:
            is_still = live.sheet.num_changes == before[live] and not live.prompt_pending
            if is_still and not live.is_over:
                live.fail(_no_progress(live.sheet))
        events = {live: live.make_event(tokens.get(live, ()), logprobs[live], is_over=live.is_over) for live in moved}
        num_decided += sum(live.sheet.num_drafts_decided for live in lives) + len(tokens)
        self._report_round(events, fed, len(lives), num_decided, time.perf_counter() - started)
        for live, event in events.items():
            if event.result is not None:
                self._leave(live)
        return [*events.values()]

    def _settle(self, lives: Sequence[Live]) -> dict[Live, Sequence[Token]]:
        """Settle what can be settled: of each sequence the tokens, up to where it ends."""
        settled = isolate_failures(
            lambda some: settle([live.sheet for live in some]), lives, lambda live: "the combination"
        )
        tokens: dict[Live, Sequence[Token]] = {}
        for live, outcome in zip(lives, settled, strict=True):
            if isinstance(outcome, CospecError):
                live.fail(outcome)
            elif outcome:
                tokens[live] = live.append_text(outcome)
                live.report(live.sheet.schedule.on_settled, live.sheet, tokens[live])
        return tokens

    def _score(self, live: Live) -> Sequence[TokenLogprob]:
        """The log-probabilities that became known."""
        if live.sheet.error is not None:
            return ()
        scored = guarded("the log-probabilities", score, live.sheet)
        if isinstance(scored, CospecError):
            live.fail(scored)
            return ()
        if scored:
            live.sheet.mark_scored(scored[-1].position + 1)
        return scored

    def _draft(self, lives: Sequence[Live]) -> None:
        """Let members take over what drafters proposed, and proposers draft the next token."""
        proposing: list[tuple[Live, int]] = []
        for live in lives:
            if live.is_over:
                # Its slots are closed as they are.
                continue
            live.sheet.forget()
            self._feeding.trim(live)
            if not live.sheet.is_finished and self._refine(live):
                lane = guarded(live.schedule_label, _proposer, live.sheet)
                if isinstance(lane, CospecError):
                    live.fail(lane)
                elif lane in self._run_proposers and not live.sheet.params.may_forbid:
                    self._draft_run(live, lane)
                elif lane is not None:
                    proposing.append((live, lane))
        drafted = isolate_failures(_propose, proposing, lambda _: "a proposal")
        for (live, _), error in zip(proposing, drafted, strict=True):
            if error is not None:
                live.fail(error)

    def _draft_run(self, live: Live, lane: int) -> None:
        """Draft what a proposer has to offer at once, as far as the schedule goes on. It declines what is missing."""
        sheet, participant = live.sheet, self.participants[lane]
        run = guarded(participant.name, _run_of, sheet, lane, participant.runner, self.vocab_size)
        if isinstance(run, CospecError):
            live.fail(run)
            return
        for token in run:
            sheet.extend(certain_draft(sheet, lane, token))
            goes_on = guarded(live.schedule_label, _drafts_on, sheet, lane)
            if isinstance(goes_on, CospecError):
                live.fail(goes_on)
            if goes_on is not True:
                return
        sheet.decline(lane)

    def _refine(self, live: Live) -> bool:
        """Let a member take over the drafters' drafts, where the schedule says so. Whether the sequence goes on."""
        member = guarded(live.schedule_label, _refiner, live.sheet)
        if member is None:
            return True
        if isinstance(member, CospecError):
            error: CospecError | None = member
        else:
            error = guarded("the first verification", refine, live.sheet, member)
        if error is not None:
            live.fail(error)
            return False
        self._feeding.trim(live)
        return not live.sheet.is_finished

    def _report_round(
        self, events: Mapping[Live, Event], fed: RoundFeeds, num_live: int, num_decided: int, seconds: float
    ) -> None:
        """Report to each schedule what became of its sequences."""
        by_schedule: dict[int, list[Live]] = defaultdict(list)
        for live in events:
            if live.has_begun:
                by_schedule[id(live.sheet.schedule)].append(live)
        for lives in by_schedule.values():
            done = Round(
                sheets=[live.sheet for live in lives],
                num_live=num_live,
                num_moved=len(events),
                num_decided=num_decided,
                num_settled=sum(len(events[live].tokens) for live in lives),
                seconds=seconds,
                seconds_in_models=fed.seconds,
                has_prefill=fed.has_prefill,
            )
            error = lives[0].report(lives[0].sheet.schedule.on_round, done)
            if error is not None:
                for live in lives[1:]:
                    live.fail(error)

    def _leave(self, live: Live) -> None:
        if live.has_begun:
            error = guarded(live.schedule_label, live.sheet.schedule.on_end, live.sheet)
            if error is not None:
                # The result is right, and was given: this concerns whoever wrote the schedule.
                logger.error("%s", error)
        self._feeding.release(live)
        del self._live[live.id]

    def _open(self, request: Request) -> list[Lane]:
        """A lane for each participant. Raises MemberFailed where a runner has no slot, and has opened none then."""
        lanes: list[Lane] = []
        name = ""
        try:
            for index, (participant, prompt) in enumerate(zip(self.participants, request.lane_prompts, strict=True)):
                name, runner = participant.name, participant.runner
                lanes.append(Lane(index, name, prompt, runner.open()))
                if reads_states(runner):
                    runner.attach(lanes[index].slot, self._sources(lanes))
        except Exception as error:
            for lane in lanes:
                self.participants[lane.index].runner.close(lane.slot)
            raise MemberFailed.by(error, name) from error
        return lanes

    def _sources(self, lanes: Sequence[Lane]) -> list[Source]:
        """The members' slots, as the drafter reads them whose lane was opened last."""
        num_tokens = len(lanes[-1].prompt)
        return [
            Source(participant.runner, lane.slot, lead=len(lane.prompt) - num_tokens)
            for participant, lane in zip(self.participants, lanes[: self.num_members], strict=False)
        ]

    def _checked_limit(self, request: Request) -> int:
        """The most tokens that may follow. Raises as `check` does, also where a context has no room for what is
        asked."""
        _check_ids(request, self.vocab_size)
        members = request.lane_prompts[: self.num_members]
        if request.params.prompt_logprobs is not None and any(prompt != request.prompt for prompt in members):
            raise InvalidSampling("prompt_logprobs need one prompt for all members, and here they have different ones")
        limit = request.params.max_tokens
        for index, (participant, prompt) in enumerate(zip(self.participants, request.lane_prompts, strict=True)):
            if not prompt:
                raise InvalidPrompt(f"the prompt of {participant.name} is empty; give it at least one token")
            # A drafter whose context is full has nothing to propose, and the sequence goes on without it.
            context = participant.runner.context if index < self.num_members else None
            if context is None:
                continue
            room = context - len(prompt)
            if room < min(1, request.params.max_tokens):
                raise InvalidPrompt(
                    f"the prompt of {participant.name} has {len(prompt)} tokens; its context holds {context}, "
                    "the answer included: shorten the prompt"
                )
            limit = min(limit, room)
        return limit


def _text(request: Request) -> TextStream | None:
    """The text of the answer, behind the prompt's; None without a tokenizer."""
    tokenizer, stops = request.tokenizer, request.params.stop
    if tokenizer is None:
        return None
    special = getattr(tokenizer, "special", None)
    return TextStream(text_decoder(tokenizer, request.prompt), stops, special)


def _refiner(sheet: Sheet) -> int | None:
    """The member that takes over the drafters' drafts. Raises InvalidSchedule for one that cannot."""
    member = sheet.schedule.refiner(sheet)
    if member is None:
        return None
    raw = range(sheet.position + sheet.num_refined, sheet.frontier)
    if not (raw and member in sheet.members and all(map(sheet.lanes[member].has, raw))):
        raise InvalidSchedule(
            f"the schedule {sheet.schedule.name!r} names the lane {member!r} as refiner, which must be a member with a "
            f"row for each of the {len(raw)} drafts that drafters proposed"
        )
    return member


def _proposer(sheet: Sheet) -> int | None:
    """The lane that drafts the token at the frontier. Raises InvalidSchedule for one that cannot."""
    lane = sheet.schedule.proposer(sheet) if sheet.num_draftable > 0 else None
    if lane is not None and (lane not in range(len(sheet.lanes)) or not sheet.lanes[lane].has(sheet.frontier)):
        raise InvalidSchedule(
            f"the schedule {sheet.schedule.name!r} names the lane {lane!r} as proposer, which has no row for the next "
            "position; feed it first"
        )
    return lane


def _run_of(sheet: Sheet, lane: int, runner: Any, vocab_size: int) -> list[int]:
    """The tokens that the lane's runner proposes at once. Raises MemberFailed for too many, or what is no token."""
    run = [*runner.propose_run(sheet.lanes[lane].slot, sheet.num_draftable)]
    if len(run) > sheet.num_draftable or not all(0 <= token < vocab_size for token in run):
        raise MemberFailed(
            f"{sheet.lanes[lane].name} proposed {shown(run)}, where {sheet.num_draftable} token ids at most were "
            "asked for"
        )
    return run


def _drafts_on(sheet: Sheet, lane: int) -> bool:
    """Whether the schedule lets the same lane draft the next token too."""
    return sheet.num_draftable > 0 and [*sheet.schedule.turn(sheet)] == [lane]


def _propose(proposing: Sequence[tuple[Live, int]]) -> list[CospecError | None]:
    proposals: list[Proposal] = [(live.sheet, lane) for live, lane in proposing]
    return propose(proposals) if proposals else []


def _no_progress(sheet: Sheet) -> InvalidSchedule:
    return InvalidSchedule(
        f"the schedule {sheet.schedule.name!r} made no progress at position {sheet.position}: in a whole round it had "
        "nothing fed, nothing could be settled, and nothing was drafted; its `turn` must name a lane that has not seen "
        "all tokens, until the cells of the next position are filled"
    )


def _check_ids(request: Request, vocab_size: int) -> None:
    """Raises InvalidPrompt or InvalidSampling for token ids outside the vocabulary, and stop strings without a text."""
    params = request.params
    for prompt in (request.prompt, *request.lane_prompts):
        outside = [token for token in prompt if not 0 <= token < vocab_size]
        if outside:
            raise InvalidPrompt(f"token id {shown(outside[0])} is outside the vocabulary of {vocab_size} entries")
    for what, ids in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
        outside = [token for token in ids if not 0 <= token < vocab_size]
        if outside:
            raise InvalidSampling(f"{what} names token id {outside[0]}; the vocabulary has {vocab_size} entries")
    if params.stop and request.tokenizer is None:
        raise InvalidSampling("stop strings need a tokenizer, and these members have none; use stop_token_ids")
