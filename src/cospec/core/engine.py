"""The engine: one round for every live sequence at a time. It knows no schedule, combination or back end by name.

A round: ask each sequence's schedule whose turn it is; feed those lanes, all sequences that share a runner in one
call; settle what can be settled; let the proposers draft.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as Values
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from ..errors import CospecError, InvalidPrompt, InvalidSampling, MemberFailed
from ..runner import Feed, Runner
from .calls import Call, Calls
from .observer import Round
from .policy import Policy
from .prefill import Pieces
from .propose import propose
from .sampling import Draws, SamplingParams
from .score import TokenLogprob, score
from .settle import refine, settle
from .sheet import Lane, Sequence, Settled
from .text import TextStream

logger = logging.getLogger(__name__)

# Where rows wait for log-probabilities, lanes that were idle catch up after so many positions, to bound the memory.
MOST_UNSCORED = 64


@dataclass(frozen=True)
class Participant:
    """A member or drafter: a name and the runner that it may share with others."""

    name: str
    runner: Runner


@dataclass(frozen=True, kw_only=True)
class Request:
    """A text to decode. prompt: the user's; lane_prompts: what each participant is given, members then drafters.

    decode: ids to text, None where there is no tokenizer (then there are no stop strings either). is_prompt_only: one
    token is decoded for the prompt to be scored, and nobody is told of it.
    """

    prompt: tuple[int, ...]
    lane_prompts: Values[tuple[int, ...]]
    params: SamplingParams
    policy: Policy
    draws: Draws
    decode: Callable[[Values[int]], str] | None = None
    is_prompt_only: bool = False

    def room(self, context: int, prompt: Values[int]) -> int:
        """For how many tokens a context has room behind a lane's prompt. A token that nobody is told of needs none: the
        last one is fed to no one."""
        return context - len(prompt) + self.is_prompt_only


@dataclass(frozen=True)
class Token:
    """A settled token with the text that it made certain."""

    settled: Settled
    text: str


@dataclass(frozen=True)
class Update:
    """What a round did to one sequence."""

    id: int
    tokens: Values[Token]
    logprobs: Values[TokenLogprob]
    is_finished: bool


@dataclass(eq=False)
class Live:
    """A sequence in the engine, and the text it has so far.

    unread: lanes that are to be fed the rest of a prompt before anything else happens to it. left: names of those that
    could not be fed before their turn.
    """

    id: int
    sequence: Sequence
    policy: Policy
    text: TextStream | None
    unread: list[Lane] = field(default_factory=list)
    left: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0


class LaneFeed(NamedTuple):
    """What a lane is fed in a round. has_turn: whether it is its turn, and the text can go on with it alone."""

    live: Live
    lane: Lane
    feed: Feed
    has_turn: bool = True


@dataclass
class Fed:
    """What a round fed: seconds in the runners, how many lanes whose turn it was, and whether a prompt was among it."""

    seconds: float = 0.0
    count: int = 0
    has_prefill: bool = False


class Engine:
    """Decodes any number of sequences at once, each with its own progress, policy and sampling.

    participants: the members in the order of the combination, then the drafters. calls_at_once: how many runners may be
    called side by side.
    """

    def __init__(self, participants: Values[Participant], num_members: int, calls_at_once: int = 1) -> None:
        self.participants = tuple(participants)
        self.num_members = num_members
        self.vocab_size = min(participant.runner.vocab_size for participant in participants)
        self._runners = {participant.name: participant.runner for participant in self.participants}
        # Lanes that share a runner are fed in one call.
        self._sharing = {participant.name: id(participant.runner) for participant in self.participants}
        self._indices = {participant.name: index for index, participant in enumerate(self.participants)}
        self._calls = Calls(calls_at_once)
        self._fed = Fed()
        self._pieces: dict[int, Pieces] = defaultdict(Pieces)
        self._live: dict[int, Live] = {}
        self._num_added = 0
        # Members whose calls for many texts raised, as was told.
        self._told: set[str] = set()

    @property
    def num_live(self) -> int:
        return len(self._live)

    def get(self, id: int) -> Live:
        """A live sequence, to be read only."""
        return self._live[id]

    def check(self, request: Request) -> None:
        """Raises InvalidPrompt or InvalidSampling if the request cannot run."""
        self._check_ids(request)
        self._limit(request)

    def add(self, request: Request) -> int:
        """Take in a text; it joins in the next round. Raises as `check` does, and changes nothing then."""
        self._check_ids(request)
        limit, params = self._limit(request), request.params
        runner = self.participants[0].runner
        end_ids = frozenset((*(() if params.ignore_eos else runner.end_ids), *params.stop_token_ids))
        lanes = [
            Lane(participant.name, prompt, participant.runner.open())
            for participant, prompt in zip(self.participants, request.lane_prompts, strict=True)
        ]
        sequence = Sequence(
            prompt=request.prompt,
            params=params,
            draws=request.draws,
            lanes=lanes,
            num_members=self.num_members,
            end_ids=end_ids,
            limit=limit,
            scored=0 if params.prompt_logprobs is None else 1 - len(request.prompt),
        )
        text = TextStream(request.decode, params.stop) if request.decode is not None else None
        self._num_added += 1
        self._live[self._num_added] = Live(self._num_added, sequence, request.policy, text)
        return self._num_added

    def abort(self, id: int) -> Live:
        """End a sequence now; its slots are free for the next."""
        live = self._live[id]
        live.sequence.finish_reason = live.sequence.finish_reason or "abort"
        self._release(live)
        return live

    def close(self) -> None:
        """Abort all that is live."""
        for id in list(self._live):
            self.abort(id)

    def step(self) -> list[tuple[Live, Update]]:
        """One round. Returns every sequence that it moved; those that are finished have left."""
        started, self._fed, num_live = time.perf_counter(), Fed(), self.num_live
        turns = self._first_drafters({live: self._turn(live) for live in self._live.values()})
        self._feed(turns)
        # A prompt in pieces changes nothing but the time: until it is read, the text stands still.
        moved = self._advance([live for live in turns if not live.unread or live.sequence.finish_reason])
        self._report_round(moved, num_live, time.perf_counter() - started)
        return moved

    def _report_round(self, moved: list[tuple[Live, Update]], num_live: int, seconds: float) -> None:
        """Tell each observer what became of its sequences."""
        by_observer: dict[int, list[tuple[Live, Update]]] = defaultdict(list)
        for live, update in moved:
            by_observer[id(live.policy.observer)].append((live, update))
        for own in by_observer.values():
            observer = own[0][0].policy.observer
            if observer is not None:
                observer.on_round(
                    Round(
                        sequences=[live.sequence for live, _ in own],
                        num_live=num_live,
                        num_settled=sum(len(update.tokens) for _, update in own),
                        num_feeds=self._fed.count,
                        seconds=seconds,
                        seconds_in_runners=self._fed.seconds,
                        has_prefill=self._fed.has_prefill,
                    )
                )

    def _first_drafters(self, turns: dict[Live, list[Lane]]) -> dict[Live, list[Lane]]:
        """While some texts are drafting, the others wait, so that members are called for many texts at once. A drafter
        that is still to read its prompt is waited for by none."""
        drafting = {
            live: lanes
            for live, lanes in turns.items()
            if any(self._is_drafter(lane) and lane.seen >= 0 for lane in lanes)
        }
        return drafting or turns

    def _is_drafter(self, lane: Lane) -> bool:
        return self._indices[lane.name] >= self.num_members

    def _turn(self, live: Live) -> list[Lane]:
        """The lanes to be fed in this round."""
        sequence = live.sequence
        if live.unread:
            return live.unread
        if sequence.wants_logprobs:
            num_unscored = sequence.position - sequence.scored
            if sequence.finish_reason or num_unscored >= MOST_UNSCORED:
                return [lane for lane in sequence.lanes[: self.num_members] if lane.seen < sequence.position - 1]
        return [sequence.lanes[index] for index in live.policy.schedule.turn(sequence)]

    def _feed(self, turns: dict[Live, list[Lane]]) -> None:
        """Feed each lane what is of use: one call a runner, however many sequences and members share it."""
        by_runner: dict[int, list[LaneFeed]] = defaultdict(list)
        for pieces in self._pieces.values():
            pieces.begin()
        for live in turns:
            live.unread = []
        for live, lane in ((live, lane) for live, lanes in turns.items() for lane in lanes):
            index = self._indices[lane.name]
            tokens = live.sequence.unseen(lane)[: live.policy.schedule.reach(live.sequence, index) - lane.seen]
            if self._is_drafter(lane) and self._is_beyond(lane, len(tokens)):
                live.sequence.decline(index)
            elif piece := self._piece(live, lane, tokens):
                by_runner[self._sharing[lane.name]].append(LaneFeed(live, lane, _with_rows(live.sequence, lane, piece)))
        self._feed_along(turns, by_runner)
        self._feed_heard(turns, by_runner)
        self._call(list(by_runner.values()))

    def _feed_along(self, turns: dict[Live, list[Lane]], by_runner: dict[int, list[LaneFeed]]) -> None:
        """Members that wait for another turn are fed what is settled, where their model is called anyway: its tokens
        cost about as much later, and texts that are all fed one are neither padded nor copied."""
        for live, own in turns.items():
            # Where it is nobody's turn, the text waits for nothing but its log-probabilities.
            if not own or not live.policy.schedule.may_keep_up(live.sequence):
                continue
            for lane in live.sequence.lanes[: self.num_members]:
                batch = by_runner.get(self._sharing[lane.name])
                if batch is not None and lane not in own and (feed := self._extra(live, lane)):
                    batch.append(LaneFeed(live, lane, feed, has_turn=False))

    def _feed_heard(self, turns: dict[Live, list[Lane]], by_runner: dict[int, list[LaneFeed]]) -> None:
        """Beside members, drafters that draft nothing are fed where an observer wants to know what they would have."""
        for live, own in turns.items():
            observer, sequence = live.policy.observer, live.sequence
            # Members that are fed for log-probabilities alone settle nothing.
            if observer is None or sequence.finish_reason or not own or any(map(self._is_drafter, own)):
                continue
            for lane in (sequence.lanes[index] for index in observer.listens_to(sequence)):
                tokens = sequence.unseen(lane)
                if tokens and lane.name not in live.left and not self._is_beyond(lane, len(tokens)):
                    heard = LaneFeed(live, lane, _with_rows(sequence, lane, tokens), has_turn=False)
                    by_runner[self._sharing[lane.name]].append(heard)

    def _extra(self, live: Live, lane: Lane) -> Feed | None:
        """What a lane has not seen, with no row that is not wanted; a prompt is left until it is known to be needed."""
        sequence = live.sequence
        tokens = sequence.unseen(lane)
        if lane.seen < 0 or lane.name in live.left or not tokens:
            return None
        if sequence.wants_logprobs:
            return _with_rows(sequence, lane, tokens)
        # The last token is settled in this round, and what stands before it needed by nobody else.
        return Feed(lane.slot, tokens, 0) if sequence.position + 1 < sequence.limit else None

    def _piece(self, live: Live, lane: Lane, tokens: list[int]) -> list[int]:
        """What of these tokens is fed now: all, but where others are in the batch no more of prompts than a round may
        hold."""
        if lane.seen >= 0 or self.num_live == 1:
            return tokens
        piece = tokens[: self._pieces[self._sharing[lane.name]].take(len(tokens))]
        if len(piece) < len(tokens):
            live.unread.append(lane)
        return piece

    def _is_beyond(self, lane: Lane, num_tokens: int) -> bool:
        """Whether so many tokens more do not fit into what the lane's model can see."""
        context = self._runners[lane.name].context
        return context is not None and lane.length + num_tokens > context

    def _call(self, batches: list[list[LaneFeed]]) -> None:
        """One call a batch, whose lanes share a runner."""
        asked = [(self._runners[batch[0].lane.name], [each.feed for each in batch]) for batch in batches]
        for batch, call in zip(batches, self._calls.of(asked), strict=True):
            if call.error is None:
                self._receive(batch, call)
            else:
                self._excuse(batch, call.error)

    def _excuse(self, batch: list[LaneFeed], error: Exception) -> None:
        """Find out by feeding one by one whose fault it was that the call raised; the others go on."""
        first = batch[0]
        name, kind = first.lane.name, type(error).__name__
        if len(batch) > 1:
            if name not in self._told:
                # Where all texts then go on, as after a memory that only many fill, it is seen in their speed alone.
                self._told.add(name)
                logger.warning("%s raised %s for %d texts at once; they are fed one by one", name, kind, len(batch))
            for single in batch:
                self._call([[single]])
        elif first.has_turn:
            self._fail(first.live, MemberFailed(f"{name} raised {kind}: {error}"))
        else:
            # Nobody waits for it yet, and it may never have a turn.
            first.live.left.add(name)

    def _receive(self, batch: list[LaneFeed], call: Call) -> None:
        """Put the rows where they belong, and account for the call."""
        num_tokens = sum(len(each.feed.tokens) for each in batch)
        has_prefill = any(each.lane.seen < 0 for each in batch)
        if has_prefill:
            self._pieces[self._sharing[batch[0].lane.name]].learn(num_tokens, call.seconds)
        self._fed.seconds += call.seconds
        self._fed.count += sum(each.has_turn for each in batch)
        self._fed.has_prefill |= has_prefill
        self._report(batch, num_tokens, call.seconds)
        seconds = call.seconds / len(batch)
        for (live, lane, feed, _), row in zip(batch, call.rows, strict=True):
            lane.calls += 1
            lane.tokens_fed += len(feed.tokens)
            lane.seconds += seconds
            lane.prompt_seconds += seconds if lane.seen < 0 else 0.0
            live.sequence.receive(lane, len(feed.tokens), self._cut(row))

    def _report(self, batch: list[LaneFeed], num_tokens: int, seconds: float) -> None:
        """Tell who observes what a call of so many tokens took."""
        told = {(id(each.live.policy.observer), each.lane.name): each.live.policy.observer for each in batch}
        for (_, name), observer in told.items():
            if observer is not None:
                observer.on_call(self._indices[name], num_tokens, seconds)

    def _cut(self, rows: Tensor) -> Tensor:
        return rows if rows.shape[-1] == self.vocab_size else rows[:, : self.vocab_size]

    def _advance(self, lives: Values[Live]) -> list[tuple[Live, Update]]:
        """Settle what can be settled, then let the proposers draft."""
        settled = self._settle([live for live in lives if live.sequence.finish_reason is None])
        told = [(live, self._take(live, settled.get(live.id, [])), self._score(live)) for live in lives]
        self._draft([live for live in lives if live.sequence.finish_reason is None])
        return [(live, self._update(live, tokens, logprobs)) for live, tokens, logprobs in told]

    def _settle(self, lives: Values[Live]) -> dict[int, list[Settled]]:
        """By id, what was settled."""
        done = {}
        for live, outcome in zip(lives, self._settled(lives), strict=True):
            if isinstance(outcome, CospecError):
                self._fail(live, outcome)
                continue
            done[live.id] = outcome
            if live.policy.observer is not None and outcome:
                live.policy.observer.on_settled(live.sequence, outcome)
        return done

    def _settled(self, lives: Values[Live]) -> list[list[Settled] | CospecError]:
        try:
            return settle([(live.sequence, live.policy) for live in lives])
        except Exception as error:
            if len(lives) == 1:
                return [MemberFailed.by(error, "the combination")]
            # Nothing was decided yet; whose fault it is is found by settling one by one.
            return [self._settled([live])[0] for live in lives]

    def _score(self, live: Live) -> list[TokenLogprob]:
        """The log-probabilities that became known."""
        if live.sequence.error is not None:
            return []
        try:
            return score(live.sequence, live.policy)
        except Exception as error:
            self._fail(live, MemberFailed.by(error, "the log-probabilities"))
            return []

    def _update(self, live: Live, tokens: list[Token], logprobs: list[TokenLogprob]) -> Update:
        """What the round did to a sequence, which leaves if it is finished."""
        sequence = live.sequence
        is_finished = sequence.finish_reason is not None and not self._awaits_scores(sequence)
        if is_finished:
            self._release(live)
        return Update(live.id, tokens, logprobs, is_finished)

    def _draft(self, lives: Values[Live]) -> None:
        """Let the schedules' members take over what drafters proposed, and their proposers draft the next token."""
        proposing = []
        for live in lives:
            sequence, schedule = live.sequence, live.policy.schedule
            sequence.forget()
            self._trim(sequence)
            if self._refine(live) and (lane := schedule.proposer(sequence)) is not None:
                proposing.append((live, lane))
        for (live, _), error in zip(proposing, self._proposed(proposing), strict=True):
            if error is not None:
                self._fail(live, error)

    def _proposed(self, proposing: list[tuple[Live, int]]) -> list[CospecError | None]:
        try:
            return propose([(live.sequence, lane, live.policy.verification) for live, lane in proposing])
        except Exception as error:
            if len(proposing) == 1:
                return [MemberFailed.by(error, "a proposal")]
            return [self._proposed([one])[0] for one in proposing]

    def _refine(self, live: Live) -> bool:
        """Whether the sequence goes on."""
        member = live.policy.schedule.refiner(live.sequence)
        if member is None:
            return True
        try:
            refine(live.sequence, member, live.policy.verification)
        except Exception as error:
            self._fail(live, MemberFailed.by(error, "the first verification"))
            return False
        self._trim(live.sequence)
        return True

    def _take(self, live: Live, settled: list[Settled]) -> list[Token]:
        """The settled tokens with their text, up to where the text ends; what was settled behind it goes."""
        sequence = live.sequence
        first = sequence.position - len(settled)
        tokens = []
        for length, step in enumerate(settled, start=first + 1):
            before = len(live.text.text) if live.text else 0
            sequence.finish_reason = self._end(live, step.token, length)
            tokens.append(Token(step, live.text.text[before:] if live.text else ""))
            if sequence.finish_reason is not None:
                sequence.cut(length)
                break
        return tokens

    def _end(self, live: Live, token: int, length: int) -> str | None:
        """Why the text ends with this token, the `length`-th, if it does."""
        sequence = live.sequence
        may_stop = length >= sequence.params.min_tokens
        if token in sequence.end_ids or (live.text and live.text.push(token, may_stop=may_stop)):
            reason = "stop"
        elif length >= sequence.limit:
            reason = "length"
        else:
            return None
        if live.text:
            live.text.close()
        return reason

    def _trim(self, sequence: Sequence) -> None:
        for participant, lane in zip(self.participants, sequence.lanes, strict=True):
            if lane.slot.length > lane.length:
                participant.runner.trim(lane.slot, lane.length)

    def _awaits_scores(self, sequence: Sequence) -> bool:
        return sequence.error is None and sequence.is_unscored

    def _fail(self, live: Live, error: CospecError) -> None:
        """End this sequence with an error; its neighbours go on."""
        live.sequence.finish_reason, live.sequence.error = "error", error
        if live.text:
            live.text.close()

    def _release(self, live: Live) -> None:
        live.seconds = time.perf_counter() - live.started
        for participant, lane in zip(self.participants, live.sequence.lanes, strict=True):
            participant.runner.close(lane.slot)
            lane.rows = None
        del self._live[live.id]

    def _limit(self, request: Request) -> int:
        """The most tokens that may follow. Raises InvalidPrompt where a context leaves room for none."""
        limit = request.params.max_tokens
        for participant, prompt in zip(self.participants, request.lane_prompts, strict=True):
            if not prompt:
                raise InvalidPrompt(f"the prompt of {participant.name} is empty; give it at least one token")
            # A drafter whose context is full has nothing to propose, and the text goes on.
            is_member = self._indices[participant.name] < self.num_members
            context = participant.runner.context if is_member else None
            if context is None:
                continue
            room = request.room(context, prompt)
            if room < 1:
                raise InvalidPrompt(
                    f"the prompt of {participant.name} has {len(prompt)} tokens; its context holds {context}, "
                    "the answer included: shorten the prompt"
                )
            limit = min(limit, room)
        return limit

    def _check_ids(self, request: Request) -> None:
        params = request.params
        for prompt in (request.prompt, *request.lane_prompts):
            outside = [token for token in prompt if not 0 <= token < self.vocab_size]
            if outside:
                raise InvalidPrompt(f"token id {outside[0]} is outside the vocabulary of {self.vocab_size} entries")
        for what, ids in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
            outside = [token for token in ids if not 0 <= token < self.vocab_size]
            if outside:
                raise InvalidSampling(
                    f"{what} names token id {outside[0]}; the vocabulary has {self.vocab_size} entries"
                )
        if params.stop and request.decode is None:
            raise InvalidSampling("stop strings need a tokenizer, and these members have none; use stop_token_ids")
        members = request.lane_prompts[: self.num_members]
        if params.prompt_logprobs is not None and any(prompt != request.prompt for prompt in members):
            raise InvalidSampling("prompt_logprobs need one prompt for all members, and here they have different ones")


def _with_rows(sequence: Sequence, lane: Lane, tokens: list[int]) -> Feed:
    """These tokens, with the rows of them that are wanted."""
    return Feed(lane.slot, tokens, sequence.num_rows_wanted(lane, len(tokens)))
