"""A sequence in the engine: its sheet, the text that it has so far, and what happens around them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..errors import CospecError
from ..runner.protocol import Tokenizer
from .combine import Combination
from .draws import Draws
from .events import Event, Result
from .faults import Arguments, guarded
from .params import SamplingParams
from .policy import Policy
from .sheet import Lane, Sheet
from .text import TextStream
from .tokens import Token, TokenLogprob


@dataclass(frozen=True, kw_only=True)
class Request:
    """A sequence to decode.

    prompt: the user's, in token ids. lane_prompts: what each participant is given, members then drafters. combination,
    params: the target r. schedule, verification: how it is reached. schedule_name, plan: what a result calls the
    schedule that was asked for and the plan that runs; None for the schedule's own name. tokenizer: None where there is
    none (then there are no stop strings either). prompt_index, index: which prompt, and which of its samples.
    """

    prompt: tuple[int, ...]
    lane_prompts: Sequence[tuple[int, ...]]
    params: SamplingParams
    combination: Combination
    schedule: Policy
    verification: str
    draws: Draws
    schedule_name: str | None = None
    plan: str | None = None
    tokenizer: Tokenizer | None = None
    prompt_index: int = 0
    index: int = 0


@dataclass(eq=False)
class Live:
    """A sequence in the engine.

    prompt_pending: lanes that are to be fed the rest of a prompt before anything else happens to it. failed_idle: names
    of idle lanes whose forward pass raised, which are fed again in their turn alone. has_begun: whether the schedule
    knows of it.
    """

    id: int
    request: Request
    sheet: Sheet
    text: TextStream | None
    prompt_pending: list[Lane] = field(default_factory=list)
    failed_idle: set[str] = field(default_factory=set)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    has_begun: bool = False
    started: float = field(default_factory=time.perf_counter)

    @property
    def awaits_scores(self) -> bool:
        """Whether log-probabilities are still to be reported."""
        return self.sheet.error is None and self.sheet.is_unscored

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done for it."""
        return self.sheet.is_finished and not self.awaits_scores

    def append_text(self, settled: Sequence[Token]) -> list[Token]:
        """The settled tokens with their text, up to where the sequence ends; what was settled behind that goes."""
        first = self.sheet.position - len(settled)
        tokens: list[Token] = []
        for length, token in enumerate(settled, start=first + 1):
            before = len(self.text.text) if self.text else 0
            reason = guarded("the tokenizer", self._end, token.token, length)
            if isinstance(reason, CospecError):
                self.fail(reason)
                self.sheet.cut(length - 1)
                break
            tokens.append(replace(token, text=self.text.text[before:]) if self.text else token)
            if reason is not None:
                self.sheet.finish(reason)
                self.sheet.cut(length)
                break
        return tokens

    def schedule_label(self) -> str:
        """What an error calls the sequence's schedule."""
        return f"the schedule {self.sheet.schedule.label(self.sheet)!r}"

    def fail(self, error: CospecError) -> None:
        """End this sequence with an error, the first one that it meets; its neighbours go on."""
        self.sheet.finish("error", error)
        self.close_text()

    def close_text(self) -> None:
        """Release the text that was held back."""
        if self.text:
            error = guarded("the tokenizer", self.text.close)
            if error is not None:
                self.sheet.finish("error", error)

    def report(
        self, event: Callable[Arguments, None], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> CospecError | None:
        """Report an event to the schedule. What that raises ends the sequence, and is returned."""
        error = guarded(self.schedule_label, event, *args, **kwargs)
        if error is not None:
            self.fail(error)
        return error

    def make_event(self, tokens: Sequence[Token], logprobs: Sequence[TokenLogprob], *, is_over: bool) -> Event:
        """What a round did to it, with the result if it is over."""
        self.logprobs.extend(logprobs)
        request = self.request
        return Event(
            id=self.id,
            prompt_index=request.prompt_index,
            index=request.index,
            tokens=tokens,
            logprobs=logprobs,
            result=self._result() if is_over else None,
            sheet=self.sheet,
        )

    def _end(self, token: int, length: int) -> str | None:
        """Why the sequence ends with this token, the `length`-th, if it does."""
        may_stop = length >= self.sheet.params.min_tokens
        if token in self.sheet.end_ids or (self.text and self.text.push(token, may_stop=may_stop)):
            reason = "stop"
        elif length >= self.sheet.limit:
            reason = "length"
        else:
            return None
        if self.text:
            self.text.close()
        return reason

    def _result(self) -> Result:
        sheet, params = self.sheet, self.sheet.params
        of_output = [entry for entry in self.logprobs if 0 <= entry.position < len(sheet.output)]
        of_prompt = [entry for entry in self.logprobs if entry.position < 0]
        return Result(
            text=self.text.text if self.text else "",
            token_ids=list(sheet.output),
            finish_reason=sheet.finish_reason or "abort",
            error=str(sheet.error) if sheet.error else None,
            logprobs=of_output if params.logprobs is not None else None,
            prompt_logprobs=[None, *of_prompt] if params.prompt_logprobs is not None else None,
            prompt_tokens=len(sheet.prompt),
            completion_tokens=len(sheet.output),
            schedule=self.request.schedule_name or sheet.schedule.name,
            plan=_chosen(sheet) or self.request.plan or sheet.schedule.name,
            verification=sheet.verification,
            seed=self.request.draws.seed,
            seconds=time.perf_counter() - self.started,
            members={sheet.lanes[i].name: sheet.lanes[i].counts for i in sheet.members},
            drafters={sheet.lanes[i].name: sheet.lanes[i].counts for i in sheet.drafters},
            proposers={sheet.lanes[i].name: counts for i, counts in sorted(sheet.proposers.items())},
            verified=sheet.verified,
            prompt_index=self.request.prompt_index,
            index=self.request.index,
        )


def _chosen(sheet: Sheet) -> str | None:
    """The plan that the schedule chose for it, if it chooses; none where it raises, since the sequence is decoded."""
    chosen = guarded("plan_of", lambda: sheet.schedule.plan_of(sheet))
    return None if isinstance(chosen, CospecError) else chosen
