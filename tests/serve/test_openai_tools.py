"""OpenAI's own Python client, unmodified: tools, parsed answers, thoughts."""

import json

import openai
import pytest
from pydantic import BaseModel

from r1jax.text.tool_formats import HERMES

ASK = [{"role": "user", "content": "Is it wet in Bergen?"}]


class Weather(BaseModel):
    """How it is somewhere."""

    wet: bool
    celsius: int | None


@pytest.fixture
def client(site, llm):
    llm.engine.max_model_len = 4096
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def test_an_answer_is_parsed_into_a_class(client):
    completion = client.chat.completions.parse(
        model="recital", messages=ASK, response_format=Weather, reasoning_effort="low"
    )
    assert isinstance(completion.choices[0].message.parsed, Weather)


def test_a_function_is_called_and_answered(client, llm):
    llm.engine.text = "</think>" + HERMES.write([("Weather", '{"wet": true}')])
    tool = openai.pydantic_function_tool(Weather)  # a strict one
    completion = client.chat.completions.parse(
        model="recital", messages=ASK, tools=[tool]
    )
    message = completion.choices[0].message
    (call,) = message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    llm.engine.text = "</think>It is."
    result = {"role": "tool", "tool_call_id": call.id, "content": "ok"}
    again = client.chat.completions.create(
        model="recital", messages=[*ASK, message, result], tools=[tool]
    )
    assert again.choices[0].message.content == "It is."


def test_a_streamed_call_is_put_together(client):
    tool = openai.pydantic_function_tool(Weather)
    named = {"type": "function", "function": {"name": "Weather"}}
    with client.chat.completions.stream(
        model="recital", messages=ASK, tools=[tool], tool_choice=named
    ) as stream:
        kinds = [event.type for event in stream]
        (choice,) = stream.get_final_completion().choices
    assert "tool_calls.function.arguments.done" in kinds
    (call,) = choice.message.tool_calls
    Weather.model_validate(json.loads(call.function.arguments))
    assert choice.finish_reason == "tool_calls"
