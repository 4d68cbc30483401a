"""`cospec batch`: answer a file of requests, and go on where a run was cut off."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import CospecError, InvalidPrompt, MissingExtra
from .jsonline import to_line
from .messages import print_error, print_note
from .options import EnsembleOptions
from .progress import progress
from .resume import LineFile, finished
from .spread import spread

try:
    from ..server.batch import Line, read_lines
    from ..server.offline import Answer, Call, Offline
    from ..server.settings import ServerSettings
except ImportError:
    raise MissingExtra("batches need the server's libraries: pip install 'cospec[serve]'") from None

EXAMPLE = """cospec batch in.jsonl out.jsonl --ensemble demo:we --defaults '{"max_tokens": 64, "seed": 1}'"""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How the requests are answered, and where."""

    defaults: Annotated[
        str,
        typer.Option(metavar="JSON", help="Fields for the requests that do not give them, as one JSON object."),
    ] = "{}"
    model_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What requests call the model.", show_default="the ensemble's name"),
    ] = None
    max_sequences: Annotated[int, typer.Option(help="Texts decoded at a time, by each worker.", min=1)] = 32
    context: Annotated[
        int | None,
        typer.Option(help="The most tokens of prompt and answer together.", show_default="the members' own", min=2),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print the closing counts as a JSON object.")] = False
    use_ray: Annotated[
        bool, typer.Option("--ray", help="Spread the requests over the workers of a Ray cluster, or of this machine.")
    ] = False
    workers: Annotated[int, typer.Option(help="With --ray: how many workers.", min=1)] = 2
    worker_cpus: Annotated[float, typer.Option(help="With --ray: CPU cores for each worker.", min=0)] = 1
    worker_gpus: Annotated[float, typer.Option(help="With --ray: GPUs for each worker.", min=0)] = 0

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
    """Requests by what became of them, and the tokens of the answers."""

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
    such as {"prompt": "Once"} or {"messages": [...]}, perhaps with an "id". Its answer tells the number of the line.

    A line that is wrong gets an answer that says so, and the others go on. Exit code 2 then.

    Called again, it answers what has no answer yet, with or without --ray.
    """
    lines = read_lines(_content(requests), str(requests), options.fields(), models.target)
    hint = f"no answer to a line of {requests} with these --defaults and models; give another file, or remove it"
    done = finished(out, _identifier(lines), hint)
    tally, started = Tally(skipped=len(done)), time.perf_counter()
    if done:
        print_note(f"{out} has {len(done)} of {len(lines)} answers; going on with the others")
    todo = {line.number: line for line in lines if line.number not in done}
    with closing(LineFile(out, "OUT.jsonl")) as file:
        is_whole = _run(todo, file, tally, options, models)
    _conclude(tally, time.perf_counter() - started, as_json=options.as_json)
    if not is_whole or tally.refused or tally.failed:
        raise typer.Exit(2 if is_whole else 130)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidPrompt(f"no requests can be read from {str(path)!r}: {error.strerror or error}") from None


def _identifier(lines: Sequence[Line]) -> Callable[[Mapping[str, Any]], int | None]:
    """The number of the line that an answer is to, None for an answer to none of them."""
    digests = {line.number: line.digest for line in lines}

    def identify(value: Mapping[str, Any]) -> int | None:
        number = value.get("line")
        digest = digests.get(number) if isinstance(number, int) else None
        return number if digest is not None and value.get("digest") == digest else None

    return identify


def _run(
    todo: Mapping[int, Line], file: LineFile, tally: Tally, options: BatchOptions, models: EnsembleOptions
) -> bool:
    """Write an answer a line, as they come. False after Ctrl-C, which keeps what is written."""
    calls = [line.call for line in todo.values() if line.call is not None]
    try:
        with progress(len(todo), Console(), is_wanted=True) as advance:
            for line in todo.values():
                if line.call is None:
                    file.append(line.refusal())
                    tally.refused += 1
                    advance()
            for answer in _answers(calls, options, models) if calls else ():
                _take(todo[answer.number], answer, file, tally)
                advance()
    except KeyboardInterrupt:
        return False
    return True


def _answers(calls: Sequence[Call], options: BatchOptions, models: EnsembleOptions) -> Iterator[Answer]:
    """As they come, from this process or from Ray's workers."""
    settings = ServerSettings(
        model=options.model_name or models.name, max_sequences=options.max_sequences, context=options.context
    )
    if not options.use_ray:
        with Offline(models.build(), settings) as offline:
            # One more than fit, so that a place that becomes free is filled in the next round.
            yield from offline.answers(calls, most=options.max_sequences + 1)
        return
    try:
        from ..batch_ray import answers
    except ImportError:
        raise MissingExtra("--ray needs Ray: pip install 'cospec[ray]'") from None
    resources = {"cpus": options.worker_cpus, "gpus": options.worker_gpus}
    # What Ray says of its workers would come between our lines.
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


def _conclude(tally: Tally, seconds: float, *, as_json: bool) -> None:
    if as_json:
        typer.echo(to_line({**vars(tally), "seconds": seconds}), nl=False)
        return
    speed = f"{tally.tokens} tokens in {seconds:.2f} s: {tally.tokens / max(seconds, 1e-9):.1f} tokens/s"
    print_note(f"{tally.answered} answered, {tally.refused} refused, {tally.failed} failed; {speed}")
