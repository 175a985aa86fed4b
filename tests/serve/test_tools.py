"""Tools over HTTP: offered, called, streamed, answered."""

import json

import jsonschema
import pytest

from r1jax.text.tool_formats import HERMES, R1

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "Is it wet in Bergen?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name, parameters=None, **more):
    function = {"name": name, "parameters": parameters, **more}
    return {"type": "function", "function": function}


def named(name):
    return {"type": "function", "function": {"name": name}}


TOOLS = [tool("sky", CITY, description="Tells the weather."), tool("now")]
CALL = HERMES.write([("sky", '{"city": "Lima"}')])


@pytest.fixture
def llm(llm):
    """A model with room for descriptions of tools."""
    llm.engine.max_model_len = 4096
    return llm


def ask(site, **body):
    response = site.chat(**{"messages": ASK, **body})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def streamed(site, **body):
    """Joins a stream to (content, calls as they would come whole, finish)."""
    content, calls, finish = "", [], None
    for event in site.events(CHAT, messages=ASK, **body):
        (choice,) = event["choices"]
        content += choice["delta"].get("content") or ""
        finish = choice["finish_reason"] or finish
        for piece in choice["delta"].get("tool_calls", ()):
            if "id" in piece:
                assert piece["index"] == len(calls)
                calls.append({key: piece[key] for key in ("id", "type")})
                calls[-1]["function"] = dict(piece["function"])
            else:
                added = piece["function"]["arguments"]
                calls[piece["index"]]["function"]["arguments"] += added
    return content, calls, finish


