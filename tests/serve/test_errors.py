"""Bad input gets an OpenAI error object, whatever it is; never a 500, never silence."""

import contextlib
import json
import re

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1jax.errors import RequestError

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "x"}


def error_of(response, status=400):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "property name"),
        (b'{"prompt": "a"', "delimiter"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"prompt": "\xff"}', "byte 12 is not UTF-8"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN"),
        (b'{"prompt": "a", "temperature": -Infinity}', "Infinity"),
        (b'{"prompt": "\\ud83d"}', "surrogate"),
        (b'{"user": "\\udc00", "prompt": "a"}', "surrogate"),
        (b'{"\\ud83d": 1, "prompt": "a"}', "surrogate"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        ("\ufeff{}".encode(), "BOM"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_is_not_strict_json_is_refused(door, path, content, reason):
    error = error_of(door.client.post(path, content=content, headers=JSON))
    assert error["code"] == "invalid_json"
    assert reason in error["message"]


def test_a_whole_surrogate_pair_is_a_character(door):
    content = b'{"prompt": "\\ud83c\\udf89", "echo": true}'
    response = door.client.post(TEXT, content=content, headers=JSON)
    assert response.json()["choices"][0]["text"].startswith("🎉")


def test_other_content_types_are_refused(door):
    response = door.client.post(TEXT, data={"prompt": "a"})
    assert error_of(response, 415)["code"] == "unsupported_media_type"
    for kind in ("application/json; charset=utf-8", "application/vnd.api+json"):
        headers = {"content-type": kind}
        response = door.client.post(TEXT, content=b'{"prompt": "a"}', headers=headers)
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [USER, {"content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{**USER, "mood": "x"}]}, "messages[0].mood"),
        ({"messages": [{**USER, "prefix": True}]}, "messages[0].prefix"),
        ({"messages": [{**USER, "content": [{"type": "image_url"}]}]}, "messages"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"thinking": True}, "thinking"),
        ({"chat_template_kwargs": {"tinking": False}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"thinking": "no"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"prompt": "a"}, "prompt"),
        ({"max_token": 1}, "max_token"),
    ],
)
def test_chat_names_the_parameter_at_fault(door, body, param):
    response = door.client.post(CHAT, json={"messages": [USER], **body})
    if body == {}:
        response = door.client.post(CHAT, json={})
    assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [10**30]}, None),
        ({"prompt": [-1]}, None),
        ({"prompt": ["a"] * 1025}, "prompt"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 10**30}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stop": ""}, "stop[0]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"one": 1}}, "logit_bias.one.[key]"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"logit_bias": {"07": 1}}, "logit_bias.07.[key]"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"allowed_token_ids": [9999]}, "allowed_token_ids"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids[0]"),
        ({"bad_words": [""]}, "bad_words[0]"),
        ({"bad_words": "no"}, "bad_words"),
        ({"bad_words": ["x" * 257]}, "bad_words[0]"),
        ({"min_tokens": 4, "max_tokens": 3}, "min_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"priority": 1.5}, "priority"),
        ({"priority": 10**30}, "priority"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncation_side": "top"}, "truncation_side"),
        ({"request_id": "a b"}, "request_id"),
        ({"spaces_between_special_tokens": False}, "spaces_between_special_tokens"),
        ({"cache_salt": "x"}, "cache_salt"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
    ],
)
def test_completions_name_the_parameter_at_fault(door, body, param):
    response = door.client.post(
        TEXT, json={"prompt": "a", "add_special_tokens": False, **body}
    )
    assert error_of(response)["param"] == param


def test_values_that_ask_for_nothing_are_accepted(door):
    nothing = {
        "best_of": 1,
        "logit_bias": {},
        "metadata": {"a": "b"},
        "min_tokens": 0,
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "stop": None,
        "store": False,
        "suffix": None,
        "temperature": None,
        "tool_choice": "none",
        "tools": [],
        "user": "me",
    }
    assert door.complete(**nothing).status_code == 200
    del nothing["best_of"]
    assert door.chat(**nothing).status_code == 200


def test_a_misspelt_parameter_is_told_its_name(door):
    error = error_of(door.chat(temprature=0.5))
    assert error["code"] == "unknown_parameter"
    assert "did you mean 'temperature'?" in error["message"]


def test_an_error_says_what_why_and_how_to_fix_it(door):
    message = error_of(door.chat(suffix="x"))["message"]
    assert message == (
        "'suffix' is not supported. Why: R1 was not trained to fill in the middle. "
        "Fix: leave 'suffix' out."
    )


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_prompt_too_long_for_the_context_is_refused_with_numbers(door, path):
    long = {"messages": [{**USER, "content": "x" * 300}], "prompt": "x" * 300}
    field = "messages" if path == CHAT else "prompt"
    error = error_of(door.client.post(path, json={field: long[field]}))
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == field
    assert "256" in error["message"]
    assert re.search(r"3\d\d tokens", error["message"])


def test_an_unknown_model_is_not_found(door):
    for response in (
        door.chat(model="gpt"),
        door.complete(model="gpt"),
        door.client.get("/v1/models/gpt"),
    ):
        error = error_of(response, 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_unknown_paths_and_methods_answer_in_json(door):
    error_of(door.client.get("/v2/models"), 404)
    error_of(door.client.post("/v1/chat/completions/", json={}), 404)
    error_of(door.client.get("/%ff%00<script>"), 404)
    response = door.client.get(CHAT)
    error_of(response, 405)
    assert response.headers["allow"] == "POST"
    error_of(door.client.delete("/v1/models"), 405)


def test_a_long_body_is_refused_though_the_client_is_still_sending(serve, llm):
    with serve(llm, max_body_bytes=1000) as site:
        for content in (b"x" * 1001, b"x" * 5_000_000, iter([b"x" * 10**6] * 5)):
            response = site.client.post(TEXT, content=content, headers=JSON)
            assert error_of(response, 413)["code"] == "request_too_large"
        assert site.complete(prompt="x" * 50).status_code == 200


def test_a_failed_engine_is_a_503_and_fails_the_health_check(site, llm):
    llm.engine.failure = "out of memory"
    error = error_of(site.chat(), 503)
    assert error["type"] == "server_error"
    assert "out of memory" in error["message"]
    assert site.client.get("/health").status_code == 503
    error_of(site.complete(stream=True), 503)


def test_an_error_in_mid_stream_is_an_event_and_ends_the_stream(site, llm, eventually):
    llm.engine.pace = 0.01
    body = {"prompt": "a", "stream": True, "max_tokens": 100}
    with site.client.stream("POST", TEXT, json=body) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["choices"]
        llm.engine.failure = "out of memory"
        *_, last = (line for line in lines if line)
    assert (
        "out of memory" in json.loads(last.removeprefix("data: "))["error"]["message"]
    )


@pytest.mark.parametrize("error", [RequestError("no"), KeyError("bug")])
def test_a_request_that_fails_half_way_leaves_nothing_running(
    site, llm, monkeypatch, eventually, error
):
    llm.engine.go.clear()
    submit = llm.engine.submit

    def second_fails(*arguments, **more):
        if llm.engine.prompts:
            raise error
        return submit(*arguments, **more)

    monkeypatch.setattr(llm.engine, "submit", second_fails)
    error_of(site.chat(n=2), 400 if isinstance(error, RequestError) else 500)
    eventually(lambda: llm.engine.finished == ["abort"])


def test_an_error_of_our_own_is_a_500_without_details(site, llm, monkeypatch, caplog):
    monkeypatch.setattr(llm.engine, "submit", lambda *_, **more: 1 / 0)
    error = error_of(site.chat(), 500)
    assert "division" not in error["message"]
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert site.chat().status_code == 200


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "text", "\ud800", 1e999, 10**30]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner)
    ),
    max_leaves=6,
)
_names = st.sampled_from(
    [
        "messages",
        "prompt",
        "temperature",
        "n",
        "stop",
        "logprobs",
        "top_logprobs",
        "stream",
        "stream_options",
        "echo",
        "max_tokens",
        "seed",
        "tools",
        "logit_bias",
        "stop_token_ids",
        "chat_template_kwargs",
        "thinking",
        "best_of",
        "model",
        "user",
    ]
)
_message = st.fixed_dictionaries({"role": _json, "content": _json})


