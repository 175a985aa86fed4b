"""What other servers get wrong in operation, and this one does not.

Each test names the server that was seen to fail.
"""

import json
import time

import pytest

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "path", [CHAT, TEXT, "/tokenize", "/detokenize", "/metrics", "/v1/models", "/load"]
)
def test_no_key_is_401_in_openais_shape_everywhere(serve, llm, path):
    """vLLM answers {"error": "Unauthorized"}, and /tokenize and /metrics to anybody."""
    with serve(llm, api_keys=["one"]) as site:
        answer = site.client.post(path, json={})
        assert answer.status_code == 401
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        # llama.cpp refuses the scheme in lower case, and takes a bare key.
        for header, known in (("bearer one", True), ("one", False)):
            headers = {"authorization": header}
            status = site.client.get("/v1/models", headers=headers).status_code
            assert (status == 200) == known


def test_a_body_too_long_is_413_in_openais_shape(serve, llm):
    """VLLM, SGLang and llama.cpp read bodies of any length."""
    with serve(llm, max_body_bytes=1000) as site:
        answer = site.complete(prompt="a" * 1000)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
        assert site.complete(prompt="a").status_code == 200


def test_a_server_that_drains_says_503_and_when_to_come_back(site):
    """VLLM answers 500 while it drains, without Retry-After."""
    site.app.state.admission.draining = True
    answer = site.chat()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert site.client.get("/health").status_code == 503


@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
@pytest.mark.parametrize("field", ["tools", "messages", "prompt", "response_format"])
def test_deep_nesting_neither_kills_nor_stalls(door, field, depth):
    """Killed llama.cpp in two of three runs; deep `tools` stalled it for a minute."""
    deep = '{"a":[' * depth + "1" + "]}" * depth
    if field == "tools":
        deep = f'[{{"type":"function","function":{{"name":"f","parameters":{deep}}}}}]'
    content = f'{{"messages": [{{"role":"user","content":"x"}}], "{field}": {deep}}}'
    start = time.monotonic()
    answer = door.client.post(CHAT, content=content, headers=JSON)
    assert answer.status_code in (200, 400)
    assert door.client.get("/health").status_code == 200
    assert time.monotonic() - start < 10


def test_work_stops_when_the_client_has_gone(site, llm, eventually):
    """Goes on in llama.cpp."""
    llm.engine.pace = 0.01
    body = {"prompt": "x", "stream": True, "max_tokens": 200}
    with site.client.stream("POST", TEXT, json=body) as answer:
        next(answer.iter_lines())
    eventually(lambda: llm.engine.finished == ["abort"])


@pytest.mark.parametrize(
    "stop", ["2. 🎉 Done\n!", "\n\n", "Done\n", "e\n", "</think", "z"]
)
def test_the_stream_is_the_text_though_its_tail_looks_like_a_stop(site, stop):
    """llama.cpp's stream then differs from its plain answer."""
    messages = [{"role": "user", "content": "1+1?"}]
    whole = site.chat(stop=stop).json()["choices"][0]
    events = site.events(CHAT, messages=messages, stop=stop)
    deltas = [event["choices"][0]["delta"] for event in events]
    for field in ("reasoning_content", "content"):
        joined = "".join(delta.get(field) or "" for delta in deltas)
        assert joined == (whole["message"][field] or "")
    assert events[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]


def test_latencies_are_histograms(site):
    """llama.cpp has none."""
    site.chat()
    text = site.client.get("/metrics").text
    assert 'vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"' in text


def test_unknown_models_are_not_served(site):
    """llama.cpp serves whatever name is asked for."""
    answer = site.complete(model="gpt-9")
    assert answer.status_code == 404
    assert json.loads(answer.text)["error"]["code"] == "model_not_found"
