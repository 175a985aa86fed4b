"""What surrounds the answers: models, keys, ids, health, metrics, queues."""

import json
import re
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import r1jax
from r1jax.serve.generation import Limits

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "1+1?"}]


def test_models_are_listed_and_described(site):
    listed = site.client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["recital", "alias"]
    card = site.client.get("/v1/models/alias").json()
    assert card == listed["data"][1]
    assert card["max_model_len"] == 256


def test_a_models_name_may_hold_slashes(serve, llm):
    with serve(llm, names=["deepseek-ai/DeepSeek-R1"]) as site:
        card = site.client.get("/v1/models/deepseek-ai/DeepSeek-R1").json()
    assert card["id"] == "deepseek-ai/DeepSeek-R1"


def test_answers_carry_the_name_asked_for(site):
    assert site.chat(model="alias").json()["model"] == "alias"
    assert site.chat().json()["model"] == "recital"


def test_deepseeks_paths_work_too(site):
    assert site.client.get("/models").status_code == 200
    for path, body in (
        ("/chat/completions", {"messages": MESSAGES}),
        ("/completions", {"prompt": "a"}),
    ):
        assert site.client.post(path, json=body).status_code == 200


def test_version_and_ping(site, monkeypatch):
    monkeypatch.setattr(r1jax, "__version__", "1.2.3", raising=False)
    assert site.client.get("/version").json() == {"version": "1.2.3"}
    assert site.client.get("/ping").status_code == 200


def test_request_ids_are_echoed_or_made(site):
    headers = {"x-request-id": "mine-1"}
    response = site.client.get("/v1/models", headers=headers)
    assert response.headers["x-request-id"] == "mine-1"
    for odd in ("x" * 129, "a b", b"\xff"):
        response = site.client.get("/v1/models", headers={"x-request-id": odd})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
    stream = site.client.post(
        CHAT, json={"messages": MESSAGES, "stream": True}, headers=headers
    )
    assert stream.headers["x-request-id"] == "mine-1"


WORK = ["/v1/models", "/v1/models/recital", "/models", "/metrics", "/version", "/other"]


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "one", "Basic one"])
def test_nothing_but_probes_answers_without_a_key(serve, llm, header):
    headers = {"authorization": header} if header else {}
    with serve(llm, api_keys=["one", "zwei-ü"]) as site:
        responses = [site.client.get(path, headers=headers) for path in WORK]
        responses += [site.client.post(p, headers=headers) for p in (CHAT, CHAT[3:])]
        for response in responses:
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
        assert site.client.get("/health").status_code == 200
        assert site.client.get("/ping").status_code == 200
    assert not llm.engine.prompts


@pytest.mark.parametrize("header", ["Bearer one", "bearer  two", "Bearer zwei-ü"])
def test_any_of_the_keys_opens(serve, llm, header):
    with serve(llm, api_keys=["one", "two", "zwei-ü"]) as site:
        headers = {"authorization": header.encode()}
        assert site.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_stops_its_sequences(site, llm, eventually, stream):
    llm.engine.go.clear()
    body = {"messages": MESSAGES, "n": 2, "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(site.url + CHAT, json=body, timeout=0.3).read()
    eventually(lambda: llm.engine.finished == ["abort", "abort"])


def test_hanging_up_in_mid_stream_stops_the_sequence(site, llm, eventually):
    llm.engine.pace = 0.01
    body = {"messages": MESSAGES, "stream": True}
    with site.client.stream("POST", CHAT, json=body) as response:
        next(response.iter_lines())
    eventually(lambda: llm.engine.finished == ["abort"])


def test_a_silent_stream_sends_comments(serve, llm):
    llm.engine.go.clear()
    body = {"messages": MESSAGES, "stream": True}
    with (
        serve(llm, keep_alive=0.05) as site,
        site.client.stream("POST", CHAT, json=body) as response,
    ):
        lines = response.iter_lines()
        seen = [next(lines) for _ in range(4)]
        assert seen == [": keep-alive", ""] * 2
        llm.engine.go.set()
        rest = [line for line in lines if line.startswith("data: ")]
    assert rest[-1] == "data: [DONE]"


def test_a_full_queue_is_refused_and_empties_again(serve, llm, eventually):
    llm.engine.go.clear()
    with serve(llm, limits=Limits(max_queued=2)) as site:
        body = {"messages": MESSAGES, "n": 2, "stream": True}
        with site.client.stream("POST", CHAT, json=body) as waiting:
            response = site.chat()
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert response.json()["error"]["code"] == "overloaded"
            llm.engine.go.set()
            assert "data: [DONE]" in list(waiting.iter_lines())
        assert site.chat().status_code == 200


def test_a_server_that_stops_tells_its_clients(site, llm):
    llm.engine.go.clear()
    body = {"messages": MESSAGES, "stream": True}
    with site.client.stream("POST", CHAT, json=body) as response:
        site.app.state.admission.draining = True
        refused = site.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert site.client.get("/health").status_code == 503
        llm.engine.close()
        *_, last = (line for line in response.iter_lines() if line)
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "shutting_down"


def samples(site):
    text = site.client.get("/metrics").text
    return {
        (sample.name, sample.labels.get("finished_reason")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


@pytest.mark.parametrize("prefix", ["r1jax", "vllm"])
def test_metrics_count_what_happened_under_both_names(site, llm, prefix):
    site.chat()
    site.complete(n=2)
    values = samples(site)
    assert values[f"{prefix}:request_success_total", "stop"] == 1
    assert values[f"{prefix}:request_success_total", "length"] == 2
    assert values[f"{prefix}:num_requests_waiting", None] == 2
    assert values[f"{prefix}:kv_cache_usage_perc", None] == 0.25
    assert values[f"{prefix}:prompt_tokens_total", None] == 5
    assert values[f"{prefix}:spec_decode_num_drafts_total", None] == 7
    assert values[f"{prefix}:spec_decode_num_draft_tokens_total", None] == 21
    assert values[f"{prefix}:spec_decode_num_accepted_tokens_total", None] == 8
    answer = len(llm.encode(llm.engine.text)) + 1
    for name, count in {
        "time_to_first_token_seconds": 3,
        "e2e_request_latency_seconds": 3,
        "request_time_per_output_token_seconds": 3,
        "inter_token_latency_seconds": answer + 32 - 3,
        "request_prompt_tokens": 3,
        "request_generation_tokens": 3,
    }.items():
        assert values[f"{prefix}:{name}_count", None] == count
    assert values[f"{prefix}:request_generation_tokens_sum", None] == answer + 32


def test_requests_do_not_wait_for_one_another(site, llm):
    llm.engine.go.clear()
    body = {"messages": MESSAGES, "stream": True}
    with site.client.stream("POST", CHAT, json=body):
        start = time.monotonic()
        assert site.client.get("/v1/models").status_code == 200
        assert time.monotonic() - start < 2
        llm.engine.go.set()
