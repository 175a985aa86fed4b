"""Text to token ids and back, over HTTP."""

import pytest

MESSAGES = [{"role": "user", "content": "1+1?"}]


@pytest.mark.parametrize("root", ["", "/v1"])
def test_a_text_is_encoded_as_a_prompt_would_be(site, llm, root):
    body = {"prompt": "abé", "return_token_strs": True}
    answer = site.client.post(f"{root}/tokenize", json=body).json()
    assert answer == {
        "count": 5,
        "max_model_len": 256,
        "tokens": llm.tokenizer.encode_prompt("abé"),
        "token_strs": ["<bos>", "a", "b", "bytes:\\xc3", "bytes:\\xa9"],
    }
    body = {"prompt": "ab", "add_special_tokens": False}
    answer = site.client.post(f"{root}/tokenize", json=body).json()
    assert answer == {"count": 2, "max_model_len": 256, "tokens": llm.encode("ab")}
    body = {"tokens": llm.tokenizer.encode_prompt("abé")}
    answer = site.client.post(f"{root}/detokenize", json=body).json()
    assert answer == {"prompt": "<bos>abé"}


def test_messages_are_encoded_as_a_chat_would_be(site, llm):
    answer = site.client.post("/tokenize", json={"messages": MESSAGES}).json()
    site.chat(messages=MESSAGES)
    assert answer["tokens"] == llm.engine.prompts[0]
    long = [{"role": "user", "content": "x" * 999}]
    assert site.client.post("/tokenize", json={"messages": long}).json()["count"] > 999


def test_nothing_is_no_token(site):
    body = {"prompt": "", "add_special_tokens": False}
    assert site.client.post("/tokenize", json=body).json()["tokens"] == []
    assert site.client.post("/detokenize", json={"tokens": []}).json()["prompt"] == ""


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "a", "temperature": 1}, "temperature"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [9999]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_name(door, path, body, param):
    response = door.client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_both_are_behind_the_key(serve, llm):
    with serve(llm, api_keys=["k"]) as site:
        for path in ("/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize"):
            response = site.client.post(path, json={"prompt": "a", "tokens": [1]})
            assert response.status_code == 401
