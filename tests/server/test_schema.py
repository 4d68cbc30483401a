"""Whatever the document of the endpoints allows, and much of what it does not, is answered without a failure."""

import contextlib
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from ..properties import examples

# Of what decodes, whose bodies have many fields, and of what does not.
EXAMPLES, FEW = 24, 8


@pytest.mark.hypothesis
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_makes_the_server_fail(served, http, mode):
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    statuses = {operation.label: _attack(operation, mode) for operation in operations}
    assert len(statuses) >= 9
    assert sum(statuses["POST /v1/completions"].values()) >= EXAMPLES
    if mode is GenerationMode.POSITIVE:
        assert statuses["POST /v1/chat/completions"][200] > 0
        assert statuses["POST /v1/completions"][200] > 0
    assert http.get("/health").status_code == 200
    assert served.becomes_idle(60)


def _attack(operation, mode):
    """How often each status was answered."""
    statuses = Counter()

    count = EXAMPLES if operation.path.endswith("/completions") else FEW

    @settings(max_examples=examples(count), deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def attack(case):
        if isinstance(case.body, dict) and {"prompt", "messages"} & set(case.body) and "tokenize" not in case.path:
            # Long texts are not what is tried here, nor another model's name.
            case.body |= {"max_tokens": 2, "max_completion_tokens": 2, "model": None}
        answer = case.call_and_validate(checks=[not_a_server_error], timeout=60)
        statuses[answer.status_code] += 1

    # What has no parameters cannot be asked wrongly.
    with contextlib.suppress(Unsatisfiable):
        attack()
    return statuses
