"""/metrics after traffic, held against what the answers said."""

import contextlib

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import MODEL, Served

SECRET = "Question: How many zebras?\nAnswer:"
PLANS = ("fixed", "alternate", "plain", "cascade")
# Two of each, and one that is broken off.
NUM_TEXTS = 2 * len(PLANS) + 1


@pytest.fixture(scope="module")
def told(ensemble):
    """Answers, the samples after them by name and labels, and the text that was scraped."""
    with Served(ensemble) as running, contextlib.closing(running.client()) as client, running.http() as http:
        answers = [
            client.completions.create(
                model=MODEL, prompt=SECRET, max_tokens=20, seed=1, n=2, extra_body={"schedule": plan}
            )
            for plan in PLANS
        ]
        with client.completions.create(model=MODEL, prompt=SECRET, max_tokens=900, stream=True) as stream:
            next(iter(stream))
        assert running.becomes_idle()
        text = http.get("/metrics").text
    samples = {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k != "model_name"))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return answers, samples, text


def of(samples, name, **labels):
    return samples[name, tuple(sorted(labels.items()))]


def total(samples, name):
    return sum(value for (each, _), value in samples.items() if each == name)


def test_requests_and_tokens_under_the_names_that_dashboards_read(told):
    answers, samples, _ = told
    finished = [choice.finish_reason for answer in answers for choice in answer.choices]
    assert of(samples, "vllm:num_requests_running") == 0
    assert of(samples, "vllm:num_requests_waiting") == 0
    assert total(samples, "vllm:request_success_total") == len(finished) + 1
    assert of(samples, "vllm:request_success_total", finished_reason="abort") == 1
    assert of(samples, "vllm:request_success_total", finished_reason="length") == finished.count("length")
    assert of(samples, "vllm:prompt_tokens_total") == NUM_TEXTS * answers[0].usage.prompt_tokens
    assert of(samples, "vllm:generation_tokens_total") > sum(answer.usage.completion_tokens for answer in answers)


def test_latencies(told):
    answers, samples, _ = told
    assert of(samples, "vllm:time_to_first_token_seconds_count") == len(answers) + 1
    assert of(samples, "vllm:e2e_request_latency_seconds_count") == NUM_TEXTS
    # One gap less than tokens in each text, and their sum is no longer than the texts took.
    assert (
        of(samples, "vllm:inter_token_latency_seconds_count") == of(samples, "vllm:generation_tokens_total") - NUM_TEXTS
    )
    gaps, whole = (of(samples, f"vllm:{name}_seconds_sum") for name in ("inter_token_latency", "e2e_request_latency"))
    assert 0 < gaps < whole
    # Once for each text of several tokens; the one that was let go may have had a single one.
    assert of(samples, "vllm:request_time_per_output_token_seconds_count") in (NUM_TEXTS - 1, NUM_TEXTS)
    assert 0 < of(samples, "vllm:request_time_per_output_token_seconds_sum") < gaps


def test_speculation_by_place_and_by_proposer(told):
    answers, samples, _ = told
    told_by_answers = [answer.metrics["speculative_decoding"] for answer in answers]
    assert of(samples, "vllm:spec_decode_num_drafts_total") >= sum(each["num_drafts"] for each in told_by_answers) > 0
    drafted, accepted = (of(samples, f"vllm:spec_decode_num_{what}_tokens_total") for what in ("draft", "accepted"))
    assert drafted >= sum(each["num_draft_tokens"] for each in told_by_answers)
    assert drafted >= accepted >= sum(each["num_accepted_tokens"] for each in told_by_answers) > 0
    assert total(samples, "vllm:spec_decode_num_accepted_tokens_per_pos_total") == accepted
    first, second = (
        of(samples, "vllm:spec_decode_num_accepted_tokens_per_pos_total", position=place) for place in ("0", "1")
    )
    assert first >= second > 0
    proposers = {name for each in told_by_answers for name in each["proposers"]}
    assert {"math", "general", "drafter"} >= proposers > set()
    for name in proposers:
        own = [each["proposers"][name] for each in told_by_answers if name in each["proposers"]]
        for metric, field in (("proposed", "proposed"), ("accepted", "accepted"), ("dropped", "dropped")):
            assert of(samples, f"cospec:{metric}_tokens_total", proposer=name) >= sum(each[field] for each in own)


def test_what_two_stages_verify_is_put_to_r_once(told):
    answers, samples, _ = told
    for answer, plan in zip(answers, PLANS, strict=True):
        own = answer.metrics["speculative_decoding"]
        by_proposer = sum(each["accepted"] for each in own["proposers"].values())
        assert own["num_accepted_tokens"] <= answer.usage.completion_tokens
        assert (by_proposer > own["num_accepted_tokens"]) == (plan == "cascade")
    accepted = of(samples, "vllm:spec_decode_num_accepted_tokens_total")
    assert total(samples, "cospec:accepted_tokens_total") > accepted
    assert accepted < of(samples, "vllm:generation_tokens_total")


def test_calls_and_seconds_by_member(told):
    answers, samples, _ = told
    for name in ("math", "general"):
        own = [answer.metrics["members"][name] for answer in answers]
        assert of(samples, "cospec:member_calls_total", member=name) >= sum(each["calls"] for each in own) > 0
        seconds = sum(each["seconds"] for each in own)
        assert of(samples, "cospec:member_seconds_total", member=name) > 0.999 * seconds
        assert seconds > 0
    assert of(samples, "cospec:member_calls_total", member="drafter") > 0


def test_metrics_hold_no_text(told):
    answers, _, text = told
    assert "zebra" not in text
    for answer in answers:
        assert answer.choices[0].text.strip()[:12] not in text
