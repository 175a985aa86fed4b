"""The API before a real engine, of a toy model that says anything."""

from collections import Counter

import hypothesis
import jax
import numpy as np
import pytest
import schemathesis
from schemathesis import checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from r1jax.serve.openapi import document

CHECKS = [
    checks.not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
MARKS = ("<think>", "</think>", "<｜Assistant｜>", "\ufffd")
USER = {"role": "user", "content": "1+1?"}


@pytest.fixture
def real_site(real_llm, serve):
    with serve(real_llm) as site:
        yield site


def test_an_echo_judges_the_prompt_as_the_plain_model_does(real_llm, real_site):
    ids = real_llm.tokenizer.encode("The capital of France")
    body = {"prompt": ids, "echo": True, "logprobs": 2, "max_tokens": 0}
    choice = real_site.complete(**body).json()["choices"][0]
    logprobs = np.asarray(jax.nn.log_softmax(real_llm.logits(ids)))
    entries = choice["logprobs"]
    assert choice["text"] == "The capital of France"
    assert entries["token_logprobs"][0] is None
    expected = [logprobs[at, token] for at, token in enumerate(ids[1:])]
    np.testing.assert_allclose(entries["token_logprobs"][1:], expected, atol=2e-4)
    for at, top in enumerate(entries["top_logprobs"][1:]):
        assert max(top.values()) == pytest.approx(logprobs[at].max(), abs=2e-4)


def test_rules_that_leave_no_token_are_the_requests_fault(real_llm, real_site):
    [token] = real_llm.tokenizer.encode("a")
    body = {"prompt": "b", "allowed_token_ids": [token], "bad_words": ["a"]}
    answer = real_site.complete(**body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_token_allowed"
    assert "no token" in answer.json()["error"]["message"]
    assert real_site.client.get("/health").status_code == 200


def test_forbidden_words_never_come(real_site):
    asked = {"prompt": "a", "max_tokens": 64, "n": 4, "seed": 1}
    asked |= {"temperature": 1, "top_p": 1}

    def texts(**more):
        choices = real_site.complete(**asked, **more).json()["choices"]
        return [choice["text"] for choice in choices]

    said = "\n".join(texts())
    for mark in MARKS:  # they are forbidden by their own names only
        said = said.replace(mark, "\n")
    pairs = Counter(said[i : i + 2] for i in range(len(said) - 1))
    words = [pair for pair, _ in pairs.most_common(60) if pair.isprintable()]
    words = [pair for pair in words if not any(pair in mark for mark in MARKS)][:8]
    assert len(words) > 3
    again = texts(bad_words=words)
    assert not [word for word in words for text in again if word in text]


def test_biases_and_allowed_tokens_decide(real_llm, real_site):
    a, b = real_llm.tokenizer.encode("ab")
    body = {"prompt": "x", "max_tokens": 8, "temperature": 0}
    biased = real_site.complete(**body, logit_bias={str(a): 100}).json()
    assert biased["choices"][0]["text"] == "a" * 8
    text = real_site.complete(**body, allowed_token_ids=[a, b]).json()["choices"][0]
    assert set(text["text"]) <= {"a", "b"}


def test_all_shapes_say_the_same(real_site):
    asked = {"temperature": 0, "seed": 3}
    chat = real_site.chat(**asked, messages=[USER], max_tokens=24).json()
    message = chat["choices"][0]["message"]
    body = {"input": "1+1?", "max_output_tokens": 24, **asked}
    response = real_site.client.post("/v1/responses", json=body).json()
    body = {"messages": [USER], "max_tokens": 24, **asked}
    anthropics = real_site.client.post("/v1/messages", json=body).json()
    thought = message["reasoning_content"]
    assert response["output"][0]["content"][0]["text"] == thought
    assert anthropics["content"][0]["thinking"] == thought
    assert response["usage"]["output_tokens"] == 24
    several = real_site.chat(**asked, messages=[USER], max_tokens=24, n=3).json()
    assert {c["message"]["reasoning_content"] for c in several["choices"]} == {thought}


schema = schemathesis.openapi.from_dict(document(("/v1",), keyed=False))


@pytest.mark.slow
@schema.parametrize()
@hypothesis.settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
def test_a_real_engine_answers_any_request_as_described(real_site, case):
    case.call_and_validate(base_url=real_site.url, checks=CHECKS)
