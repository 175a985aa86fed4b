"""Anthropic's messages, over its own client and by the events one by one."""

import json

import anthropic
import pytest

from r1jax.answer import Delta, ToolDelta
from r1jax.serve.job import Usage
from r1jax.serve.message_request import MessageRequest
from r1jax.serve.messages import MessageShape

THOUGHT, ANSWER = "Ünë pénsée: 1+1 → 2.", "It is 2. 🎉 Done\n"
PATH = "/v1/messages"
USER = {"role": "user", "content": "1+1?"}
ASKED = {"model": "recital", "messages": [USER], "max_tokens": 200}


@pytest.fixture
def client(site):
    with anthropic.Anthropic(base_url=site.url, api_key="x", max_retries=0) as client:
        yield client


def test_a_message_has_thoughts_text_and_counts(client, llm):
    llm.engine.cached = 4
    message = client.messages.create(**ASKED, system="Be short.")
    thinking, text = message.content
    assert (thinking.type, thinking.thinking) == ("thinking", THOUGHT)
    assert (text.type, text.text) == ("text", ANSWER)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert usage.cache_read_input_tokens == 4
    assert usage.input_tokens + 4 == len(llm.engine.prompts[0])
    assert usage.output_tokens == len(llm.encode(llm.engine.text)) + 1
    prompt = llm.tokenizer.decode(llm.engine.prompts[0], skip_special=False)
    assert prompt.startswith("<bos><|system|>Be short.<|user|>1+1?")


def test_the_clients_stream_adds_up_to_the_message(client, llm):
    llm.engine.cached = 4
    whole = client.messages.create(**ASKED)
    with client.messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == ANSWER
    assert message.content[0].thinking == THOUGHT
    assert message.usage == whole.usage
    assert message.stop_reason == "end_turn"


def test_events_come_in_anthropics_order(site):
    response = site.client.post(PATH, json={**ASKED, "stream": True})
    events = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    kinds = [event["type"] for event in events]
    assert [k for i, k in enumerate(kinds) if not i or k != kinds[i - 1]] == [
        "message_start",
        "ping",
        *["content_block_start", "content_block_delta", "content_block_stop"] * 2,
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []


@pytest.mark.parametrize(
    ("asked", "reason", "sequence"),
    [
        ({"max_tokens": 5}, "max_tokens", None),
        ({"stop_sequences": ["sée", "zzz"]}, "stop_sequence", "sée"),
        ({}, "end_turn", None),
    ],
)
def test_a_message_says_why_it_ended(client, asked, reason, sequence):
    message = client.messages.create(**ASKED | asked)
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
    with client.messages.stream(**ASKED | asked) as stream:
        message = stream.get_final_message()
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


def test_thinking_can_be_switched_off(client, llm):
    llm.engine.text = ANSWER
    message = client.messages.create(**ASKED, thinking={"type": "disabled"})
    assert [block.type for block in message.content] == ["text"]


def test_a_message_can_be_sent_back_as_it_came(client, llm):
    first = client.messages.create(**ASKED)
    again = [USER, {"role": "assistant", "content": first.content}]
    again.append({"role": "user", "content": "Why?"})
    client.messages.create(**ASKED | {"messages": again})
    prompt = llm.tokenizer.decode(llm.engine.prompts[1], skip_special=False)
    said = f"<bos><|user|>1+1?<|assistant|>{ANSWER}<|user|>Why?"
    assert prompt.startswith(said)


def test_tokens_are_counted_as_they_are_charged(client, llm):
    asked = {"model": "recital", "messages": [USER], "system": "Be short."}
    counted = client.messages.count_tokens(**asked)
    message = client.messages.create(**asked, max_tokens=1)
    assert counted.input_tokens == message.usage.input_tokens
    long = {"role": "user", "content": "x" * 999}
    counted = client.messages.count_tokens(model="recital", messages=[long])
    assert counted.input_tokens > 999


def test_errors_become_the_clients_own(client, serve, llm):
    with pytest.raises(anthropic.BadRequestError) as bad:
        client.messages.create(**ASKED | {"messages": []})
    assert bad.value.body["type"] == "error"
    assert bad.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**ASKED | {"model": "claude"})
    assert missing.value.body["error"]["type"] == "not_found_error"
    with serve(llm, api_keys=["k"], max_body_bytes=1000) as site:
        with (
            anthropic.Anthropic(base_url=site.url, api_key="x") as stranger,
            pytest.raises(anthropic.AuthenticationError) as stopped,
        ):
            stranger.messages.create(**ASKED)
        assert stopped.value.body["error"]["type"] == "authentication_error"
        with anthropic.Anthropic(base_url=site.url, api_key="k") as friend:
            assert friend.messages.create(**ASKED).content
            long = [{"role": "user", "content": "x" * 1000}]
            with pytest.raises(anthropic.APIStatusError) as large:
                friend.messages.create(**ASKED | {"messages": long})
    assert large.value.status_code == 413
    assert large.value.body["error"]["type"] == "request_too_large"


