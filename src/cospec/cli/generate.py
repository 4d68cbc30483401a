"""`cospec generate`: decode a prompt, or a file of them, and say what it took."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..core.events import Event, Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidPrompt
from .interrupt import Interrupt
from .messages import print_error, print_note
from .options import EnsembleOptions, SamplingOptions
from .progress import progress
from .prompts import STDIN, PromptEntry, read_prompts
from .resume import ResultFile, finished_prompts
from .screen import Screen
from .sinks import JsonLines, OneText, Sink, TextByText
from .spread import spread
from .statistics import statistics

EXAMPLE = "cospec generate 'Question: what is 2 + 3?' --ensemble demo:we --schedule alternate --seed 1 --max-tokens 60"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where prompts come from and results go."""

    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help='Many prompts: a line each, a JSON string or an object with "prompt" and perhaps "id".',
            show_default=False,
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="With --prompts: append results to this file. The same command goes on where it was stopped.",
            show_default=False,
        ),
    ] = None
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a prompt and nothing else on standard output.")
    ] = False
    plain_text: Annotated[bool, typer.Option("--plain-text", help="No colours and no legend.")] = False

    def check(self) -> None:
        if self.out is not None and self.prompts is None:
            raise InvalidPrompt("--out takes the results of --prompts FILE; for one prompt redirect standard output")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be decoded: all prompts, the indices of those to do now, and how."""

    entries: Sequence[PromptEntry]
    todo: Sequence[int]
    params: SamplingParams

    @property
    def prompts(self) -> list[str]:
        return [self.entries[index].text for index in self.todo]

    @property
    def num_texts(self) -> int:
        return len(self.todo) * self.params.n


@spread
def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(help=f"What to go on from; {STDIN} reads it from standard input.", show_default=False),
    ] = None,
    *,
    output: OutputOptions,
    models: EnsembleOptions,
    sampling: SamplingOptions,
) -> None:
    """Decode text from several models at once.

    Every token is a sample of the members' combined distribution r, whatever the schedule.

    On a terminal a token has the colour of its proposer, and is underlined where it replaces a rejected draft.
    """
    output.check()
    params = sampling.build()
    entries = read_prompts(prompt, output.prompts)
    job = Job(entries=entries, todo=_todo(output.out, len(entries)), params=params)
    if job.todo:
        ensemble = models.build()
        _check_prompts(ensemble, job)
        _run(ensemble, job, output)


def _todo(out: Path | None, num_prompts: int) -> list[int]:
    """The prompts that the file of results does not have yet."""
    finished = finished_prompts(out, num_prompts) if out is not None else set()
    if finished:
        print_note(f"{out} has {len(finished)} of {num_prompts} prompts; going on with the others")
    return [index for index in range(num_prompts) if index not in finished]


def _check_prompts(ensemble: Ensemble, job: Job) -> None:
    """Raises InvalidPrompt, saying which one, before any is decoded."""
    checker = ensemble.engine()
    for index in job.todo:
        entry = job.entries[index]
        try:
            checker.check(ensemble.request(entry.text, job.params))
        except InvalidPrompt as error:
            raise InvalidPrompt(f"{entry.where}: {error}") from None


def _run(ensemble: Ensemble, job: Job, output: OutputOptions) -> None:
    screen = Screen(is_plain=output.plain_text or output.as_json)
    sink = _sink(ensemble, job, output, screen)
    started = time.perf_counter()
    with (
        closing(sink),
        Interrupt() as interrupt,
        progress(job.num_texts, screen.console, is_wanted=output.prompts is not None) as advance,
    ):
        events = ensemble.stream(job.prompts, job.params, should_stop=interrupt.is_noted)
        results = _pump(events, sink, advance)
    if not output.as_json:
        print_note(statistics(results, time.perf_counter() - started))
    _exit(results, is_interrupted=interrupt.is_noted())


def _sink(ensemble: Ensemble, job: Job, output: OutputOptions, screen: Screen) -> Sink:
    if output.out is not None:
        return ResultFile(output.out, job.entries, job.todo, job.params.n)
    if output.as_json:
        return JsonLines(job.entries, job.params.n)
    if output.prompts is None and job.params.n == 1:
        return OneText(screen, ensemble.names)
    return TextByText(screen, ensemble.names, len(job.entries), job.params.n)


def _pump(events: Iterator[Event], sink: Sink, advance: Callable[[], None]) -> list[Result]:
    """Hand every event to the sink; the results, as they were finished."""
    results = []
    for event in events:
        sink.take(event)
        if event.result is not None:
            results.append(event.result)
            advance()
    return results


def _exit(results: Sequence[Result], *, is_interrupted: bool) -> None:
    """Print what failed. The exit code: 130 after Ctrl-C, 2 where a text ended with an error, else 0."""
    failed = [result for result in results if result.error is not None]
    for result in failed:
        print_error(result.error or "")
    if is_interrupted:
        raise typer.Exit(130)
    if failed:
        raise typer.Exit(2)
