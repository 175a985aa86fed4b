"""What vLLM 0.32 and llama.cpp b11549 get wrong at the door, and this server does not.

Each test is named for a fault that was seen by running them.
"""

import pytest

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "1+1?"}
WORK = [CHAT, TEXT, "/v1/responses", "/v1/messages", "/tokenize", "/detokenize"]


def assert_openais(response, status):
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_vllm_a_401_is_not_in_openais_shape(serve, llm):
    with serve(llm, api_keys=["k"]) as site:
        assert_openais(site.client.get("/v1/models"), 401)


def test_vllm_errors_of_the_framework_are_not_in_openais_shape(door):
    assert_openais(door.client.get("/v1/nothing"), 404)
    assert_openais(door.client.get(CHAT), 405)
    assert_openais(door.client.post(TEXT, content=b"{", headers={}), 400)
    headers = {"content-type": "text/plain"}
    assert_openais(door.client.post(TEXT, content=b"{}", headers=headers), 415)


def test_vllm_tokenize_answers_without_a_key(serve, llm):
    body = {"prompt": "a", "tokens": [64], "messages": [USER]}
    with serve(llm, api_keys=["k"]) as site:
        for path in WORK:
            assert site.client.post(path, json=body).status_code == 401


def test_vllm_one_model_cannot_be_asked_about(door):
    assert door.client.get("/v1/models/recital").json()["id"] == "recital"


def test_vllm_several_answers_are_refused_at_temperature_zero(door):
    for response in (
        door.chat(n=3, temperature=0),
        door.complete(n=3, temperature=0),
    ):
        assert len(response.json()["choices"]) == 3


@pytest.mark.parametrize(
    "message", [{"role": "king", "content": "x"}, {"role": "user"}]
)
def test_vllm_unknown_roles_and_missing_contents_are_accepted(door, message):
    assert_openais(door.chat(messages=[message]), 400)


def test_vllm_a_body_may_be_of_any_length(serve, llm):
    with serve(llm, max_body_bytes=1000) as site:
        for path in WORK[:3] + WORK[4:]:
            response = site.client.post(path, json={"prompt": "x" * 1000})
            assert_openais(response, 413)


@pytest.mark.parametrize("spelling", ["word", " word", " wo", "xword", "wordy"])
def test_vllm_a_bad_word_is_missed_in_another_spelling(site, llm, spelling):
    site.complete(bad_words=["word", " wo"])
    (guide,) = llm.engine.guides
    *before, last = llm.encode(spelling)
    for token in before:
        if guide.mask()[token // 32] >> token % 32 & 1 == 0:
            return  # stopped even earlier
        guide.advance(token)
    assert guide.mask()[last // 32] >> last % 32 & 1 == 0


@pytest.mark.parametrize("root", ["", "/beta", "/v1"])
def test_vllm_deepseeks_paths_are_absent(door, root):
    body = {"messages": [USER], "max_tokens": 1}
    assert door.client.post(f"{root}/chat/completions", json=body).status_code == 200
    body = {"prompt": "a", "max_tokens": 1}
    assert door.client.post(f"{root}/completions", json=body).status_code == 200
    assert door.client.get(f"{root}/models").status_code == 200


def test_vllm_deepseeks_path_for_anthropics_client_is_absent(door):
    body = {"messages": [USER], "max_tokens": 1}
    path = "/anthropic/v1/messages"
    assert door.client.post(path, json=body).json()["type"] == "message"


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_vllm_counts_of_the_cache_are_absent(site, llm, path):
    llm.engine.cached = 2
    body = {"messages": [USER]} if path == CHAT else {"prompt": "abc"}
    usage = site.client.post(path, json=body).json()["usage"]
    hit, miss = usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]
    assert (hit, hit + miss) == (2, usage["prompt_tokens"])


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 2},
        {"n": 0},
        {"max_tokens": -1},
        {"seed": "x"},
        {"stop": 3},
        {"stop": ""},
        {"logprobs": "yes"},
        {"logit_bias": {"64": "much"}},
        {"stream": "no"},
        {"repeat_penalty": 2},
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_llama_cpp_bad_values_are_accepted_or_answered_with_500(door, path, body):
    asked = {"messages": [USER]} if path == CHAT else {"prompt": "a"}
    assert_openais(door.client.post(path, json=asked | body), 400)


@pytest.mark.parametrize("path", WORK[:3] + WORK[4:])
def test_llama_cpp_an_unknown_model_is_served(door, path):
    assert_openais(door.client.post(path, json={"model": "gpt-5"}), 404)


def test_llama_cpp_an_answer_without_max_tokens_runs_for_ever(site, llm):
    llm.engine.text = "x" * 1000
    choice = site.chat().json()["choices"][0]
    assert choice["finish_reason"] == "length"
    choice = site.complete().json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("x" * 16, "length")


def test_llama_cpp_there_is_no_echo(door):
    choice = door.complete(prompt="ab", echo=True, max_tokens=1).json()["choices"][0]
    assert choice["text"].startswith("ab")


def test_llama_cpp_logprobs_of_completions_have_the_shape_of_chat(door):
    body = {"prompt": "ab", "echo": True, "logprobs": 2, "max_tokens": 0}
    entries = door.complete(**body).json()["choices"][0]["logprobs"]
    names = ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
    assert [*entries] == names
    assert {len(entries[name]) for name in names} == {3}


def test_llama_cpp_usage_counts_one_choice_only(door):
    one, three = (
        door.complete(n=n, max_tokens=5).json()["usage"]["completion_tokens"]
        for n in (1, 3)
    )
    assert three == 3 * one == 15


def test_llama_cpp_the_streams_usage_chunk_is_missing(door):
    options = {"include_usage": True}
    last = door.events(TEXT, prompt="a", stream_options=options)[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("stop", ["2. 🎉 Dane", "Done\n\n", "🎊", " Done"])
def test_llama_cpp_the_stream_differs_where_its_tail_looks_like_a_stop(door, stop):
    body = {"prompt": "a", "max_tokens": 200, "stop": [stop]}
    whole = door.complete(**body).json()["choices"][0]["text"]
    events = door.events(TEXT, **body)
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    assert whole.endswith("🎉" if stop == " Done" else "Done\n")


def test_llama_cpp_responses_have_no_numbers_and_are_never_incomplete(door):
    body = {"input": "a", "max_output_tokens": 3}
    response = door.client.post("/v1/responses", json=body).json()
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    stream = door.client.post("/v1/responses", json=body | {"stream": True}).text
    assert '"sequence_number":0' in stream
    assert "event: response.incomplete" in stream
