"""OpenAI's responses, over its own client and by the events one by one."""

import json
from types import SimpleNamespace

import openai
import pytest

from r1jax.answer import Delta, ToolDelta
from r1jax.engine.types import SamplingParams
from r1jax.serve.errors import ApiError
from r1jax.serve.job import Usage
from r1jax.serve.response_request import ResponseRequest
from r1jax.serve.response_store import ResponseStore, Stored
from r1jax.serve.responses import ResponseShape

THOUGHT, ANSWER = "Ünë pénsée: 1+1 → 2.", "It is 2. 🎉 Done\n"
PATH = "/v1/responses"


@pytest.fixture
def client(site):
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def events_of(site, **body):
    response = site.client.post(PATH, json={"stream": True, "input": "1+1?", **body})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    return events


def test_a_response_has_thoughts_text_and_counts(client, llm):
    llm.engine.cached = 4
    response = client.responses.create(
        model="recital", input="1+1?", instructions="Be short.", metadata={"a": "b"}
    )
    assert response.output_text == ANSWER
    assert response.status == "completed"
    reasoning, message = response.output
    assert reasoning.type == "reasoning"
    assert reasoning.content[0].text == THOUGHT
    assert reasoning.summary == []
    assert message.content[0].annotations == []
    assert response.instructions == "Be short."
    assert response.metadata == {"a": "b"}
    assert response.temperature == 0.6
    usage = response.usage
    assert usage.input_tokens == len(llm.engine.prompts[0])
    assert usage.input_tokens_details.cached_tokens == 4
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens
    prompt = llm.tokenizer.decode(llm.engine.prompts[0], skip_special=False)
    assert prompt.startswith("<bos><|system|>Be short.<|user|>1+1?")


def test_the_clients_stream_adds_up_to_the_response(client):
    with client.responses.stream(model="recital", input="1+1?") as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert response.output_text == ANSWER
    assert response.output[0].content[0].text == THOUGHT
    assert kinds[-1] == "response.completed"


def test_events_come_in_openais_order(site):
    events = events_of(site)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert list(dict.fromkeys(kinds)) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_text.delta",
        "output_text.done",
        "completed",
    ]
    text = "".join(e["delta"] for e in events if e["type"].endswith("text.delta"))
    assert text == THOUGHT + ANSWER
    items = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert items == events[-1]["response"]["output"]
    for event in events[2:-1]:
        item = items[event["output_index"]]
        assert event.get("item_id", item["id"]) == item["id"]


def test_whole_and_streamed_are_the_same_response(site):
    whole = site.client.post(PATH, json={"input": "1+1?"}).json()
    streamed = events_of(site)[-1]["response"]
    for response in (whole, streamed):
        for part in (response, *response["output"]):
            assert part.pop("id")
        del response["created_at"], response["completed_at"]
    assert whole == streamed


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_cut_short_is_incomplete(site, stream):
    body = {"input": "a", "max_output_tokens": 40}
    if stream:
        last = events_of(site, **body)[-1]
        assert last["type"] == "response.incomplete"
        response = last["response"]
    else:
        response = site.client.post(PATH, json=body).json()
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == "incomplete"
    assert response["max_output_tokens"] == 40


def test_logprobs_come_with_the_text_where_asked_for(client, llm):
    response = client.responses.create(
        model="recital",
        input="a",
        include=["message.output_text.logprobs"],
        top_logprobs=1,
    )
    entries = response.output[1].content[0].logprobs
    assert "".join(entry.token for entry in entries[2:5]) == "It "
    assert entries[0].top_logprobs[0].logprob == -0.5


def test_no_logprob_of_half_a_character_is_lost(client, llm):
    llm.engine.text = "</think>🎉!"
    response = client.responses.create(model="recital", input="a", top_logprobs=1)
    entries = response.output[-1].content[0].logprobs
    assert bytes(b for entry in entries for b in entry.bytes) == "🎉!<eos>".encode()


def test_a_conversation_goes_on_from_a_response(client, llm):
    first = client.responses.create(
        model="recital", input="1+1?", instructions="Be short."
    )
    client.responses.create(
        model="recital", input="Why?", previous_response_id=first.id
    )
    prompt = llm.tokenizer.decode(llm.engine.prompts[1], skip_special=False)
    said = f"<bos><|user|>1+1?<|assistant|>{ANSWER}<|user|>Why?"
    assert prompt.startswith(said)
    assert client.responses.retrieve(first.id).output == first.output
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(first.id)
    client.responses.delete(first.id)
    for act in (
        client.responses.retrieve,
        client.responses.delete,
        client.responses.cancel,
        lambda name: client.responses.create(
            model="recital", input="a", previous_response_id=name
        ),
    ):
        with pytest.raises(openai.NotFoundError, match="no response"):
            act(first.id)


def test_the_output_can_be_sent_back_as_input(client, llm):
    first = client.responses.create(model="recital", input="1+1?")
    user = {"role": "user", "content": [{"type": "input_text", "text": "1+1?"}]}
    again = [user, *first.output, {"role": "user", "content": "Why?"}]
    client.responses.create(model="recital", input=again)
    prompt = llm.tokenizer.decode(llm.engine.prompts[1], skip_special=False)
    said = f"<bos><|user|>1+1?<|assistant|>{ANSWER}<|user|>Why?"
    assert prompt.startswith(said)


