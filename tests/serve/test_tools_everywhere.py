"""Tools and forms asked for in OpenAI's newer shape and in Anthropic's."""

import json

import anthropic
import openai
import pytest

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["a"],
    "additionalProperties": False,
}
USER = {"role": "user", "content": "1+1?"}
OFF = {"chat_template_kwargs": {"thinking": False}}


@pytest.fixture(autouse=True)
def _room(llm):
    """Gives the model room for a prompt that describes tools."""
    llm.engine.max_model_len = 2048


@pytest.fixture
def openais(site):
    url = f"{site.url}/v1"
    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropics(site):
    with anthropic.Anthropic(base_url=site.url, api_key="x", max_retries=0) as client:
        yield client


def test_a_response_calls_the_tool_that_it_must(openais):
    tool = {"type": "function", "name": "add", "parameters": SCHEMA}
    asked = {"model": "recital", "tools": [tool], "tool_choice": "required"}
    asked |= {"parallel_tool_calls": False, "extra_body": OFF}
    response = openais.responses.create(**asked, input="1+1?")
    (call,) = (item for item in response.output if item.type == "function_call")
    assert call.name == "add"
    assert 0 <= json.loads(call.arguments)["a"] <= 99
    assert response.status == "completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "2"}
    items = [USER, *response.output, result]
    asked["tool_choice"] = "none"
    assert openais.responses.create(**asked, input=items).output_text
    again = openais.responses.create(
        **asked, previous_response_id=response.id, input=[result]
    )
    assert again.output_text
    asked["tool_choice"] = {"type": "function", "name": "add"}
    with openais.responses.stream(**asked, input="1+1?") as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert any(item.type == "function_call" for item in final.output)


def test_a_response_has_the_form_that_it_must(openais):
    form = {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}
    response = openais.responses.create(
        model="recital", input="1+1?", text={"format": form}, extra_body=OFF
    )
    assert 0 <= json.loads(response.output_text)["a"] <= 99


def test_a_message_calls_the_tool_that_it_must(anthropics):
    asked = {
        "model": "recital",
        "max_tokens": 200,
        "tools": [{"name": "add", "input_schema": SCHEMA}],
        "thinking": {"type": "disabled"},
    }
    message = anthropics.messages.create(
        **asked,
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        messages=[USER],
    )
    assert message.stop_reason == "tool_use"
    (call,) = (block for block in message.content if block.type == "tool_use")
    assert 0 <= call.input["a"] <= 99
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "2"}
    turns = [
        USER,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    asked["tool_choice"] = {"type": "none"}
    assert anthropics.messages.create(**asked, messages=turns).content
    asked["tool_choice"] = {"type": "tool", "name": "add"}
    with anthropics.messages.stream(**asked, messages=[USER]) as stream:
        final = stream.get_final_message()
    assert any(block.type == "tool_use" for block in final.content)


def test_a_message_goes_on_with_what_it_was_given(site, llm):
    turns = [USER, {"role": "assistant", "content": "It"}]
    body = {"messages": turns, "max_tokens": 200, "thinking": {"type": "disabled"}}
    assert site.client.post("/v1/messages", json=body).status_code == 200
    prompt = llm.tokenizer.decode(llm.engine.prompts[0], skip_special=False)
    assert prompt.endswith("It")


def test_thinking_stops_at_its_budget(anthropics):
    message = anthropics.messages.create(
        model="recital",
        max_tokens=200,
        messages=[USER],
        thinking={"type": "enabled", "budget_tokens": 5},
    )
    thought = next(block for block in message.content if block.type == "thinking")
    assert len(thought.thinking.encode()) <= 5


@pytest.mark.parametrize("needed", [True, False])
def test_a_call_that_is_required_without_tools_is_refused_everywhere(site, needed):
    message = {"role": "user", "content": "hi"}
    chosen = {"type": "function", "name": "add"}
    bodies = {
        "/v1/responses": {
            "input": "hi",
            "tool_choice": "required" if needed else chosen,
        },
        "/v1/messages": {
            "messages": [message],
            "max_tokens": 4,
            "tool_choice": {"type": "any"} if needed else {"type": "tool", "name": "a"},
        },
    }
    for path, body in bodies.items():
        answer = site.client.post(path, json=body)
        assert answer.status_code == 400, answer.text
        assert "tool_choice" in answer.text