@settings(suppress_health_check=list(HealthCheck), max_examples=150, deadline=None)
@given(
    path=st.sampled_from([CHAT, TEXT]),
    start=st.sampled_from([{}, {"prompt": "a"}, {"messages": [USER]}]),
    body=st.dictionaries(_names, _json | st.lists(_message, max_size=2)),
)
def test_no_body_breaks_the_server(door, path, start, body):
    content = json.dumps(start | body)
    response = door.client.post(path, content=content, headers=JSON)
    if response.status_code != 200:
        assert 400 <= response.status_code < 500
        error_of(response, response.status_code)


@settings(suppress_health_check=list(HealthCheck), max_examples=60, deadline=None)
@given(content=st.binary(max_size=60))
def test_no_bytes_break_the_server(door, content):
    error_of(door.client.post(TEXT, content=content, headers=JSON))


def test_an_unfinished_body_does_not_hold_its_connection_for_ever(site, monkeypatch):
    monkeypatch.setattr("r1jax.serve.body._BODY_SECONDS", 0.05)

    def endless():
        yield b'{"prompt": '
        while True:
            yield b" "

    with contextlib.suppress(httpx.TransportError):  # cut off while sending
        error_of(httpx.post(site.url + TEXT, content=endless(), headers=JSON), 408)
