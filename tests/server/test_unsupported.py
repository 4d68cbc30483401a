"""Every field that would change an answer and is not supported, one by one, against a started server."""

import pytest

from cospec.server.fields import IN_CHATS, IN_COMPLETIONS, IN_RESPONSES, IN_TOKENIZE

MESSAGES = [{"role": "user", "content": "Hi"}]
ENDPOINTS = [
    ("/v1/completions", {"prompt": "One", "max_tokens": 1}, IN_COMPLETIONS),
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1}, IN_CHATS),
    ("/v1/responses", {"input": "Hi", "max_output_tokens": 1}, IN_RESPONSES),
    ("/tokenize", {"messages": MESSAGES}, IN_TOKENIZE),
]


def with_fields(body, fields):
    """Those with a dot in their names within the object that the first half names."""
    whole = dict(body)
    for name, value in fields.items():
        outer, _, inner = name.partition(".")
        whole[outer] = {"regex": "a", **whole.get(outer, {}), inner: value} if inner else value
    return whole


@pytest.mark.parametrize(("path", "body", "table"), ENDPOINTS, ids=[path for path, *_ in ENDPOINTS])
def test_each_is_refused_with_the_reason(http, path, body, table):
    for name, (_, reason) in table.items():
        answer = http.post(path, json=with_fields(body, {name: ["other"]}))
        assert answer.status_code == 400, name
        assert answer.json()["error"]["param"] == name
        assert reason in answer.json()["error"]["message"]


@pytest.mark.parametrize(("path", "body", "table"), ENDPOINTS, ids=[path for path, *_ in ENDPOINTS])
def test_values_that_change_nothing_are_let_pass(http, path, body, table):
    for index in range(max(len(neutral) for neutral, _ in table.values()) + 1):
        fields = {name: [*neutral, None][min(index, len(neutral))] for name, (neutral, _) in table.items()}
        answer = http.post(path, json=with_fields(body, fields))
        assert answer.status_code == 200, answer.text
