"""The server keeps what its OpenAPI document promises."""

import hypothesis
import pytest
import schemathesis
from schemathesis import checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from r1jax.serve import replies
from r1jax.serve.openapi import document

CHECKS = [
    checks.not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]


schema = schemathesis.openapi.from_dict(document(("/v1",), keyed=False))


def some(count: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )


@schema.parametrize()
@some(12)
def test_any_request_is_answered_as_described(door, case):
    case.call_and_validate(base_url=door.url, checks=CHECKS)


@pytest.mark.slow
@schema.parametrize()
@some(300)
def test_many_requests_are_answered_as_described(door, case):
    case.call_and_validate(base_url=door.url, checks=CHECKS)


def test_the_document_is_served_with_what_the_server_asks_for(serve, llm):
    with serve(llm, api_keys=["k"]) as site:
        assert site.client.get("/openapi.json").status_code == 401
        headers = {"x-api-key": "k"}
        served = site.client.get("/openapi.json", headers=headers).json()
        paths = served["paths"]
        routes = {
            path.replace(":path", "")
            for path in (route.path for route in site.app.routes)
        }
    assert served["security"] == [{"bearer": []}, {"key": []}]
    page = {"/", "/ui/{digest}/{path}"}
    assert paths.keys() == routes - page
    for path in ("/chat/completions", "/beta/completions", "/anthropic/v1/messages"):
        assert "post" in paths[path]


def test_a_body_may_be_null_where_it_may_be_left_out():
    body = document(("/v1",), keyed=False)["components"]["schemas"]["CompletionRequest"]
    assert {"type": "null"} in body["properties"]["n"]["anyOf"]
    assert {"type": "null"} in body["properties"]["temperature"]["anyOf"]
    assert body["required"] == ["prompt"]
    assert body["properties"]["suffix"]["enum"] == ["", None]
    assert body["additionalProperties"] is False


def test_the_events_of_streams_are_as_described(door):
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = {"stream_options": options, "return_token_ids": True, "max_tokens": 40}
    chat = {"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}
    events = door.events("/v1/chat/completions", **chat, **asked, logprobs=True)
    assert [replies.ChatCompletionChunk.model_validate(event) for event in events]
    events = door.events("/v1/completions", prompt="a", **asked, logprobs=2, echo=True)
    assert [replies.TextCompletion.model_validate(event) for event in events]
