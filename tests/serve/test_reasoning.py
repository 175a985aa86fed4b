"""Thinking over HTTP: its budget, how it is shown, and answers to be gone on with."""

import pytest

THOUGHT, ANSWER = "Ünë pénsée: 1+1 → 2.", "It is 2. 🎉 Done\n"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "1+1?"}]


def prompt_text(llm):
    return llm.tokenizer.decode(llm.engine.prompts[-1], skip_special=False)


def message_of(site, **body):
    response = site.chat(**body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


@pytest.mark.parametrize("budget", [0, 4, 9])
def test_thoughts_end_with_their_budget(site, llm, budget):
    llm.engine.text = "abcdefghijklmnop"
    body = site.chat(thinking_token_budget=budget, max_tokens=40).json()
    (choice,) = body["choices"]
    assert choice["message"]["reasoning_content"] == "abcdefghijklmnop"[:budget]
    assert choice["message"]["content"] == "abcdefghijklmnop"[budget:]
    details = body["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] == budget + len(llm.encode("\n</think>"))


def test_a_budget_that_is_not_used_up_changes_nothing(site, llm):
    assert message_of(site, thinking_token_budget=100)["content"] == ANSWER


def test_a_budget_goes_together_with_a_form(site):
    message = message_of(
        site, thinking_token_budget=4, structured_outputs={"choice": ["four"]}
    )
    assert message["reasoning_content"] == "Ünë"  # five tokens, not half a character
    assert message["content"] == "four"


@pytest.mark.parametrize(
    ("effort", "led"),
    [("minimal", True), ("low", True), ("medium", True), ("high", False)],
)
def test_efforts_are_budgets(site, llm, effort, led):
    llm.engine.text, llm.engine.max_model_len = "x" * 600, 2000
    message = message_of(site, reasoning_effort=effort)
    cut = effort == "minimal"
    assert (len(message["reasoning_content"]) == 512) == cut
    assert (llm.engine.guides[-1] is not None) == led


def test_no_effort_is_no_thinking(site, llm):
    llm.engine.text = ANSWER
    message = message_of(site, reasoning_effort="none")
    assert prompt_text(llm).endswith("<think>\n\n</think>\n\n")
    assert message["content"] == ANSWER
    assert message["reasoning_content"] is None


@pytest.mark.parametrize(
    "limit", [{"thinking_token_budget": 5}, {"reasoning_effort": "low"}]
)
def test_a_model_that_does_not_think_has_no_thoughts_to_limit(plain_site, limit):
    response = plain_site.chat(**limit)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(limit))


def fields(site, **body):
    """Returns the fields of text of a stream in their order, and each one's pieces."""
    pieces: dict[str, list[str]] = {}
    for event in site.events(CHAT, messages=MESSAGES, **body):
        for name, text in event["choices"][0]["delta"].items():
            if name != "role" and text:
                pieces.setdefault(name, []).append(text)
    return pieces


def test_thoughts_can_be_left_out(site):
    assert message_of(site, include_reasoning=False) == {
        "role": "assistant",
        "content": ANSWER,
    }
    assert set(fields(site, include_reasoning=False)) == {"content"}
    body = site.chat(include_reasoning=False, logprobs=True).json()
    assert set(body["choices"][0]["logprobs"]) == {"content"}
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


def test_thoughts_can_stand_in_the_content(site):
    whole = message_of(site, separate_reasoning=False)
    expected = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
    assert whole == {"role": "assistant", "content": expected}
    streamed = fields(site, separate_reasoning=False)
    assert {name: "".join(text) for name, text in streamed.items()} == {
        "content": expected
    }


def test_thoughts_can_come_in_one_piece(site):
    streamed = fields(site, stream_reasoning=False)
    assert streamed["reasoning_content"] == [THOUGHT]
    assert len(streamed["content"]) > 1
    assert message_of(site, stream_reasoning=False)["reasoning_content"] == THOUGHT


def test_thoughts_cut_short_come_in_one_piece_too(site):
    streamed = fields(site, stream_reasoning=False, max_tokens=6)
    (piece,) = streamed["reasoning_content"]
    assert THOUGHT.startswith(piece)


def begun(content="", **more):
    last = {"role": "assistant", "content": content, **more}
    return [*MESSAGES, last]


ASKS = {
    "deepseek's": ({"prefix": True}, {}),
    "vllm's": ({}, {"continue_final_message": True}),
}


@pytest.mark.parametrize("way", ASKS)
def test_an_answer_is_gone_on_with(site, llm, way):
    mark, body = ASKS[way]
    llm.engine.text = " 2."
    message = message_of(site, messages=begun("It is", **mark), **body)
    assert message["content"] == " 2."
    assert message["reasoning_content"] is None
    assert prompt_text(llm).endswith("<|assistant|><think>\n\n</think>\n\nIt is")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_thought_is_gone_on_with(site, llm, name):
    message = message_of(site, messages=begun(prefix=True, **{name: "Let me"}))
    assert prompt_text(llm).endswith("<|assistant|><think>\nLet me")
    assert message["reasoning_content"] == THOUGHT
    assert message["content"] == ANSWER


def test_without_a_generation_prompt_the_text_is_gone_on_with_as_it_is(site, llm):
    site.chat(add_generation_prompt=False)
    assert prompt_text(llm) == "<bos><|user|>1+1?"


USER_LAST = {"role": "user", "content": "x"}
REFUSED = [
    ({"messages": [{**USER_LAST, "prefix": True}]}, "messages[0].prefix"),
    ({"messages": [*begun("a", prefix=True), USER_LAST]}, "messages[1].prefix"),
    ({"continue_final_message": True}, "messages"),
    (
        {"messages": begun("a", prefix=True), "add_generation_prompt": True},
        "add_generation_prompt",
    ),
    ({"messages": [*MESSAGES, {"role": "assistant"}]}, "messages[1].content"),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"thinking_token_budget": -1}, "thinking_token_budget"),
]


@pytest.mark.parametrize(("body", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name(door, body, param):
    response = door.chat(**body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