def test_a_call_comes_apart_from_thought_and_content(site, llm):
    llm.engine.text = f"Hm.\n</think>\n\nLet me see.\n\n{CALL}"
    choice = ask(site, tools=TOOLS)
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] == "Let me see."
    assert message["reasoning_content"] == "Hm."
    (call,) = message["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["type"] == "function"
    assert call["function"] == {"name": "sky", "arguments": '{"city": "Lima"}'}


def test_content_is_null_beside_calls_alone(site, llm):
    llm.engine.text = f"</think>{CALL}"
    assert ask(site, tools=TOOLS)["message"]["content"] is None


def test_a_streamed_call_is_that_of_the_whole(site, llm):
    llm.engine.text = f"Hm.\n</think>\n\nLet me see.\n\n{CALL}\n{CALL}"
    content, calls, finish = streamed(site, tools=TOOLS)
    whole = ask(site, tools=TOOLS)
    assert finish == whole["finish_reason"] == "tool_calls"
    assert content == whole["message"]["content"]
    without = [{**call, "id": ""} for call in calls]
    assert without == [{**call, "id": ""} for call in whole["message"]["tool_calls"]]


def test_marks_are_text_where_no_tools_are_offered(site, llm):
    llm.engine.text = f"</think>{CALL}"
    for body in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        choice = ask(site, **body)
        assert choice["message"]["content"] == CALL
        assert choice["finish_reason"] == "stop"


def test_tools_are_described_to_the_model_unless_none_may_be_called(site, llm):
    ask(site, tools=TOOLS)
    ask(site, tools=TOOLS, tool_choice="none")
    offered, withheld = (
        llm.tokenizer.decode(prompt, skip_special=False)
        for prompt in llm.engine.prompts
    )
    assert "Tells the weather." in offered
    assert "Tells the weather." not in withheld


@pytest.mark.parametrize("thinking", ["enabled", "disabled"])
@pytest.mark.parametrize("name", ["sky", "now"])
def test_a_named_function_is_called_whatever_the_model_would_say(site, name, thinking):
    choice = ask(
        site,
        tools=TOOLS,
        tool_choice=named(name),
        thinking={"type": thinking},
    )
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == name
    schema = CITY if name == "sky" else {"maxProperties": 0}
    jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"


def test_a_required_call_is_made_and_its_stream_has_no_text(site):
    content, calls, finish = streamed(site, tools=TOOLS, tool_choice="required")
    assert content == ""
    assert calls
    assert finish == "tool_calls"
    for call in calls:
        json.loads(call["function"]["arguments"])


def test_required_and_no_parallel_calls_make_exactly_one(site):
    choice = ask(site, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert len(choice["message"]["tool_calls"]) == 1


def test_without_parallel_calls_the_first_ends_the_answer(site, llm, eventually):
    llm.engine.text, llm.engine.pace = f"</think>{CALL}\n{CALL}", 0.001
    choice = ask(site, tools=TOOLS, parallel_tool_calls=False)
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    eventually(lambda: llm.engine.finished == ["abort"])


def test_strict_arguments_fit_their_schema_though_the_model_errs(site, llm):
    llm.engine.text = "</think>" + HERMES.write([("sky", '{"town": 3}')])
    loose = ask(site, tools=[tool("sky", CITY)])["message"]["tool_calls"][0]
    assert json.loads(loose["function"]["arguments"]) == {"town": 3}
    strict = ask(site, tools=[tool("sky", CITY, strict=True)])
    arguments = strict["message"]["tool_calls"][0]["function"]["arguments"]
    jsonschema.validate(json.loads(arguments), CITY)


def test_strict_tools_leave_an_answer_in_words_free(site, llm):
    choice = ask(site, tools=[tool("sky", CITY, strict=True)])
    assert choice["message"]["content"] == "It is 2. 🎉 Done\n"
    assert choice["finish_reason"] == "stop"


def test_with_a_schema_the_answer_is_a_call_or_fits_it(site, llm):
    form = {"structured_outputs": {"json": {"enum": ["yes"]}}}
    llm.engine.text = '</think>"yes"'
    assert ask(site, tools=TOOLS, **form)["message"]["content"] == '"yes"'
    llm.engine.text = f"</think>{CALL}"
    assert ask(site, tools=TOOLS, **form)["finish_reason"] == "tool_calls"


def test_a_call_cut_short_finishes_with_length(site, llm):
    llm.engine.text = f"</think>{CALL}"
    choice = ask(site, tools=TOOLS, max_tokens=50)
    assert choice["finish_reason"] == "length"
    arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert '{"city": "Lima"}'.startswith(arguments)


def test_a_call_and_its_result_can_be_sent_back(site, llm):
    llm.engine.text = f"</think>{CALL}"
    message = ask(site, tools=TOOLS)["message"]
    number = message["tool_calls"][0]["id"]
    result = {"role": "tool", "tool_call_id": number, "content": "fog"}
    llm.engine.text = "</think>It is foggy."
    choice = ask(site, tools=TOOLS, messages=[*ASK, message, result])
    assert choice["message"]["content"] == "It is foggy."
    prompt = llm.tokenizer.decode(llm.engine.prompts[-1], skip_special=False)
    assert CALL in prompt
    assert "<tool_response>\nfog\n</tool_response>" in prompt


def test_r1s_own_marks_are_used_where_the_template_has_them(site, llm, monkeypatch):
    source = llm.tokenizer.chat_template.source + "{# <｜tool▁calls▁begin｜> #}"
    template = type(llm.tokenizer.chat_template)(source, "<bos>", "<eos>")
    monkeypatch.setattr(llm.tokenizer, "chat_template", template)
    llm.engine.text = "</think>" + R1.write([("sky", '{"city": "Lima"}')])
    for choice in ({"tool_choice": "required"}, {}):
        call = ask(site, tools=TOOLS, **choice)["message"]["tool_calls"][0]
        assert call["function"] == {"name": "sky", "arguments": '{"city": "Lima"}'}


def result(number):
    return {"role": "tool", "tool_call_id": number, "content": "x"}


REFUSED = [
    ({"tools": [{"type": "search"}]}, "tools[0].type"),
    ({"tools": [tool("a b")]}, "tools[0].function.name"),
    ({"tools": [tool("a"), tool("a")]}, "tools"),
    ({"tools": [tool("a", {"type": 3})], "tool_choice": "required"}, "tools"),
    ({"tools": [tool("a", {"$ref": "#/x"}, strict=True)]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice"),
    (
        {
            "tools": TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "z"}},
        },
        "tool_choice",
    ),
    (
        {"tools": TOOLS, "structured_outputs": {"regex": "a"}},
        "structured_outputs.regex",
    ),
    ({"functions": [{}]}, "functions"),
    ({"messages": [*ASK, result("call_1")]}, "messages[1].tool_call_id"),
    (
        {"messages": [{"role": "user", "content": "x", "tool_call_id": "y"}]},
        "messages[0].tool_call_id",
    ),
]


@pytest.mark.parametrize(("body", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name(site, body, param):
    response = site.chat(**body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param)
