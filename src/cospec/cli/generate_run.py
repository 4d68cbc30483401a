"""What `cospec generate` does; apart from its options, so that its help comes at once."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import typer

from ..core.counts import Counts
from ..core.events import Result
from ..core.params import SamplingParams
from ..core.spelling import TokenSpeller
from ..ensemble import Ensemble
from ..errors import InvalidPrompt
from ..prompts import as_json
from ..resume import KeptRows, Settings, Wanted, digest, plain, read_rows
from .chat_options import ChatOptions
from .chats import note_ended_at_once, note_plain_form
from .cores import built_on_free_cores
from .cost import acceptance, speed
from .generate import OutputOptions
from .options import EnsembleOptions, LocalOptions
from .output import Interrupt, interrupted, on_interrupt, print_error, print_note, progress
from .prompts import PromptEntry, read_prompts
from .records import Records
from .sinks import JsonLines, OneText, ResultFile, Screen, Sink, TextByText


def _sampling(params: SamplingParams) -> dict[str, Any]:
    values = {entry.name: getattr(params, entry.name) for entry in fields(params) if entry.name != "constraint"}
    return dict(plain(values))


# Rows leave out sampling parameters of these values.
_DEFAULTS = _sampling(SamplingParams())


@dataclass(frozen=True, kw_only=True)
class KeptResults:
    """The file of --out. wanted: what each of its rows depends on, by the prompt's index. kept: rows that it has."""

    path: Path
    wanted: Mapping[int, Wanted]
    kept: KeptRows

    @classmethod
    def read(cls, path: Path, entries: Sequence[PromptEntry], settings: Settings) -> "KeptResults":
        """settings: what all rows depend on, beside their prompts. Raises CospecError for rows of anything else."""
        wanted = {index: _wanted(entry, settings) for index, entry in enumerate(entries)}
        what = f"result of these {len(entries)} prompts"
        kept = read_rows(path, "index", wanted, what, defaults=_DEFAULTS)
        if kept.rows:
            rest = "going on with the others" if len(kept.rows) < len(entries) else "nothing is left to do"
            print_note(f"{path} has {len(kept.rows)} of {len(entries)} prompts; {rest}")
        return cls(path=path, wanted=wanted, kept=kept)

    @property
    def settings(self) -> dict[int, Settings]:
        """What is written beside each row."""
        return {
            index: {key: value for key, value in row.settings.items() if _DEFAULTS.get(key, ...) != value}
            for index, row in self.wanted.items()
        }

    def progress(self, num_new: int) -> str:
        """One sentence for whoever interrupted the run after so many new rows."""
        num_kept = len(self.kept.rows) + num_new
        return f"{self.path} has {num_kept} of {len(self.wanted)} prompts, and the same command goes on with the others"


def _wanted(entry: PromptEntry, settings: Settings) -> Wanted:
    own = {"prompt": digest(as_json(entry.prompt)), **entry.extra}
    return Wanted(place=entry.where, settings={**own, **settings})


def _results(
    output: OutputOptions, entries: Sequence[PromptEntry], params: SamplingParams, models: EnsembleOptions
) -> KeptResults | None:
    """The file of --out, held against what is asked now. Raises CospecError for results of anything else."""
    if output.out is None:
        return None
    if output.prompts is None:
        raise InvalidPrompt("--out takes the results of --prompts FILE; for one prompt redirect standard output")
    return KeptResults.read(output.out, entries, {**_sampling(params), **models.identity()})


def _sink(
    output: OutputOptions,
    screen: Screen,
    records: Records,
    todo: Mapping[int, PromptEntry],
    results: KeptResults | None,
    n: int,
) -> Sink:
    """Where the samples go, n for each prompt."""
    if results is not None:
        return ResultFile(results.path, results.kept, records, todo, results.settings, n)
    if output.as_json:
        return JsonLines(records, [*todo.values()], n)
    if output.prompts is None and n == 1:
        return OneText(screen)
    return TextByText(screen, len(todo), n)


