"""`cospec generate`: decode a prompt, or a file of them, and report what it cost."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.counts import Counts
from ..core.events import Result
from ..core.params import SamplingParams
from ..ensemble import Ensemble
from ..errors import InvalidPrompt
from .options import SAMPLING, Biases, LocalOptions, as_biases
from .output import Interrupt, print_error, print_note, progress
from .prompts import STDIN, PromptEntry, read_prompts
from .resume import finished
from .sinks import JsonLines, OneText, ResultFile, Screen, Sink, TextByText
from .spread import option, spread

EXAMPLE = "cospec generate 'Question: what is 2 + 3?' --ensemble demo:we --schedule alternate --seed 1 --max-tokens 60"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where prompts come from and results go."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help='Many prompts: a line each, a JSON string or an object with "prompt" and perhaps "id".',
        show_default=False,
    )
    out: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help="With --prompts: append results to this file. The same command goes on where it was stopped.",
        show_default=False,
    )
    as_json: bool = option(
        False, "--json", help="Print a JSON object for each prompt and nothing else on standard output."
    )
    plain_text: bool = option(False, "--plain-text", help="No colours and no legend.")

    def remaining(self, entries: Sequence[PromptEntry]) -> dict[int, PromptEntry]:
        """The prompts, by their index, that the file of results does not have yet.

        Raises CospecError for a file that holds anything but results of these prompts.
        """
        if self.out is None:
            return dict(enumerate(entries))

        def index(value: Mapping[str, Any]) -> int | None:
            own = value.get("index")
            return own if isinstance(own, int) and 0 <= own < len(entries) else None

        hint = f"no result of these {len(entries)} prompts; give --out another file, or remove the line"
        done = finished(self.out, index, hint)
        if done:
            print_note(f"{self.out} has {len(done)} of {len(entries)} prompts; going on with the others")
        return {number: entry for number, entry in enumerate(entries) if number not in done}

    def sink(self, screen: Screen, names: Sequence[str], todo: Mapping[int, PromptEntry], n: int) -> Sink:
        """Where the samples go, n for each prompt. names: of the ensemble's members and drafters."""
        if self.out is not None:
            return ResultFile(self.out, todo, n)
        if self.as_json:
            return JsonLines([*todo.values()], n)
        if self.prompts is None and n == 1:
            return OneText(screen, names)
        return TextByText(screen, names, len(todo), n)


@spread
def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(help=f"The prompt; {STDIN} reads it from standard input.", show_default=False),
    ] = None,
    *,
    output: OutputOptions,
    models: LocalOptions,
    params: Annotated[SamplingParams, SAMPLING],
    logit_bias: Biases = None,
) -> None:
    """Decode text from several models at once.

    Every token is a sample of the members' combined distribution r, whatever the schedule.

    On a terminal a token has the colour of its proposer, and is underlined where it replaces a rejected draft.
    """
    if output.out is not None and output.prompts is None:
        raise InvalidPrompt("--out takes the results of --prompts FILE; for one prompt redirect standard output")
    params = replace(params, logit_bias=as_biases(logit_bias or []))
    todo = output.remaining(read_prompts(prompt, output.prompts))
    if not todo:
        return
    results, seconds, is_interrupted = _decode(models.build(), todo, params, output)
    if not output.as_json:
        print_note(statistics(results, seconds))
    errors = [result.error for result in results if result.error is not None]
    for error in errors:
        print_error(error)
    if is_interrupted or errors:
        raise typer.Exit(130 if is_interrupted else 2)


def _decode(
    ensemble: Ensemble, todo: Mapping[int, PromptEntry], params: SamplingParams, output: OutputOptions
) -> tuple[list[Result], float, bool]:
    """The results, as they were finished, the seconds that they took, and whether Ctrl-C ended it before.

    Raises InvalidPrompt, with its line, for a prompt that cannot be decoded, before any is.
    """
    entries, interrupt = [*todo.values()], Interrupt()
    try:
        events = ensemble.stream([entry.text for entry in entries], params, should_stop=interrupt.is_noted)
    except InvalidPrompt as error:
        where = "" if error.prompt_index is None else f"{entries[error.prompt_index].where}: "
        raise InvalidPrompt(f"{where}{error}") from None
    screen = Screen(is_plain=output.plain_text or output.as_json)
    results, started = [], time.perf_counter()
    with (
        closing(output.sink(screen, ensemble.names, todo, params.n)) as sink,
        interrupt,
        progress(len(todo) * params.n, screen.console, is_wanted=output.prompts is not None) as advance,
    ):
        for event in events:
            sink.take(event)
            if event.result is not None:
                results.append(event.result)
                advance()
    return results, time.perf_counter() - started, interrupt.is_noted()


def statistics(results: Sequence[Result], seconds: float) -> str:
    """One line on these results, which took so long together: speed, calls of each model, acceptance, the plan."""
    counts = Counts.total(result.counts for result in results)
    # A forward pass of a batch counts for each sequence in it.
    title = "calls" if len(results) == 1 else f"calls, summed over {len(results)} sequences"
    parts = [
        f"{counts.tokens} tokens in {seconds:.2f} s: {counts.tokens / max(seconds, 1e-9):.1f} tokens/s",
        f"{title}: {', '.join(f'{name} {lane.calls}' for name, lane in counts.lanes.items())}",
    ]
    rates = [
        f"{name} {drafts.accepted}/{drafts.proposed} = {drafts.acceptance:.2f}"
        for name, drafts in counts.proposers.items()
        if drafts.acceptance is not None
    ]
    if rates:
        parts.append(f"accepted/proposed: {', '.join(rates)}")
    if counts.plans:
        parts.append(f"auto's plan: {max(counts.plans, key=counts.plans.__getitem__)}")
    return "; ".join(parts)
