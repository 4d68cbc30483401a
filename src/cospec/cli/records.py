"""Results as JSON objects."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from ..core.events import Result


def record(results: Sequence[Result], extra: Mapping[str, object]) -> dict[str, Any]:
    """One prompt's results as an object: the first sample's keys, and `samples` where there are several.

    Its `index` is the prompt's; in `samples` it is the sample's.
    """
    samples = [result.to_dict() for result in sorted(results, key=attrgetter("index"))]
    together = {"samples": samples} if len(samples) > 1 else {}
    return {**extra, **samples[0], "index": results[0].prompt_index, **together}
