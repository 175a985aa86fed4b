"""Answers in a form: the whole way from a request's parameters to its answer."""

import json
import re

import jsonschema
import pytest

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "1+1?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "sum": {"type": "integer", "maximum": 9},
        "sure": {"type": "boolean"},
    },
    "required": ["sum", "sure"],
    "additionalProperties": False,
}


def named(schema, **more):
    return {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": schema, **more},
    }


OFF = {"thinking": {"type": "disabled"}}
FORMS = {
    "json_schema": {"response_format": named(SCHEMA, strict=True)},
    "json": {"structured_outputs": {"json": SCHEMA}},
    "json as text": {"structured_outputs": {"json": json.dumps(SCHEMA)}},
}


@pytest.mark.parametrize("switch", [{}, OFF], ids=["thinking", "not thinking"])
@pytest.mark.parametrize("form", FORMS)
def test_an_answer_fits_its_schema_after_any_thought(site, form, switch):
    choice = site.chat(**FORMS[form], **switch).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
    thought = choice["message"]["reasoning_content"]
    assert (thought is None) == bool(switch)


@pytest.mark.parametrize("asks", ["response_format", "structured_outputs"])
def test_any_json_object_may_be_asked_for(site, asks):
    form = {
        "response_format": {"type": "json_object"},
        "structured_outputs": {"json_object": True},
    }
    choice = site.chat(**{asks: form[asks]}, max_tokens=200).json()["choices"][0]
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"[0-9]{2}-[a-c]"}, r"[0-9]{2}-[a-c]"),
        ({"choice": ["yes", "no: «ü»"]}, "yes|no: «ü»"),
        ({"grammar": 'start: "x" | "yz"'}, "x|yz"),
        ({"grammar": 'root ::= "x" [0-3]'}, "x[0-3]"),
    ],
)
def test_other_forms(site, form, pattern):
    choice = site.chat(structured_outputs=form).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert re.fullmatch(pattern, choice["message"]["content"])


def test_a_tag_that_a_form_asks_for_is_part_of_the_answer(site):
    form = {"structured_outputs": {"choice": ["<think>4"]}}
    message = site.chat(**form, **OFF).json()["choices"][0]["message"]
    assert message["content"] == "<think>4"
    assert message["reasoning_content"] is None
    message = site.chat(**form).json()["choices"][0]["message"]
    assert message["content"] == "<think>4"


def test_each_choice_follows_a_guide_of_its_own(site, llm):
    choices = site.chat(n=3, seed=1, structured_outputs={"choice": ["aa", "ab"]})
    for choice in choices.json()["choices"]:
        assert choice["message"]["content"] in ("aa", "ab")


def test_a_description_is_told_to_the_model(site, llm):
    site.chat(response_format=named(SCHEMA, description="A sum and its certainty"))
    prompt = llm.tokenizer.decode(llm.engine.prompts[-1], skip_special=False)
    assert "<|system|>A sum and its certainty<|user|>" in prompt


def test_the_streamed_answer_fits_too(site):
    body = {"messages": MESSAGES, "response_format": named(SCHEMA)}
    text = "".join(
        event["choices"][0]["delta"].get("content", "")
        for event in site.events(CHAT, **body)
    )
    jsonschema.validate(json.loads(text), SCHEMA)


def deep(depth):
    schema: dict = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


REFUSED = [
    ({"response_format": named({"type": "strnig"})}, "schema", "strnig"),
    ({"response_format": named(deep(100))}, "schema", "64 deep"),
    ({"response_format": {"type": "json_schema"}}, "json_schema", "missing"),
    ({"response_format": named(SCHEMA, name="a b")}, "json_schema.name", "a b"),
    ({"structured_outputs": {"regex": "(["}}, "regex", "unclosed"),
    ({"structured_outputs": {"grammar": "start: x"}}, "grammar", "x"),
    ({"structured_outputs": {"grammar": "root ::= ("}}, "grammar", "Expected"),
    ({"structured_outputs": {"json": "[1"}}, "json", "object"),
    ({"structured_outputs": {"choice": []}}, "choice", ""),
    ({"structured_outputs": {"structural_tag": {}}}, "structural_tag", "unknown"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "", "one form"),
    (
        {"structured_outputs": {"regex": "a"}, "response_format": named(SCHEMA)},
        "structured_outputs",
        "one form",
    ),
    ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "ignore_eos", "form"),
    ({"guided_json": {}}, "guided_json", ""),
]


@pytest.mark.parametrize(("body", "param", "says"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name(door, body, param, says):
    response = door.chat(**body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert param in error["param"]
    assert says.lower() in error["message"].lower()


def test_an_answer_that_is_begun_cannot_be_held_to_a_form(door):
    begun = [*MESSAGES, {"role": "assistant", "content": "{", "prefix": True}]
    response = door.chat(messages=begun, response_format=named(SCHEMA))
    assert response.status_code == 400
    assert "begun" in response.json()["error"]["message"]


def test_a_null_or_text_format_asks_for_nothing(site, llm):
    for form in ({"response_format": {"type": "text"}}, {"structured_outputs": {}}):
        message = site.chat(**form).json()["choices"][0]["message"]
        assert message["content"].startswith("It is 2.")