def test_a_response_not_to_be_stored_is_not(client):
    response = client.responses.create(model="recital", input="a", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_sampling_parameters_reach_the_engine(site, llm):
    asked = {"temperature": 0, "top_p": 0.5, "seed": 4, "min_tokens": 3, "top_k": 2}
    site.client.post(PATH, json={"input": "a", **asked})
    (params,) = llm.engine.samplings
    assert {name: getattr(params, name) for name in asked} == asked


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].message.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        ({"input": "x" * 300}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "c"}, "conversation"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"inputs": "x"}, "inputs"),
    ],
)
def test_what_does_not_work_is_refused_by_name(door, body, param):
    response = door.client.post(PATH, json={"input": "a", **body})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_an_engine_that_fails_in_mid_answer_ends_the_stream_with_why(site, llm):
    llm.engine.pace = 0.01
    body = {"input": "a", "stream": True}
    with site.client.stream("POST", PATH, json=body) as response:
        lines = response.iter_lines()
        next(line for line in lines if "reasoning_text.delta" in line)
        llm.engine.failure = "out of memory"
        *_, said, failed = (line for line in lines if line.startswith("data: "))
    assert "out of memory" in json.loads(said.removeprefix("data: "))["message"]
    failed = json.loads(failed.removeprefix("data: "))
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"


def follow(tokenizer, *deltas):
    """Writes deltas as a response: its events, and what was to be kept."""
    request = ResponseRequest.parse({"input": "a"})
    kept = []
    choice = SimpleNamespace(sampling=SamplingParams())
    shape = ResponseShape(tokenizer, "m", request, choice, lambda *it: kept.append(it))
    events = shape.start()
    for delta in deltas:
        events += shape.events(delta, Usage(1))
    return events + shape.end(Usage(1)), kept[0][1]


def test_calls_of_tools_are_items_of_their_own(tokenizer):
    events, said = follow(
        tokenizer,
        Delta(reasoning="Hm."),
        Delta(content="Let me see."),
        Delta(tool_calls=(ToolDelta(0, "call_1", "add", '{"a"'),)),
        Delta(tool_calls=(ToolDelta(0, arguments=": 1}"),)),
        Delta(tool_calls=(ToolDelta(1, "call_2", "now", "{}"),), finish="tool_calls"),
    )
    response = events[-1]["response"]
    assert response["status"] == "completed"
    _, _, add, now = response["output"]
    assert (add["call_id"], add["name"], add["arguments"]) == (
        "call_1",
        "add",
        '{"a": 1}',
    )
    assert (now["call_id"], now["name"], now["arguments"]) == ("call_2", "now", "{}")
    assert {item["status"] for item in response["output"]} == {"completed"}
    about = [e for e in events if e.get("output_index") == 2]
    assert [e["type"].removeprefix("response.") for e in about] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert about[3]["arguments"] == '{"a": 1}'
    assert (
        about[0]["item"]["arguments"] == '{"a"' or about[0]["item"]["arguments"] == ""
    )
    assert said["content"] == "Let me see."
    assert [call["id"] for call in said["tool_calls"]] == ["call_1", "call_2"]


def test_items_become_the_turns_of_a_chat():
    request = ResponseRequest.parse(
        {
            "instructions": "Add.",
            "input": [
                {"role": "developer", "content": "Use tools."},
                {"role": "user", "content": [{"type": "input_text", "text": "1+1?"}]},
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": "Hm."}],
                    "encrypted_content": None,
                },
                {
                    "type": "function_call",
                    "call_id": "c1",
                    "name": "add",
                    "arguments": "{}",
                },
                {
                    "type": "function_call",
                    "call_id": "c2",
                    "name": "now",
                    "arguments": "{}",
                },
                {"type": "function_call_output", "call_id": "c1", "output": "2"},
                {"role": "assistant", "content": "Two."},
                {"role": "assistant", "content": "Or not."},
            ],
            "tools": [
                {"type": "function", "name": "add", "parameters": {"type": "object"}}
            ],
            "tool_choice": {"type": "function", "name": "add"},
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "n",
                    "schema": {"type": "null"},
                }
            },
            "reasoning": {"effort": "low", "summary": "auto"},
            "max_output_tokens": 9,
            "temperature": 0.5,
        }
    )

    def call(number, name):
        function = {"name": name, "arguments": "{}"}
        return {"id": number, "type": "function", "function": function}

    assert request.chat_body([{"role": "user", "content": "Hi"}]) == {
        "messages": [
            {"role": "system", "content": "Add."},
            {"role": "user", "content": "Hi"},
            {"role": "developer", "content": "Use tools."},
            {"role": "user", "content": "1+1?"},
            {
                "role": "assistant",
                "reasoning_content": "Hm.",
                "content": None,
                "tool_calls": [call("c1", "add"), call("c2", "now")],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "assistant", "content": "Two."},
            {"role": "assistant", "content": "Or not."},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "add", "parameters": {"type": "object"}},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "null"}},
        },
        "reasoning_effort": "low",
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "chat_template_kwargs": {},
        "stream": False,
    }


def test_the_store_forgets_what_was_used_longest_ago():
    store = ResponseStore(count=2)
    for name in ("a", "b"):
        store.put(Stored({"id": name}, []))
    store.get("a")
    store.put(Stored({"id": "c"}, []))
    with pytest.raises(ApiError, match="no response 'b'"):
        store.get("b")
    assert store.get("a").body == {"id": "a"}
    small = ResponseStore(size=100)
    small.put(Stored({"id": "a"}, [{"content": "x" * 60}]))
    small.put(Stored({"id": "b"}, [{"content": "x" * 60}]))
    small.put(Stored({"id": "huge"}, [{"content": "x" * 1000}]))
    for name in ("a", "b", "huge"):
        with pytest.raises(ApiError):
            small.get(name)
    small.put(Stored({"id": "a"}, []))
    small.delete("a")
    with pytest.raises(ApiError):
        small.get("a")
