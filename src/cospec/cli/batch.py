"""`cospec batch`: answer a file of requests, and go on where a run was cut off."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..errors import CospecError, InvalidEnsemble, InvalidPrompt, MissingExtra
from .options import EnsembleOptions, ServiceOptions
from .output import print_error, print_json, print_note, progress
from .resume import LineFile, finished
from .spread import option, spread

try:
    from ..server.batch import Line, read_lines
    from ..server.offline import Answer, EndpointCall, Offline
except ModuleNotFoundError:
    raise MissingExtra("batches need the server's libraries: pip install 'cospec[serve]'") from None

EXAMPLE = """cospec batch in.jsonl out.jsonl --ensemble demo:we --defaults '{"max_tokens": 64, "seed": 1}'"""


@dataclass(frozen=True, kw_only=True)
class BatchOptions(ServiceOptions):
    """How the requests are answered, and where."""

    defaults: str = option(
        "{}", metavar="JSON", help="Fields for the requests that do not give them, as one JSON object."
    )
    as_json: bool = option(False, "--json", help="Print the closing counts as a JSON object.")
    threads: int | None = option(None, metavar="N", help="CPU threads.", show_default="as torch has them", min=1)
    use_ray: bool = option(
        False, "--ray", help="Spread the requests over the workers of a Ray cluster, or of this machine."
    )
    workers: int = option(2, help="With --ray: how many workers.", min=1)
    worker_cpus: float = option(1, help="With --ray: CPU cores for each worker.", min=0)
    worker_gpus: float = option(0, help="With --ray: GPUs for each worker.", min=0)

    def fields(self) -> dict[str, Any]:
        """The defaults. Raises InvalidPrompt unless they are an object."""
        try:
            value = json.loads(self.defaults)
        except ValueError as error:
            raise InvalidPrompt(f"--defaults is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidPrompt(f'--defaults must be an object such as {{"seed": 1}}, got {self.defaults}')
        return value


@dataclass
class Tally:
    """Requests by their outcome, and the tokens of the answers."""

    skipped: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    tokens: int = 0


@spread
def batch(
    requests: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="A request a line.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Gets an answer a line.", show_default=False)],
    *,
    options: BatchOptions,
    models: EnsembleOptions,
) -> None:
    """Answer a file of requests, and go on where it was cut off.

    A line is what OpenAI's batches take, {"custom_id": "a", "url": "/v1/completions", "body": {...}}, or a body itself,
    such as {"prompt": "Once"} or {"messages": [...]}, perhaps with an "id". Its answer has the number of the line.

    A line that is wrong gets an answer that says so, and the others go on. Exit code 2 then.

    Called again, it answers what has no answer yet, with or without --ray.
    """
    try:
        content = requests.read_bytes()
    except OSError as error:
        raise InvalidPrompt(f"no requests can be read from {str(requests)!r}: {error.strerror or error}") from None
    lines = read_lines(content, str(requests), options.fields(), models.target)
    done = _finished(out, lines, requests)
    tally, started = Tally(skipped=len(done)), time.perf_counter()
    with closing(LineFile(out, "OUT.jsonl")) as file:
        is_whole = _run([line for line in lines if line.number not in done], file, tally, options, models)
    seconds = time.perf_counter() - started
    if options.as_json:
        print_json({**vars(tally), "seconds": seconds})
    else:
        speed = f"{tally.tokens} tokens in {seconds:.2f} s: {tally.tokens / max(seconds, 1e-9):.1f} tokens/s"
        print_note(f"{tally.answered} answered, {tally.refused} refused, {tally.failed} failed; {speed}")
    if not is_whole or tally.refused or tally.failed:
        raise typer.Exit(2 if is_whole else 130)


def _finished(out: Path, lines: Sequence[Line], requests: Path) -> set[int]:
    """Numbers of the lines that have their answer. Raises CospecError for an answer to none of them."""
    digests = {line.number: line.digest for line in lines}

    def identify(value: Mapping[str, Any]) -> int | None:
        number = value.get("line")
        is_known = isinstance(number, int) and number in digests and digests[number] == value.get("digest")
        return number if is_known else None

    hint = f"no answer to a line of {requests} with these --defaults and models; give another file, or remove it"
    done = finished(out, identify, hint)
    if done:
        print_note(f"{out} has {len(done)} of {len(lines)} answers; going on with the others")
    return done


def _run(todo: Sequence[Line], file: LineFile, tally: Tally, options: BatchOptions, models: EnsembleOptions) -> bool:
    """Write an answer a line, as they come. False after Ctrl-C, which keeps what is written."""
    calls = [line.call for line in todo if line.call is not None]
    by_number = {line.number: line for line in todo}
    try:
        with progress(len(todo)) as advance:
            for line in todo:
                if line.call is None:
                    file.append(line.refusal())
                    tally.refused += 1
                    advance()
            for answer in _answers(calls, options, models) if calls else ():
                _take(by_number[answer.number], answer, file, tally)
                advance()
    except KeyboardInterrupt:
        return False
    return True


def _answers(calls: Sequence[EndpointCall], options: BatchOptions, models: EnsembleOptions) -> Iterator[Answer]:
    """As they come, from this process or from Ray's workers."""
    settings = options.settings(models)
    if options.threads and options.use_ray:
        raise InvalidEnsemble("--threads is for one process; with --ray give each worker --worker-cpus")
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.use_ray:
        with Offline(models.build(), settings) as offline:
            # One more than fit, so that a place that becomes free is filled in the next round.
            yield from offline.answers(calls, most=options.max_sequences + 1)
        return
    try:
        from ..batch_ray import answers
    except ModuleNotFoundError:
        raise MissingExtra("--ray needs Ray: pip install 'cospec[ray]'") from None
    resources = {"cpus": options.worker_cpus, "gpus": options.worker_gpus}
    # What Ray reports of its workers would come between our lines.
    with redirect_stdout(sys.stderr):
        yield from answers(calls, models.build, settings, num_workers=options.workers, **resources)


def _take(line: Line, answer: Answer, file: LineFile, tally: Tally) -> None:
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
