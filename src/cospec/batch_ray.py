"""Batches on a Ray cluster: Ray Data hands the calls to workers, each with an application of its own."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, from_items
from ray.exceptions import RayError

from .ensemble import Ensemble
from .errors import CospecError
from .server.offline import Answer, Call, Offline
from .server.settings import ServerSettings

# So many calls go to a worker together, and their answers come back together: few, so that a run which is cut off has
# written most of what it did.
CALLS_A_BLOCK = 8


class Worker:
    """One of the pool: the ensemble, loaded once, and the application over it."""

    def __init__(self, load: Callable[[], Ensemble], settings: ServerSettings) -> None:
        self._offline = Offline(load(), settings).__enter__()

    def __call__(self, block: dict[str, Any]) -> dict[str, list[Any]]:
        """Columns number, url and body -> number, status and body, in the same order."""
        columns = zip(block["number"], block["url"], block["body"], strict=True)
        calls = [Call(number=int(number), url=url, body=json.loads(body)) for number, url, body in columns]
        answers = [future.result() for future in [self._offline.submit(call) for call in calls]]
        return {
            "number": [answer.number for answer in answers],
            "status": [answer.status for answer in answers],
            "body": [json.dumps(answer.body) for answer in answers],
        }


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
        raise CospecError(f"Ray gave up: {error}; the same command goes on where it was stopped") from error
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
    context = DataContext.get_current()
    context.enable_progress_bars, context.print_on_execution_start = False, False
    rows = [{"number": call.number, "url": call.url, "body": json.dumps(call.body)} for call in calls]
    # A worker's engine is kept full while the next blocks are on their way.
    num_at_once = 1 + -(-settings.max_sequences // CALLS_A_BLOCK)
    pool = ActorPoolStrategy(
        size=num_workers, max_concurrent_calls_per_actor=num_at_once, enable_true_multi_threading=True
    )
    answered = from_items(rows, override_num_blocks=-(-len(rows) // CALLS_A_BLOCK)).map_batches(
        Worker, fn_constructor_args=(load, settings), batch_size=None, compute=pool, **resources
    )
    seen: set[int] = set()
    for row in answered.iter_rows():
        # A worker that died is replaced, and its blocks are answered again.
        if row["number"] not in seen:
            seen.add(row["number"])
            yield Answer(number=row["number"], status=row["status"], body=json.loads(row["body"]))


def _check_room(num_workers: int, each: dict[str, float]) -> None:
    """Raises CospecError for workers that would wait for ever."""
    there = ray.cluster_resources()
    for name, amount in each.items():
        if num_workers * amount > there.get(name, 0):
            raise CospecError(
                f"{num_workers} workers need {num_workers * amount:g} {name} and the cluster has {there.get(name, 0):g}; "
                f"ask for fewer --workers or a smaller --worker-{name.lower()}s"
            )
