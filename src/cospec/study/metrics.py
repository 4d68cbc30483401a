"""A server's /metrics: its counters at one time, and their increase between two times."""

import http.client
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import InvalidPilot, MissingExtra

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

TIMEOUT_SECONDS = 10
_FOREIGN = "these are no metrics of `cospec serve`; give the address of one"


@dataclass(frozen=True)
class Histogram:
    """buckets: upper bound -> values at or below it; the last bound is infinite. total: the values' sum, in seconds."""

    buckets: Mapping[float, float] = field(default_factory=dict)
    total: float = 0.0

    @property
    def count(self) -> float:
        return max(self.buckets.values(), default=0.0)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def at_least(self, share: float) -> float | None:
        """The lower bound of the bucket that holds this quantile: a histogram resolves no further."""
        lower = 0.0
        for bound, up_to in sorted(self.buckets.items()):
            if self.count and up_to >= share * self.count:
                return lower
            lower = bound
        return None

    def since(self, earlier: "Histogram") -> "Histogram":
        buckets = {bound: count - earlier.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Histogram(buckets, self.total - earlier.total)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A server's counters. tokens: decoded. proposed, accepted: tokens by proposer. between_tokens: seconds between
    tokens. per_text: each sequence's mean of those. to_first_token: seconds to each sequence's first token.
    is_restarted: of a window, that the server was restarted in it."""

    tokens: float
    proposed: Mapping[str, float]
    accepted: Mapping[str, float]
    between_tokens: Histogram
    per_text: Histogram
    to_first_token: Histogram
    is_restarted: bool = False

    def since(self, earlier: "Service") -> "Service":
        """The increase since then; all of it where the server was restarted in between, so that counts went back."""
        if any(now < before for now, before in zip(self._counts, earlier._counts, strict=True)):
            return replace(self, is_restarted=True)
        return Service(
            tokens=self.tokens - earlier.tokens,
            proposed=_minus(self.proposed, earlier.proposed),
            accepted=_minus(self.accepted, earlier.accepted),
            between_tokens=self.between_tokens.since(earlier.between_tokens),
            per_text=self.per_text.since(earlier.per_text),
            to_first_token=self.to_first_token.since(earlier.to_first_token),
        )

    @property
    def _counts(self) -> tuple[float, ...]:
        """Counts that never fall while a server runs."""
        latencies = (self.between_tokens.count, self.per_text.count, self.to_first_token.count)
        return (self.tokens, sum(self.proposed.values()), sum(self.accepted.values()), *latencies)


def read_service(url: str, key: str | None = None, model: str | None = None) -> Service:
    """The counters of the server at `url`, of one model or of all. Raises InvalidPilot where no server answers."""
    return parsed(fetch(f"{url.rstrip('/')}/metrics", key), model)


def fetch(url: str, key: str | None) -> str:
    """The text at that address. Raises InvalidPilot with the cause."""
    if not url.startswith(("http://", "https://")):
        raise InvalidPilot(f"{url!r} is no address; give the server's as http://HOST:PORT")
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return str(answer.read().decode("utf-8", errors="replace"))
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise InvalidPilot(f"nothing is read from {url}: {error}; is `cospec serve` running there?") from None


def parsed(text: str, model: str | None = None) -> Service:
    """From Prometheus' text format, of one model or of all. Raises InvalidPilot for metrics of another server."""
    values: dict[str, float] = defaultdict(float)
    by_proposer: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for sample in _samples(text):
        if model is not None and sample.labels.get("model_name", model) != model:
            continue
        if "le" in sample.labels:
            buckets[sample.name][float(sample.labels["le"])] += sample.value
        elif "proposer" in sample.labels:
            by_proposer[sample.name][sample.labels["proposer"]] += sample.value
        else:
            values[sample.name] += sample.value
    # This one is exported before anything was decoded.
    if "vllm:num_requests_running" not in values:
        raise InvalidPilot(_FOREIGN)
    return Service(
        tokens=values["vllm:generation_tokens_total"],
        proposed=by_proposer["cospec:proposed_tokens_total"],
        accepted=by_proposer["cospec:accepted_tokens_total"],
        between_tokens=_histogram("vllm:inter_token_latency_seconds", buckets, values),
        per_text=_histogram("vllm:request_time_per_output_token_seconds", buckets, values),
        to_first_token=_histogram("vllm:time_to_first_token_seconds", buckets, values),
    )


def _samples(text: str) -> "list[Sample]":
    try:
        # Help needs none of the packages of cospec[serve].
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        raise MissingExtra("watching a server needs prometheus-client: pip install 'cospec[serve]'") from None
    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (ValueError, LookupError):
        # An HTML page of a proxy or of another server.
        raise InvalidPilot(_FOREIGN) from None


def _histogram(name: str, buckets: Mapping[str, dict[float, float]], values: Mapping[str, float]) -> Histogram:
    return Histogram(dict(buckets.get(f"{name}_bucket", {})), values.get(f"{name}_sum", 0.0))


def _minus(now: Mapping[str, float], earlier: Mapping[str, float]) -> dict[str, float]:
    return {name: value - earlier.get(name, 0.0) for name, value in now.items()}
