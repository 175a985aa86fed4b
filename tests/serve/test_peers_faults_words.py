"""What other servers get wrong about structured output, tools and thinking.

Each was seen in vLLM 0.32 or llama.cpp b11549; here it must not be.
"""

import json
import time

import pytest

THOUGHT, ANSWER = "Ünë pénsée: 1+1 → 2.", "It is 2. 🎉 Done\n"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "1+1?"}]
OFF = {"thinking": {"type": "disabled"}}
OBJECT = {"response_format": {"type": "json_object"}}


@pytest.fixture
def llm(llm):
    llm.engine.max_model_len = 4096
    return llm


def message_of(site, **body):
    response = site.chat(**body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


def tool(parameters=None, name="go"):
    function = {"name": name, "parameters": parameters}
    return {"type": "function", "function": function}


def test_thoughts_come_under_both_names(site):
    """VLLM sends `reasoning` alone, on which DeepSeek's clients break."""
    message = message_of(site)
    assert message["reasoning_content"] == message["reasoning"] == THOUGHT


def test_thinking_tokens_are_counted_where_the_template_opened_the_thought(site):
    """VLLM counts none."""
    details = site.chat().json()["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] >= len(THOUGHT.encode())


@pytest.mark.parametrize("form", [{}, OBJECT])
def test_without_thinking_the_answer_is_no_thought(site, llm, form):
    """VLLM puts it there, an answer in a schema included."""
    llm.engine.text = '{"a": 1}' if form else ANSWER
    message = message_of(site, **OFF, **form)
    assert message["content"] == llm.engine.text
    assert message["reasoning_content"] is None


def test_a_schema_is_not_answered_with_endless_white_space(site, llm):
    """VLLM lets blanks go on until the tokens are spent."""
    llm.engine.text = "</think>{" + " \n" * 2000
    choice = site.chat(**OBJECT, max_tokens=3000).json()["choices"][0]
    blanks = choice["message"]["content"].partition("{")[2]
    assert len(blanks) - len(blanks.lstrip()) < 40


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object", "properties": {}}])
def test_a_named_tool_without_parameters_is_called(site, parameters):
    """VLLM answers without a call."""
    named = {"type": "function", "function": {"name": "go"}}
    message = message_of(site, tools=[tool(parameters)], tool_choice=named)
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "go"
    assert json.loads(call["function"]["arguments"]) == {}


def test_a_required_tool_is_called_before_any_text(site):
    """Llama.cpp lets text come first, and does not insist on a named tool."""
    message = message_of(site, tools=[tool()], tool_choice="required")
    assert message["content"] is None
    assert message["tool_calls"]


def test_a_tail_that_looks_like_a_stop_string_streams_as_the_whole(site, llm):
    """Llama.cpp's stream loses it."""
    llm.engine.text = "</think>one two th"
    body = {"messages": MESSAGES, "stop": ["three"]}
    text = "".join(
        event["choices"][0]["delta"].get("content", "")
        for event in site.events(CHAT, **body)
    )
    assert text == message_of(site, stop=["three"])["content"] == "one two th"


def nested(depth, wrap):
    value: object = {}
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("depth", [60, 300, 900])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: {"type": "object", "properties": {"a": inner}},
        lambda inner: {"anyOf": [inner, {"type": "null"}]},
        lambda inner: [inner],
    ],
)
def test_deeply_nested_tools_neither_stall_nor_break_the_server(site, depth, wrap):
    """Llama.cpp stalls for a minute, and deep JSON may kill it."""
    deep = nested(depth // 2, wrap)
    parameters = deep if isinstance(deep, dict) else {"enum": deep}
    for choice in ("auto", "required"):
        start = time.monotonic()
        response = site.chat(tools=[tool(parameters)], tool_choice=choice, max_tokens=5)
        assert response.status_code in (200, 400)
        assert time.monotonic() - start < 5
    assert message_of(site)["content"] == ANSWER


def test_very_deep_json_is_refused(site):
    for brackets in ("[]", ('{"a":', "}")):
        opened, closed = brackets
        body = '{"messages": ' + opened * 100_000 + closed * 100_000 + "}"
        headers = {"content-type": "application/json"}
        response = site.client.post(CHAT, content=body, headers=headers)
        assert response.status_code == 400
    assert message_of(site)["content"] == ANSWER
