"""Prometheus metrics: those of vLLM under their names, so that existing dashboards read them, and our own."""

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..core.events import Result

# Upper bounds of the histograms' buckets in seconds, dense enough that a limit between two of them can be judged.
_SECONDS = (
    *(0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.007, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 60, 120),
)


class Load(Protocol):
    """How many sequences are being decoded, and how many wait."""

    @property
    def num_running(self) -> int: ...

    @property
    def num_waiting(self) -> int: ...


class Metrics:
    """Counters and histograms of one served model, updated in the engine's thread."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens read.")
        self._tokens = self._counter("vllm:generation_tokens", "Tokens decoded.")
        self._finished = self._counters("vllm:request_success", "Sequences finished, by reason.", "finished_reason")
        self._to_first = self._histogram("vllm:time_to_first_token_seconds", "From a request to its first token.")
        self._between = self._histogram("vllm:inter_token_latency_seconds", "Between two tokens of a sequence.")
        self._mean_between = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time between two tokens of a sequence, once for each."
        )
        self._to_end = self._histogram("vllm:e2e_request_latency_seconds", "From a request to the end of a sequence.")
        self._blocks = self._counter("vllm:spec_decode_num_drafts", "Blocks of drafts put to verification.")
        self._drafted = self._counter("vllm:spec_decode_num_draft_tokens", "Tokens drafted.")
        self._accepted = self._counter("vllm:spec_decode_num_accepted_tokens", "Drafted tokens accepted.")
        self._accepted_at = self._counters(
            "vllm:spec_decode_num_accepted_tokens_per_pos", "Drafted tokens accepted, by place in a block.", "position"
        )
        self._calls = self._counters(
            "cospec:member_calls", "Forward passes of a member or drafter, counted once for each sequence.", "member"
        )
        self._seconds = self._counters(
            "cospec:member_seconds", "Seconds in the forward passes of a member or drafter.", "member"
        )
        self._proposed_by = self._counters("cospec:proposed_tokens", "Drafts put to verification.", "proposer")
        self._accepted_by = self._counters("cospec:accepted_tokens", "Drafts accepted.", "proposer")
        self._dropped_by = self._counters("cospec:dropped_tokens", "Drafts dropped without verification.", "proposer")

    def watch(self, load: Load) -> None:
        """Report this load whenever the metrics are read."""
        running = Gauge("vllm:num_requests_running", "Sequences being decoded.", ["model_name"], registry=self.registry)
        waiting = Gauge("vllm:num_requests_waiting", "Sequences that wait.", ["model_name"], registry=self.registry)
        running.labels(self._model).set_function(lambda: load.num_running)
        waiting.labels(self._model).set_function(lambda: load.num_waiting)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

    def on_first_token(self, seconds: float) -> None:
        """A request has its first token, so many seconds after its arrival."""
        self._to_first.observe(seconds)

    def on_tokens(self, count: int, seconds: float | None) -> None:
        """A sequence has `count` more tokens, `seconds` after those before; None for its first ones."""
        self._tokens.inc(count)
        # Tokens settled in one round share its time; the first token of a sequence has no gap before it.
        gap, num_gaps = (0.0, count - 1) if seconds is None else (seconds / count, count)
        for _ in range(num_gaps):
            self._between.observe(gap)

    def on_result(self, result: Result, seconds: float, seconds_between: float) -> None:
        """A sequence is finished, `seconds` after the request. seconds_between: from its first token to its last."""
        self._prompt_tokens.inc(result.prompt_tokens)
        self._finished.labels(self._model, result.finish_reason).inc()
        self._to_end.observe(seconds)
        if result.completion_tokens > 1:
            self._mean_between.observe(seconds_between / (result.completion_tokens - 1))
        for name, lane in (result.members | result.drafters).items():
            self._calls.labels(self._model, name).inc(lane.calls)
            self._seconds.labels(self._model, name).inc(lane.seconds)
        for name, drafts in result.proposers.items():
            self._proposed_by.labels(self._model, name).inc(drafts.proposed)
            self._accepted_by.labels(self._model, name).inc(drafts.accepted)
            self._dropped_by.labels(self._model, name).inc(drafts.dropped)
        self._blocks.inc(result.verified.blocks)
        self._drafted.inc(result.verified.drafted)
        self._accepted.inc(result.verified.accepted)
        for place, count in enumerate(result.verified.accepted_at):
            self._accepted_at.labels(self._model, str(place)).inc(count)

    def _counter(self, name: str, text: str) -> Counter:
        return self._counters(name, text).labels(self._model)

    def _counters(self, name: str, text: str, *labels: str) -> Counter:
        """One counter for each value of these labels."""
        return Counter(name, text, ["model_name", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        made = Histogram(name, text, ["model_name"], registry=self.registry, buckets=_SECONDS)
        return made.labels(self._model)