@pytest.mark.parametrize(
    ("status", "kind"), [(404, "not_found_error"), (405, "invalid_request_error")]
)
def test_paths_and_methods_that_are_not_there_are_told_in_the_same_shape(
    door, status, kind
):
    path = PATH if status == 405 else "/v3/messages"
    response = door.client.get(path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == kind


def test_an_engine_that_fails_in_mid_answer_is_the_clients_error(client, llm):
    llm.engine.pace = 0.01
    with client.messages.stream(**ASKED) as stream:
        next(event for event in stream if event.type == "content_block_delta")
        llm.engine.failure = "out of memory"
        with pytest.raises(anthropic.APIStatusError, match="out of memory"):
            list(stream)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "the type 'image'",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "thinking", "thinking": ""}]}
                ]
            },
            "block of type 'thinking'",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 200}}, "budget_tokens"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"stop": ["x"]}, "stop"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"container": "x"}, "container"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
    ],
)
def test_what_does_not_work_is_refused_by_name(door, body, named):
    response = door.client.post(PATH, json=ASKED | body)
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]["message"]


def test_a_tools_use_is_a_block_of_its_own():
    shape, events = MessageShape("m"), []
    usage = Usage(7)
    for delta in (
        Delta(reasoning="Hm."),
        Delta(tool_calls=(ToolDelta(0, "call_1", "add", '{"a"'),)),
        Delta(tool_calls=(ToolDelta(0, arguments=": 1}"),)),
        Delta(tool_calls=(ToolDelta(1, "call_2", "now", "{}"),), finish="tool_calls"),
    ):
        events += shape.events(delta, usage)
    events += shape.end(usage)
    body = shape.body(usage)
    assert body["content"][1:] == [
        {"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 1}},
        {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
    ]
    assert body["stop_reason"] == "tool_use"
    pieces = [e["delta"] for e in events if e.get("index") == 1 and "delta" in e]
    assert pieces == [
        {"type": "input_json_delta", "partial_json": '{"a"'},
        {"type": "input_json_delta", "partial_json": ": 1}"},
    ]
    start = next(e for e in events if e.get("index") == 1)
    assert start["content_block"]["input"] == {}


def test_a_last_turn_of_the_assistant_is_gone_on_with():
    turns = [USER, {"role": "assistant", "content": "It"}]
    body = MessageRequest.parse(ASKED | {"messages": turns}).chat_body()
    assert body["continue_final_message"] is True
    assert body["messages"][-1]["content"] == "It"


def test_blocks_become_the_turns_of_a_chat():
    request = MessageRequest.parse(
        {
            "system": [
                {"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "B"},
            ],
            "messages": [
                {"role": "user", "content": "1+1?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": ""},
                        {"type": "text", "text": "Wait."},
                        {
                            "type": "tool_use",
                            "id": "c",
                            "name": "add",
                            "input": {"a": 1},
                        },
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c", "content": "2"},
                        {"type": "tool_result", "tool_use_id": "d", "is_error": True},
                        {"type": "text", "text": "Go on."},
                    ],
                },
            ],
            "max_tokens": 9,
            "stop_sequences": ["x"],
            "thinking": {"type": "enabled", "budget_tokens": 5},
            "tools": [{"name": "add", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "output_config": {
                "effort": "low",
                "format": {"type": "json_schema", "schema": {"type": "null"}},
            },
            "metadata": {"user_id": "me"},
        }
    )
    function = {"name": "add", "arguments": '{"a":1}'}
    assert request.chat_body() == {
        "messages": [
            {"role": "system", "content": "A\nB"},
            {"role": "user", "content": "1+1?"},
            {
                "role": "assistant",
                "content": "Wait.",
                "reasoning_content": "Hm.",
                "tool_calls": [{"id": "c", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "2"},
            {"role": "tool", "tool_call_id": "d", "content": "Error: "},
            {"role": "user", "content": "Go on."},
        ],
        "chat_template_kwargs": {},
        "thinking": {"type": "enabled"},
        "thinking_token_budget": 5,
        "tools": [
            {
                "type": "function",
                "function": {"name": "add", "parameters": {"type": "object"}},
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "output",
                "schema": {"type": "null"},
                "strict": True,
            },
        },
        "max_tokens": 9,
        "stop": ["x"],
        "stream": False,
    }
