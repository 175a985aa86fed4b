"""A grammar makes any model call the tools it was given, rightly."""

import json

import jsonschema
import pytest

from r1jax.text.grammar import Grammars
from r1jax.text.masks import TokenMasks
from r1jax.text.tool_calls import ToolCallParser
from r1jax.text.tool_formats import HERMES, R1
from r1jax.text.tools import Tool, Toolbox
from text.babble import allowed, babble

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 5},
        "days": {"enum": [1, 2]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
SKY, NOW = Tool("sky", "Tells the weather.", CITY), Tool("now")
STRICT = Tool("sky", "Tells the weather.", CITY, strict=True)
FORMS = {"r1": R1, "hermes": HERMES}


@pytest.fixture(scope="module")
def grammars(tiny) -> Grammars:
    """Its tokenizer has no marks of tools: as with the distills they are text."""
    return Grammars(TokenMasks(tiny, 330, tiny.eos_ids))


@pytest.fixture(scope="module")
def r1(real) -> Grammars:
    tokenizer = real("r1")
    return Grammars(TokenMasks(tokenizer, 129_280, tokenizer.eos_ids))


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def parse(form, text):
    parser = ToolCallParser(form)
    (content, pieces), (rest, more) = parser.push(text), parser.flush()
    calls: dict[int, list[str]] = {}
    for piece in [*pieces, *more]:
        call = calls.setdefault(piece.index, [piece.name or "", ""])
        call[1] += piece.arguments
    return content + rest, [(name, json.loads(a)) for name, a in calls.values()]


def called(grammars, form, toolbox, seed):
    tokenizer = grammars.masks.tokenizer
    guide = grammars.guide(toolbox.grammar(form, tokenizer))
    said, finish = babble(guide, grammars.masks, seed, most=600)
    assert finish == "stop"
    return parse(form, tokenizer.decode(said))


def takes(grammars, form, toolbox, text):
    """Tells how many characters of a text a grammar allows, and whether it may end."""
    tokenizer, taken = grammars.masks.tokenizer, []
    guide = grammars.guide(toolbox.grammar(form, tokenizer))
    for token in tokenizer.encode(text):
        if token not in allowed(guide.mask(), grammars.masks.size):
            return len(tokenizer.decode(taken)), False
        guide.advance(token)
        taken.append(token)
    ids = allowed(guide.mask(), grammars.masks.size)
    return len(tokenizer.decode(taken)), not grammars.masks.ends.isdisjoint(ids)


def test_required_tools_are_called_and_nothing_else_is_said(grammars, form):
    names = set()
    for seed in range(12):
        content, calls = called(grammars, form, Toolbox((SKY, NOW), True), seed)
        assert content == ""
        assert 1 <= len(calls) <= 32
        for name, arguments in calls:
            jsonschema.validate(arguments, {"sky": SKY, "now": NOW}[name].schema())
            names.add(name)
    assert names == {"sky", "now"}


def test_without_parallel_calls_there_is_exactly_one(grammars, form):
    for seed in range(8):
        toolbox = Toolbox((SKY, NOW), True, parallel=False)
        assert len(called(grammars, form, toolbox, seed)[1]) == 1


def test_a_tool_without_parameters_is_called_without_any(grammars, form):
    assert called(grammars, form, Toolbox((NOW,), True, False), 0)[1] == [("now", {})]


def test_a_required_call_may_not_be_skipped(grammars, form):
    toolbox = Toolbox((SKY,), required=True)
    assert takes(grammars, form, toolbox, "Sorry") == (0, False)
    assert takes(grammars, form, toolbox, "") == (0, False)


def test_strict_tools_leave_text_free(grammars, form):
    toolbox = Toolbox((STRICT,))
    for text in ("", "No.", "a < b\n\n<tool"):
        assert takes(grammars, form, toolbox, text) == (len(text), True)


def test_strict_tools_hold_a_call_to_its_schema(grammars, form):
    toolbox = Toolbox((STRICT, NOW))
    right = form.write([("sky", '{"city": "Lima", "days": 2}'), ("now", "{}")])
    for before in ("", "I will look. "):
        text = before + right
        assert takes(grammars, form, toolbox, text) == (len(text), True)
    wrong = form.write([("sky", '{"city": "Lima", "days": 3}')])
    assert takes(grammars, form, toolbox, wrong) == (wrong.index("3"), False)
    other = form.write([("sly", "{}")])
    assert takes(grammars, form, toolbox, other)[0] < other.index("ly") + 1


def test_r1s_marks_are_tokens_where_it_has_them(r1):
    tokenizer = r1.masks.tokenizer
    for toolbox in (Toolbox((SKY,), True), Toolbox((STRICT,))):
        text = R1.write([("sky", '{"city": "Lima", "days": 2}')])
        assert tokenizer.token_id(R1.calls_begin) in tokenizer.encode(text)
        assert takes(r1, R1, toolbox, text) == (len(text), True)


def test_only_strict_or_required_tools_bind():
    assert not Toolbox((SKY, NOW)).binds
    assert Toolbox((SKY, STRICT)).binds
    assert Toolbox((SKY,), required=True).binds


def test_keywords_that_cannot_be_enforced_matter_to_strict_tools_only(grammars):
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    loose = Toolbox((Tool("f", None, schema),), required=True)
    grammars.guide(loose.grammar(HERMES, grammars.masks.tokenizer))


def test_the_instructions_tell_all_there_is_to_know(form):
    text = Toolbox((SKY, NOW)).instructions(form)
    for part in ("sky", "now", "Tells the weather.", '"city"', form.call_begin):
        assert part in text
    assert "at most one" in Toolbox((SKY,), parallel=False).instructions(form)
    assert "must" in Toolbox((SKY,), required=True).instructions(form)
