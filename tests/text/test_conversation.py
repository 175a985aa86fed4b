"""Conversations with tools, and answers to be gone on with, as prompts."""

import json

import pytest

from r1jax.errors import TextError
from r1jax.text import ChatTemplate, Tokenizer, conversation, prompts
from r1jax.text.tool_formats import HERMES, R1
from r1jax.text.tools import Tool, Toolbox

ASK = {"role": "user", "content": "Is it wet in Bergen or Lima?"}
MARKS = ["r1", "qwen", "llama", "0528", "v3"]
ANSWER_EOS = "<｜end▁of▁sentence｜>"


def call(city, **more):
    function = {"name": "sky", "arguments": json.dumps({"city": city})}
    return {"id": f"call_{city}", "type": "function", "function": function, **more}


def calls(*cities, content=None):
    made = [call(city) for city in cities]
    return {"role": "assistant", "content": content, "tool_calls": made}


def result(text):
    return {"role": "tool", "tool_call_id": "call_x", "content": text}


def written(*cities):
    return R1.write([("sky", json.dumps({"city": city})) for city in cities])


def outputs(*texts, parted=""):
    inner = parted.join(
        f"<｜tool▁output▁begin｜>{text}<｜tool▁output▁end｜>" for text in texts
    )
    return f"<｜tool▁outputs▁begin｜>{inner}<｜tool▁outputs▁end｜>"


@pytest.mark.parametrize("name", MARKS)
def test_what_official_templates_get_right_is_rendered_as_they_do(real, name):
    tokenizer = real(name)
    turns = [ASK, calls("Bergen", "Lima"), result("rain"), result("fog")]
    given = [
        {key: turn[key] for key in turn if key != "tool_call_id"} for turn in turns
    ]
    theirs = tokenizer.render_chat(given)
    assert conversation.render(tokenizer, turns) == (theirs, True)


@pytest.mark.parametrize("name", MARKS)
def test_one_call_and_a_second_round_are_closed_and_marked(real, name):
    tokenizer = real(name)
    turns = [ASK, calls("Bergen"), result("rain"), calls("Lima"), result("fog")]
    text, inside = conversation.render(tokenizer, turns)
    answer = text.partition("<｜Assistant｜>")[2]
    assert answer == (
        written("Bergen") + ANSWER_EOS + outputs("rain")
        + written("Lima") + ANSWER_EOS + outputs("fog")
    )  # fmt: skip
    assert inside


@pytest.mark.parametrize("name", MARKS)
def test_a_round_that_is_over_stays_one_answer(real, name):
    tokenizer = real(name)
    said = {"role": "assistant", "content": "<think>x</think>Only in Bergen."}
    turns = [ASK, calls("Bergen", content="Wait."), result("a </think> b"), said]
    turns += [{"role": "user", "content": "Thanks"}]
    text, inside = conversation.render(tokenizer, turns)
    assert not inside
    middle = text.partition("<｜Assistant｜>")[2].partition("<｜User｜>")[0]
    whole = "Wait." + written("Bergen") + ANSWER_EOS + outputs("a </think> b")
    assert middle == whole + "Only in Bergen." + ANSWER_EOS


@pytest.mark.parametrize("name", ["r1", "qwen", "llama"])
def test_after_results_the_model_thinks_or_answers_as_it_is_told(real, name):
    turns = [ASK, calls("Bergen"), result("rain")]
    text, thinking = prompts.render(real(name), turns, True, {})
    assert text.endswith("<｜tool▁outputs▁end｜><think>\n")
    assert thinking is True
    text, thinking = prompts.render(real(name), turns, False, {})
    assert text.endswith("<｜tool▁outputs▁end｜><think>\n\n</think>\n\n")
    assert thinking is False


@pytest.mark.parametrize("name", ["r1", "qwen"])
def test_tools_are_described_in_the_system_text(real, name):
    toolbox = Toolbox((Tool("sky", "Tells the weather.", {"properties": {}}),))
    system = {"role": "system", "content": "Be short."}
    text, _ = conversation.render(real(name), [system, ASK], toolbox)
    before = text.partition("<｜User｜>")[0]
    assert "Be short." in before
    assert "Tells the weather." in before
    assert R1.write([("NAME", "ARGUMENTS")]) in before


def with_template(tiny, source):
    template = ChatTemplate(source, "<bos>", "<eos>")
    return Tokenizer(
        tiny._vocabulary, bos_id=tiny.bos_id, eos_id=tiny.eos_id, chat_template=template
    )


def test_other_models_are_shown_calls_and_results_as_text(tiny):
    turns = [ASK, calls("Bergen", content="Wait."), result("rain"), result("fog")]
    toolbox = Toolbox((Tool("sky"),))
    text, inside = conversation.render(tiny, turns, toolbox)
    assert not inside
    assert text.startswith("<system># Functions")
    assert "<assistant>Wait.\n<tool_call>\n" in text
    assert text.endswith(
        "<user><tool_response>\nrain\n</tool_response>\n"
        "<tool_response>\nfog\n</tool_response>"
    )


def test_a_template_that_describes_tools_itself_is_left_to_it(tiny):
    source = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
        "<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
        "{{ c.function.arguments.city }}{% endfor %}{% endfor %}"
    )
    tokenizer = with_template(tiny, source)
    turns = [ASK, calls("Bergen"), result("rain")]
    text, _ = conversation.render(tokenizer, turns, Toolbox((Tool("sky", "Tells."),)))
    assert "# Functions" not in text
    assert "Tells." in text
    assert "<tool_call>Bergen" in text
    assert text.endswith("<tool>rain")
    assert conversation.tool_format(tokenizer.chat_template) is HERMES


def answer(content="", **more):
    return {"role": "assistant", "content": content, **more}


@pytest.mark.parametrize("name", ["r1", "qwen", "0528"])
@pytest.mark.parametrize(
    ("last", "ending", "thinking"),
    [
        (answer("It is"), "<think>\n\n</think>\n\nIt is", False),
        (answer("", reasoning_content="So"), "<think>\nSo", True),
        (
            answer("It is", reasoning_content="So"),
            "<think>\nSo\n</think>\n\nIt is",
            False,
        ),
        (answer(""), "<think>\n", True),
        (answer(" a </think> b "), "<think>\n\n</think>\n\n a </think> b ", False),
    ],
)
def test_an_answer_that_is_begun_is_gone_on_with(real, name, last, ending, thinking):
    got = prompts.render(real(name), [ASK, last], True, {}, continues=True)
    question = real(name).bos_id
    bos = real(name).decode([question], skip_special=False)
    begin = f"{bos}<｜User｜>{ASK['content']}<｜Assistant｜>"
    assert got == (begin + ending, thinking)


def test_an_answer_after_results_is_gone_on_with(real):
    turns = [ASK, calls("Bergen"), result("rain"), answer("Yes")]
    text, _ = prompts.render(real("r1"), turns, True, {}, continues=True)
    assert text.endswith(outputs("rain") + "<think>\n\n</think>\n\nYes")


def test_without_a_generation_prompt_no_answer_is_opened(real):
    variables = {"add_generation_prompt": False}
    text, thinking = prompts.render(real("r1"), [ASK], True, variables)
    assert text.endswith(ASK["content"])
    assert thinking is False


def test_a_template_that_does_not_show_answers_says_so(tiny):
    tokenizer = with_template(tiny, "{{ messages[0].content }}")
    with pytest.raises(TextError, match="as it is"):
        prompts.render(tokenizer, [ASK, answer("It")], None, {}, continues=True)
