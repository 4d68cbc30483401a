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
    """Counters and histograms of all served models, each with the label `model_name`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens read.")
        self.tokens = self._counter("vllm:generation_tokens", "Tokens decoded.")
        self.finished = self._counter("vllm:request_success", "Sequences finished, by reason.", "finished_reason")
        self.to_first = self._histogram("vllm:time_to_first_token_seconds", "From a request to its first token.")
        self.between = self._histogram("vllm:inter_token_latency_seconds", "Between two tokens of a sequence.")
        self.mean_between = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time between two tokens of a sequence, once for each."
        )
        self.to_end = self._histogram("vllm:e2e_request_latency_seconds", "From a request to the end of a sequence.")
        self.blocks = self._counter("vllm:spec_decode_num_drafts", "Blocks of drafts put to verification.")
        self.drafted = self._counter("vllm:spec_decode_num_draft_tokens", "Tokens drafted.")
        self.accepted = self._counter("vllm:spec_decode_num_accepted_tokens", "Drafted tokens accepted.")
        self.accepted_at = self._counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos", "Drafted tokens accepted, by place in a block.", "position"
        )
        self.calls = self._counter(
            "cospec:member_calls", "Forward passes of a member or drafter, counted once for each sequence.", "member"
        )
        self.seconds = self._counter(
            "cospec:member_seconds", "Seconds in the forward passes of a member or drafter.", "member"
        )
        self.proposed_by = self._counter("cospec:proposed_tokens", "Drafts put to verification.", "proposer")
        self.accepted_by = self._counter("cospec:accepted_tokens", "Drafts accepted.", "proposer")
        self.dropped_by = self._counter("cospec:dropped_tokens", "Drafts dropped without verification.", "proposer")
        self.running = self._gauge("vllm:num_requests_running", "Sequences being decoded.")
        self.waiting = self._gauge("vllm:num_requests_waiting", "Sequences that wait.")

    def of(self, model: str) -> "ModelMetrics":
        """Those of one model, which are reported from now on."""
        return ModelMetrics(self, model)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ["model_name", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ["model_name"], registry=self.registry, buckets=_SECONDS)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["model_name"], registry=self.registry)


class ModelMetrics:
    """The metrics of one served model, updated in the engine's thread."""

    def __init__(self, all_models: Metrics, model: str) -> None:
        self._all, self._model = all_models, model
        self._prompt_tokens = all_models.prompt_tokens.labels(model)
        self._tokens = all_models.tokens.labels(model)
        self._to_first = all_models.to_first.labels(model)
        self._between = all_models.between.labels(model)
        self._mean_between = all_models.mean_between.labels(model)
        self._to_end = all_models.to_end.labels(model)
        self._blocks = all_models.blocks.labels(model)
        self._drafted = all_models.drafted.labels(model)
        self._accepted = all_models.accepted.labels(model)

    def watch(self, load: Load) -> None:
        """Report this load whenever the metrics are read."""
        self._all.running.labels(self._model).set_function(lambda: load.num_running)
        self._all.waiting.labels(self._model).set_function(lambda: load.num_waiting)

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
        families = self._all
        self._prompt_tokens.inc(result.prompt_tokens)
        families.finished.labels(self._model, result.finish_reason).inc()
        self._to_end.observe(seconds)
        if result.completion_tokens > 1:
            self._mean_between.observe(seconds_between / (result.completion_tokens - 1))
        for name, lane in (result.members | result.drafters).items():
            families.calls.labels(self._model, name).inc(lane.calls)
            families.seconds.labels(self._model, name).inc(lane.seconds)
        for name, drafts in result.proposers.items():
            families.proposed_by.labels(self._model, name).inc(drafts.proposed)
            families.accepted_by.labels(self._model, name).inc(drafts.accepted)
            families.dropped_by.labels(self._model, name).inc(drafts.dropped)
        self._blocks.inc(result.verified.blocks)
        self._drafted.inc(result.verified.drafted)
        self._accepted.inc(result.verified.accepted)
        for place, count in enumerate(result.verified.accepted_at):
            families.accepted_at.labels(self._model, str(place)).inc(count)
