"""What a request passes before anything reads it."""

import json

from .conftest import Served


def test_a_body_without_a_length_is_counted_as_it_comes(ensemble):
    body = json.dumps({"prompt": "x" * 5000, "max_tokens": 1}).encode()
    parts = (body[start : start + 500] for start in range(0, len(body), 500))
    with Served(ensemble, max_body=1000) as small, small.http() as http:
        answer = http.post("/v1/completions", content=parts, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "1000 bytes" in answer.json()["error"]["message"]
