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
from .server.offline import Answer, EndpointCall, Offline
from .server.settings import ServerSettings

# Calls that go to a worker together at most, and whose answers come back together: few, so that an interrupted run has
# written most of its answers.
MOST_A_BLOCK = 8


class Worker:
    """One of the pool: the ensemble, loaded once, and the application over it.

    If the ensemble cannot be loaded, each answer says why: for an exception here Ray would start the worker again.
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
        calls = [EndpointCall(number=int(number), url=url, body=json.loads(body)) for number, url, body in columns]
        if isinstance(self._offline, str):
            error = {"error": {"message": self._offline}}
            answers = [Answer(number=call.number, status=503, body=error) for call in calls]
        else:
            answers = [future.result() for future in [self._offline.submit(call) for call in calls]]
        return {
            "number": [answer.number for answer in answers],
            "status": [answer.status for answer in answers],
            "body": [json.dumps(answer.body) for answer in answers],
        }


def answers(
    calls: Sequence[EndpointCall],
    load: Callable[[], Ensemble],
    settings: ServerSettings,
    *,
    num_workers: int,
    cpus: float,
    gpus: float,
) -> Iterator[Answer]:
    """The answers in the order in which they are finished, from so many workers with these resources each.

    load: loads the ensemble, in each worker. Uses the cluster that RAY_ADDRESS or `ray start` names, or starts one on
    this machine until the last answer. Raises CospecError if the cluster is too small or a worker fails for good.
    """
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
    try:
        _check_room(num_workers, {"CPU": cpus, "GPU": gpus})
        yield from _streamed(calls, load, settings, num_workers, {"num_cpus": cpus, "num_gpus": gpus})
    except RayError as error:
        # The message is a traceback, whose last line is the exception.
        *_, reason = str(error).strip().splitlines()
        raise CospecError(f"Ray gave up: {reason}; the same command goes on where it was stopped") from error
    finally:
        if is_ours:
            ray.shutdown()


def _streamed(
    calls: Sequence[EndpointCall],
    load: Callable[[], Ensemble],
    settings: ServerSettings,
    num_workers: int,
    resources: dict[str, float],
) -> Iterator[Answer]:
    # Without Ray Data's progress bars and log, which would come between our lines.
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"number": call.number, "url": call.url, "body": json.dumps(call.body)} for call in calls]
    num_workers = min(num_workers, len(rows))
    a_block = min(MOST_A_BLOCK, ceil(len(rows) / num_workers))
    # One block more at a time than fills a worker's engine, so that it stays full while the next one is sent.
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
        # A worker that died is replaced, and its blocks are answered a second time.
        if row["number"] not in seen:
            seen.add(row["number"])
            yield Answer(number=row["number"], status=row["status"], body=json.loads(row["body"]))


def _check_room(num_workers: int, each: dict[str, float]) -> None:
    """Raises CospecError for more workers than the cluster has resources for: Ray would wait for ever."""
    available = ray.cluster_resources()
    for name, amount in each.items():
        needed, total = num_workers * amount, available.get(name, 0)
        if needed > total:
            raise CospecError(
                f"{num_workers} workers need {needed:g} {name} and the cluster has {total:g}; "
                f"ask for fewer --workers or a smaller --worker-{name.lower()}s"
            )
