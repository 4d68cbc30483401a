"""What `cospec batch` does; apart from its options, so that its help needs none of the server's libraries."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
import typer

from ..errors import CospecError, InvalidPrompt, MissingExtra
from ..resume import KeptRows, RowFile, Wanted, read_rows
from ..server.batch import Line, is_refusal, read_lines
from ..server.offline import Answer, EndpointCall, Offline
from .batch import BatchOptions
from .options import EnsembleOptions
from .output import on_interrupt, print_error, print_json, print_note, progress


@dataclass
class Tally:
    """Requests by their outcome, and the tokens of the answers.

    skipped: answered, or refused, by an earlier run. refused: those that an earlier run refused included.
    """

    skipped: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    tokens: int = 0


def run_batch(requests: Path, out: Path, options: BatchOptions, models: EnsembleOptions) -> None:
    """Answer the lines of `requests` that have no answer in `out`."""
    options.check()
    try:
        content = requests.read_bytes()
    except OSError as error:
        raise InvalidPrompt(f"no requests can be read from {str(requests)!r}: {error.strerror or error}") from None
    shared = {"model": options.model_name or models.name, "context": options.context, **models.identity()}
    lines = read_lines(content, str(requests), options.fields(), shared)
    kept = _kept(out, lines, requests)
    tally = Tally(skipped=len(kept.rows), refused=sum(map(is_refusal, kept.rows.values())))
    started = time.perf_counter()

    def progress_so_far() -> str:
        num_kept = tally.skipped + tally.answered + tally.refused - sum(map(is_refusal, kept.rows.values()))
        return f"{out} has {num_kept} of {len(lines)} answers, and the same command goes on with the others"

    with on_interrupt(progress_so_far), RowFile(out, kept) as file:
        _run([line for line in lines if line.number not in kept.rows], file, tally, options, models)
    seconds = time.perf_counter() - started
    if options.as_json:
        print_json({**vars(tally), "seconds": seconds})
    else:
        speed = f"{tally.tokens} tokens in {seconds:.2f} s: {tally.tokens / max(seconds, 1e-9):.1f} tokens/s"
        print_note(f"{tally.answered} answered, {tally.refused} refused, {tally.failed} failed; {speed}")
    if tally.refused or tally.failed:
        raise typer.Exit(2)


def _kept(out: Path, lines: Sequence[Line], requests: Path) -> KeptRows:
    """The answers that the file has. Those that refuse what was corrected since are left out, to be replaced.

    Raises CospecError for an answer to none of these lines, or one of other settings.
    """
    wanted = {line.number: Wanted(place=f"{requests}:{line.number}", settings=line.settings) for line in lines}
    kept = read_rows(out, "line", wanted, f"answer to a line of {requests}", may_redo=is_refusal)
    if kept.rows:
        num_refused = sum(map(is_refusal, kept.rows.values()))
        refusals = f", {num_refused} of them refusals: correct these lines and run the same command" * bool(num_refused)
        rest = "going on with the others" if len(kept.rows) < len(lines) else "nothing else is left to do"
        print_note(f"{out} has {len(kept.rows)} of {len(lines)} answers{refusals}; {rest}")
    return kept


def _run(todo: Sequence[Line], file: RowFile, tally: Tally, options: BatchOptions, models: EnsembleOptions) -> None:
    """Write an answer a line, as they come."""
    calls = [line.call for line in todo if line.call is not None]
    by_number = {line.number: line for line in todo}
    with progress(len(todo)) as advance:
        for line in todo:
            if line.call is None:
                file.append(line.refusal())
                tally.refused += 1
                advance()
        for answer in _answers(calls, options, models) if calls else ():
            _take(by_number[answer.number], answer, file, tally)
            advance()


def _answers(calls: Sequence[EndpointCall], options: BatchOptions, models: EnsembleOptions) -> Iterator[Answer]:
    """As they come, from this process or from Ray's workers."""
    settings = options.settings(models)
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.use_ray:
        with Offline(models.build(), settings) as offline:
            # One more than fit, so that a place that becomes free is filled in the next round.
            yield from offline.answers(calls, most=settings.max_sequences + 1)
        return
    try:
        from ..batch_ray import answers
    except ModuleNotFoundError:
        raise MissingExtra("--ray needs Ray: pip install 'cospec[ray]'") from None
    resources = {"cpus": options.worker_cpus, "gpus": options.worker_gpus}
    # What Ray reports of its workers would come between our lines.
    with redirect_stdout(sys.stderr):
        yield from answers(calls, models.build, settings, num_workers=options.workers, **resources)


def _take(line: Line, answer: Answer, file: RowFile, tally: Tally) -> None:
    """Write the answer. One that failed is left to the next run. Raises CospecError once the engine has died."""
    if answer.status == 503:
        raise CospecError(f"{answer.body['error']['message']}; the same command goes on where it was stopped")
    if answer.status >= 500:
        tally.failed += 1
        print_error(f"line {line.number}: {answer.body['error']['message']}")
        return
    file.append(line.record(answer))
    tally.tokens += answer.body.get("usage", {}).get("completion_tokens", 0)
    if answer.status == 200:
        tally.answered += 1
    else:
        tally.refused += 1
