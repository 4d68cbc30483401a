"""Prometheus metrics: those that dashboards for serving engines read, under their names, and our own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..core.events import Result
from .host import Host, Job

# Close enough that a limit between two bounds is seldom passed unseen.
_SECONDS = (
    *(0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.007, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 60, 120),
)


class Metrics:
    """What the engine's thread counts, for one model."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._tokens_of_prompts = self._counter("vllm:prompt_tokens", "Prompt tokens read.")
        self._tokens = self._counter("vllm:generation_tokens", "Tokens decoded.")
        self._finished = self._counters("vllm:request_success", "Texts finished, by reason.", "finished_reason")
        self._to_first = self._histogram("vllm:time_to_first_token_seconds", "From a request to its first token.")
        self._between = self._histogram("vllm:inter_token_latency_seconds", "Between two tokens of a text.")
        self._each = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Between two tokens of a text, its mean, a text once."
        )
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "From a request to the end of a text.")
        self._drafts = self._counter("vllm:spec_decode_num_drafts", "Blocks of drafts put to verification.")
        self._drafted = self._counter("vllm:spec_decode_num_draft_tokens", "Tokens drafted.")
        self._accepted = self._counter("vllm:spec_decode_num_accepted_tokens", "Drafted tokens that stood.")
        self._accepted_at = self._counters(
            "vllm:spec_decode_num_accepted_tokens_per_pos", "Drafted tokens that stood, by place.", "position"
        )
        self._calls = self._counters(
            "cospec:member_calls", "Calls, of a member or drafter, a text counted each.", "member"
        )
        self._seconds = self._counters(
            "cospec:member_seconds", "Seconds in the calls of a member or drafter.", "member"
        )
        self._proposed = self._counters("cospec:proposed_tokens", "Drafts put to verification.", "proposer")
        self._stood = self._counters("cospec:accepted_tokens", "Drafts that stood.", "proposer")
        self._dropped = self._counters("cospec:dropped_tokens", "Drafts that were never looked at.", "proposer")

    def watch(self, host: Host) -> None:
        """Read off the host, whenever asked, how much it does."""
        running = Gauge("vllm:num_requests_running", "Texts being decoded.", ["model_name"], registry=self.registry)
        waiting = Gauge("vllm:num_requests_waiting", "Texts that wait.", ["model_name"], registry=self.registry)
        running.labels(self._model).set_function(lambda: host.num_running)
        waiting.labels(self._model).set_function(lambda: host.num_waiting)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def on_tokens(self, job: Job, count: int, last: float | None, now: float) -> None:
        self._tokens.inc(count)
        if job.first_token is None:
            job.first_token = now
            self._to_first.observe(now - job.submitted)
        # Tokens that come together share the time since those before; the first ones of a text have none before them.
        gap, num_gaps = (0.0, count - 1) if last is None else ((now - last) / count, count)
        for _ in range(num_gaps):
            self._between.observe(gap)

    def on_result(self, job: Job, result: Result, between: float, now: float) -> None:
        self._tokens_of_prompts.inc(result.prompt_tokens)
        self._finished.labels(self._model, result.finish_reason).inc()
        self._whole.observe(now - job.submitted)
        if result.completion_tokens > 1:
            self._each.observe(between / (result.completion_tokens - 1))
        for name, lane in (result.members | result.drafters).items():
            self._calls.labels(self._model, name).inc(lane.calls)
            self._seconds.labels(self._model, name).inc(lane.seconds)
        for name, proposer in result.proposers.items():
            self._proposed.labels(self._model, name).inc(proposer.proposed)
            self._stood.labels(self._model, name).inc(proposer.accepted)
            self._dropped.labels(self._model, name).inc(proposer.dropped)
        self._drafts.inc(result.verified.blocks)
        self._drafted.inc(result.verified.drafted)
        self._accepted.inc(result.verified.accepted)
        for place, count in enumerate(result.verified.accepted_at):
            self._accepted_at.labels(self._model, str(place)).inc(count)

    def _counter(self, name: str, text: str) -> Counter:
        return self._counters(name, text).labels(self._model)

    def _counters(self, name: str, text: str, *labels: str) -> Counter:
        """One for each value of more labels than the model's."""
        return Counter(name, text, ["model_name", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        made = Histogram(name, text, ["model_name"], registry=self.registry, buckets=_SECONDS)
        return made.labels(self._model)