def run_generate(
    prompt: str | None,
    token_ids: str | None,
    chats: ChatOptions,
    output: OutputOptions,
    models: LocalOptions,
    params: SamplingParams,
) -> None:
    """Decode what is not in the file of --out yet."""
    entries = read_prompts(prompt, output.prompts, token_ids, chats=chats)
    file = _results(output, entries, params, models)
    todo = {index: entry for index, entry in enumerate(entries) if file is None or index not in file.kept.rows}
    if not todo:
        return
    with on_interrupt(lambda: _kept_sentence(file, [], params.n)):
        ensemble = built_on_free_cores(models)
    prompts = [entry.prompt for entry in todo.values()]
    note_plain_form(ensemble, prompts)
    records = Records(speller=TokenSpeller(ensemble.tokenizer), max_tokens=params.max_tokens)
    screen = Screen(ensemble.names, records, is_plain=output.plain_text or output.as_json)

    def make_sink() -> Sink:
        return _sink(output, screen, records, todo, file, params.n)

    is_shown = output.prompts is not None
    results, seconds, is_interrupted = _decode(ensemble, todo, params, make_sink, screen, is_shown=is_shown)
    if not output.as_json:
        print_note(statistics(results, seconds))
    _print_notes(results, records)
    note_ended_at_once(ensemble, results, prompts)
    if is_interrupted:
        raise interrupted(_kept_sentence(file, results, params.n))
    if any(result.error is not None for result in results):
        raise typer.Exit(2)


def _kept_sentence(file: KeptResults | None, results: Sequence[Result], n: int) -> str:
    if file is None:
        return "nothing is kept but what was printed, and the same command begins anew"
    whole = Counter(result.prompt_index for result in results if result.finish_reason in ("stop", "length"))
    return file.progress(sum(count == n for count in whole.values()))


def _decode(
    ensemble: Ensemble,
    todo: Mapping[int, PromptEntry],
    params: SamplingParams,
    make_sink: Callable[[], Sink],
    screen: Screen,
    *,
    is_shown: bool,
) -> tuple[list[Result], float, bool]:
    """The results, as they were finished, the seconds that they took, and whether Ctrl-C ended it before.

    is_shown: whether there is a progress bar. Raises InvalidPrompt, with its line, for a prompt that cannot be decoded,
    before any is.
    """
    entries, interrupt = [*todo.values()], Interrupt()
    try:
        events = ensemble.stream([entry.prompt for entry in entries], params, should_stop=interrupt.is_noted)
    except InvalidPrompt as error:
        where = "" if error.prompt_index is None else f"{entries[error.prompt_index].where}: "
        raise InvalidPrompt(f"{where}{error}") from None
    results, started = [], time.perf_counter()
    with (
        closing(make_sink()) as sink,
        interrupt,
        progress(len(todo) * params.n, screen.console, is_wanted=is_shown) as advance,
    ):
        for event in events:
            sink.take(event)
            if event.result is not None:
                results.append(event.result)
                advance()
    return results, time.perf_counter() - started, interrupt.is_noted()


def _print_notes(results: Sequence[Result], records: Records) -> None:
    """What went wrong, and what was cut short."""
    num_cut = sum(map(records.is_cut, results))
    if num_cut:
        which = "the answer was" if len(results) == 1 else f"{num_cut} of {len(results)} answers were"
        print_note(
            f"{which} cut by the members' context, before --max-tokens {records.max_tokens}; shorten the prompt, or "
            "choose models with a longer context"
        )
    for result in results:
        if result.error is not None:
            print_error(result.error)


def statistics(results: Sequence[Result], seconds: float) -> str:
    """One line on these results, which took so long together: speed, calls of each model, acceptance, the plan."""
    counts = Counts.total(result.counts for result in results)
    # A forward pass of a batch counts for each sequence in it.
    title = "calls" if len(results) == 1 else f"calls, summed over {len(results)} sequences"
    calls = f"{title}: {', '.join(f'{name} {lane.calls}' for name, lane in counts.lanes.items())}"
    parts = [speed(counts, seconds), calls, acceptance(counts)]
    if counts.plans:
        parts.append(f"auto's plan: {max(counts.plans, key=counts.plans.__getitem__)}")
    return "; ".join(filter(None, parts))
