"""Batches on a Ray cluster: Ray Data hands the calls to workers, each with an application of its own."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, from_items
from ray.exceptions import RayError

from .ensemble import Ensemble
from .errors import CospecError
from .server.offline import Answer, Call, Offline
from .server.settings import ServerSettings

# At most so many calls go to a worker together, and their answers come back together: few, so that a run which is cut
# off has written most of what it did.
MOST_A_BLOCK = 8


class Worker:
    """One of the pool: the ensemble, loaded once, and the application over it.

    An ensemble that cannot be had is told in the answers: Ray would take an exception for a worker's bad luck.
    """

    def __init__(self, load: Callable[[], Ensemble], settings: ServerSettings) -> None:
        self._offline: Offline | str
        try:
            self._offline = Offline(load(), settings).__enter__()
        except CospecError as error:
            self._offline = str(error)

    def __call__(self, block: dict[str, Any]) -> dict[str, list[Any]]:
        """Columns number, url and body -> number, status and body, in the same order."""
        columns = zip(block["number"], block["url"], block["body"], strict=True)
        answers = self._answers(
            [Call(number=int(number), url=url, body=json.loads(body)) for number, url, body in columns]
        )
        return {
            "number": [answer.number for answer in answers],
            "status": [answer.status for answer in answers],
            "body": [json.dumps(answer.body) for answer in answers],
        }

    def _answers(self, calls: Sequence[Call]) -> list[Answer]:
        if isinstance(self._offline, str):
            error = {"error": {"message": self._offline}}
            return [Answer(number=call.number, status=503, body=error) for call in calls]
        return [future.result() for future in [self._offline.submit(call) for call in calls]]


def answers(
    calls: Sequence[Call],
    load: Callable[[], Ensemble],
    settings: ServerSettings,
    *,
    num_workers: int,
    cpus: float,
    gpus: float,
) -> Iterator[Answer]:
    """As they come, from so many workers with these resources each.

    load: makes the ensemble, in each worker. Uses the cluster that RAY_ADDRESS or `ray start` names, or starts one on
    this machine until the last answer. Raises CospecError if the cluster has too little or a worker fails for good.
    """
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
    try:
        _check_room(num_workers, {"CPU": cpus, "GPU": gpus})
        yield from _streamed(calls, load, settings, num_workers, {"num_cpus": cpus, "num_gpus": gpus})
    except RayError as error:
        # The last line of it is the exception, the others where it was raised.
        *_, reason = str(error).strip().splitlines()
        raise CospecError(f"Ray gave up: {reason}; the same command goes on where it was stopped") from error
    finally:
        if is_ours:
            ray.shutdown()


def _streamed(
    calls: Sequence[Call],
    load: Callable[[], Ensemble],
    settings: ServerSettings,
    num_workers: int,
    resources: dict[str, float],
) -> Iterator[Answer]:
    _silence()
    rows = [{"number": call.number, "url": call.url, "body": json.dumps(call.body)} for call in calls]
    num_workers = min(num_workers, len(rows))
    a_block = min(MOST_A_BLOCK, ceil(len(rows) / num_workers))
    # A worker's engine is kept full while the next blocks are on their way.
    pool = ActorPoolStrategy(
        size=num_workers,
        max_concurrent_calls_per_actor=1 + ceil(settings.max_sequences / a_block),
        enable_true_multi_threading=True,
    )
    answered = from_items(rows, override_num_blocks=ceil(len(rows) / a_block)).map_batches(
        Worker, fn_constructor_args=(load, settings), batch_size=None, compute=pool, **resources
    )
    seen: set[int] = set()
    for row in answered.iter_rows():
        # A worker that died is replaced, and its blocks are answered again.
        if row["number"] not in seen:
            seen.add(row["number"])
            yield Answer(number=row["number"], status=row["status"], body=json.loads(row["body"]))


def _silence() -> None:
    """Ray Data's own progress and log, between our lines."""
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _check_room(num_workers: int, each: dict[str, float]) -> None:
    """Raises CospecError for workers that would wait for ever."""
    there = ray.cluster_resources()
    for name, amount in each.items():
        wanted, given = num_workers * amount, there.get(name, 0)
        if wanted > given:
            raise CospecError(
                f"{num_workers} workers need {wanted:g} {name} and the cluster has {given:g}; "
                f"ask for fewer --workers or a smaller --worker-{name.lower()}s"
            )
