"""Whatever a model would say, what it may say fits the form that was asked for."""

import json
import re
import sys
import time

import jsonschema
import numpy as np
import pytest

from r1jax.errors import RequestError
from r1jax.text import grammar
from r1jax.text.grammar import Grammars
from r1jax.text.masks import TokenMasks
from text.babble import allowed, babble

PADDED = 330  # more than the tokenizer has, as models do

_TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 4},
                "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
            },
            "required": ["name", "next"],
            "additionalProperties": False,
        }
    },
}


def _closed(required=None, **properties):
    required = list(properties) if required is None else required
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_WORD = {"type": "string", "maxLength": 6}
SCHEMAS = {
    "any object": {"type": "object"},
    "anything": {},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "string": {"type": "string"},
    "short string": _WORD,
    "string of some length": {"type": "string", "minLength": 3, "maxLength": 5},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "unicode pattern": {"type": "string", "pattern": "^[äöü你好]{1,3}$"},
    "date": {"type": "string", "format": "date"},
    "date and time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "address": {"type": "string", "format": "ipv4"},
    "integer": {"type": "integer", "minimum": -7, "maximum": 1234},
    "open integer": {"type": "integer", "exclusiveMinimum": 9, "maximum": 99999},
    "number": {"type": "number", "minimum": 0.25, "maximum": 3.5},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    "enum": {"enum": ["red", "grün", "青", 7, None, True, {"a": [1]}]},
    "const": {"const": {"kind": "x", "of": [1, 2]}},
    "object": _closed(name=_WORD, age={"type": "integer", "maximum": 150}),
    "optional": _closed([], a={"type": "boolean"}, b=_WORD),
    "nested": _closed(a=_closed(b=_closed(c={"type": "boolean"}))),
    "array": {"type": "array", "items": {"type": "boolean"}, "maxItems": 4},
    "long array": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 6},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"type": "null"}],
        "items": False,
        "minItems": 2,
    },
    "map": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "some properties": {
        "type": "object",
        "additionalProperties": {"const": 1},
        "minProperties": 1,
        "maxProperties": 3,
    },
    "several types": {"type": ["boolean", "null", "array"], "items": {"enum": [1]}},
    "any of": {"anyOf": [_closed(a={"const": 1}), _closed(b={"const": 2})]},
    "apart": {"oneOf": [_closed(k={"const": "x"}), _closed(k={"const": "y"})]},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"enum": [1, 2]}}},
            {"required": ["a"], "additionalProperties": False, "properties": {"a": {}}},
        ]
    },
    "tree": _TREE,
    "array of objects": {"type": "array", "items": _closed(x=_WORD), "minItems": 1},
    "key to be escaped": _closed(**{'a "quoted"\nkey': {"type": "null"}}),
}


@pytest.fixture(scope="module")
def grammars(tiny) -> Grammars:
    return Grammars(TokenMasks(tiny, PADDED, tiny.eos_ids))


@pytest.fixture(scope="module")
def r1(real) -> Grammars:
    tokenizer = real("r1")
    return Grammars(TokenMasks(tokenizer, 129_280, tokenizer.eos_ids))


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_weights_answer_in_the_schema(grammars, name):
    schema, finished = SCHEMAS[name], 0
    for seed in range(6):
        guide = grammars.guide(grammar.json_schema(schema))
        said, finish = babble(guide, grammars.masks, seed)
        if finish == "stop":
            finished += 1
            value = json.loads(grammars.masks.tokenizer.decode(said))
            jsonschema.validate(value, schema)
    assert finished, "no answer came to its end"


def test_a_pattern_is_matched_as_a_whole(grammars):
    pattern = r"[a-f]{2}/\d{1,3}( x|y\.)"
    for seed in range(20):
        guide = grammars.guide(grammar.regex(pattern))
        said, finish = babble(guide, grammars.masks, seed)
        assert finish == "stop"
        assert re.fullmatch(pattern, grammars.masks.tokenizer.decode(said), re.ASCII)


def test_one_of_the_choices_is_made(grammars):
    texts = ["yes", 'no "never"', "é\n/\\", "你好", "yesterday"]
    heard = set()
    for seed in range(40):
        guide = grammars.guide(grammar.choice(texts))
        heard.add(
            grammars.masks.tokenizer.decode(babble(guide, grammars.masks, seed)[0])
        )
    assert heard == set(texts)


@pytest.mark.parametrize(
    "source",
    [
        'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]{1,2}/',
        'root ::= number ("+" number)*\nnumber ::= [0-9] [0-9]?',
    ],
)
def test_a_grammar_is_followed(grammars, source):
    for seed in range(10):
        guide = grammars.guide(grammar.lark(source))
        said, _ = babble(guide, grammars.masks, seed, likely=b"+")
        text = grammars.masks.tokenizer.decode(said)
        assert re.match(r"\d{1,2}(\+\d{1,2})*\+?$", text)


def test_white_space_has_an_end(grammars):
    guide = grammars.guide(grammar.json_schema({"type": "object"}))
    tokenizer = grammars.masks.tokenizer
    blanks = [tokenizer.token_id(letter) for letter in ("Ċ", "Ġ", "ĉ", "č")]
    guide.advance(tokenizer.encode("{")[0])
    said = 0
    while len(may := np.intersect1d(allowed(guide.mask(), PADDED), blanks)):
        guide.advance(int(may[-1]))
        said += 1
        assert said < 40


@pytest.mark.parametrize("blank", ["", " ", "\n    ", "\n\t"])
def test_the_usual_white_space_is_taken(grammars, blank):
    guide = grammars.guide(grammar.json_schema(_closed(a={"enum": [1]})))
    for token in grammars.masks.tokenizer.encode(f'{{{blank}"a":{blank}1{blank}}}'):
        assert token in allowed(guide.mask(), PADDED)
        guide.advance(token)
    assert set(allowed(guide.mask(), PADDED)) == grammars.masks.ends


def test_named_and_padding_tokens_never_come(grammars):
    tokenizer = grammars.masks.tokenizer
    guide = grammars.guide(grammar.json_schema({"type": "string"}))
    guide.advance(tokenizer.encode('"')[0])
    ids = set(allowed(guide.mask(), PADDED))
    assert len(ids) > 150  # all that can go on in UTF-8
    assert not ids & tokenizer.named_ids
    assert max(ids) < tokenizer.vocab_size


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (grammar.choice(["<think>ok"]), "<think>ok"),
        (grammar.json_schema({"const": "a</think><eos>"}), '"a</think><eos>"'),
        (grammar.json_schema({"const": "🙂\u2028é\0"}), '"🙂\u2028é\\u0000"'),
        (grammar.json_schema({"const": "<｜User｜>"}), '"<｜User｜>"'),
    ],
)
def test_marks_in_a_text_that_is_forced_are_spelled_out(grammars, r1, source, text):
    for model in (grammars, r1):
        guide, rng, said = model.guide(source), np.random.default_rng(0), []
        while True:
            token = int(rng.choice(allowed(guide.mask(), model.masks.size)))
            if token in model.masks.ends:
                break
            guide.advance(token)
            said.append(token)
        assert guide.failure is None
        assert not model.masks.tokenizer.named_ids.intersection(said)
        assert model.masks.tokenizer.decode(said) == text


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (grammar.json_schema({"type": "strnig"}), "strnig"),
        (grammar.json_schema({"not": {"type": "null"}}), 'Unimplemented keys: ["not"]'),
        (grammar.json_schema({"type": "string", "pattern": r"(a)\1"}), "backreference"),
        (grammar.json_schema({"type": "object", "properties": 3}), "properties"),
        (grammar.json_schema({"$ref": "https://example.org/x"}), "example.org"),
        (grammar.json_schema({"$ref": "#/$defs/none"}), "none"),
        (grammar.json_schema(False), "false"),
        (grammar.json_schema({"$ref": "#"}), "no text"),
        (grammar.regex("(["), "unclosed"),
        (grammar.lark("start: nowhere"), "nowhere"),
        (grammar.choice(["x" * 300_000]), "300"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(grammars, source, says):
    with pytest.raises(RequestError) as caught:
        grammars.guide(source, "'response_format'")
    assert "response_format" in caught.value.what
    assert says in caught.value.why


def test_a_malformed_gbnf_grammar_is_refused():
    with pytest.raises(RequestError, match="Expected"):
        grammar.lark('root ::= ("a"')


def _chain(length, link):
    nodes = {f"n{i}": link({"$ref": f"#/$defs/n{i + 1}"}) for i in range(length)}
    nodes[f"n{length}"] = {"type": "boolean"}
    return {"$ref": "#/$defs/n0", "$defs": nodes}


def _nested(depth):
    schema: object = {}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


HOSTILE = {
    "references, 7000 deep": lambda: _chain(7000, lambda next_: next_),
    "references in objects": lambda: _chain(900, lambda n: {"properties": {"a": n}}),
    "choices of references": lambda: _chain(
        900, lambda n: {"anyOf": [n, {"items": n}]}
    ),
    "an endless loop": lambda: _chain(1, lambda _: {"$ref": "#"}),
    "objects, 300 deep": lambda: _nested(300),
    "objects, 5000 deep": lambda: _nested(5000),
    "a large enum": lambda: {"enum": [f"value {i}" for i in range(8000)]},
    "many patterns": lambda: {
        "properties": {f"p{i}": {"pattern": "^[a-z]{1,50}$"} for i in range(1000)}
    },
    "a pattern of patterns": lambda: {"pattern": "(([a-z]{1,900}){1,900}x?){1,900}"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_costs_little(grammars, name):
    schema = HOSTILE[name]()
    start = time.monotonic()
    try:
        guide = grammars.guide(grammar.json_schema(schema))
    except RequestError:
        pass
    else:
        babble(guide, grammars.masks, 0, most=10)
    assert time.monotonic() - start < 10


def test_a_grammar_that_outgrows_its_limits_ends_the_answer(r1):
    guide = r1.guide(grammar.regex("(.*a.{500}b)|(.*c.{500}d)"))
    rng = np.random.default_rng(0)
    while guide.failure is None:
        guide.advance(int(rng.choice(allowed(guide.mask(), r1.masks.size))))
    assert set(allowed(guide.mask(), r1.masks.size)) == r1.masks.ends
    assert "too many" in guide.failure


def test_answers_of_one_grammar_do_not_disturb_each_other(grammars):
    source = grammar.choice(["left", "right"])
    one, other = grammars.guide(source), grammars.guide(source)
    one.advance(grammars.masks.tokenizer.encode("l")[0])
    assert len(allowed(other.mask(), PADDED)) > len(allowed(one.mask(), PADDED))


def test_a_mask_of_r1s_vocabulary_takes_little_time(r1):
    masks, tokenizer = r1.masks, r1.masks.tokenizer
    guide = r1.guide(grammar.json_schema(SCHEMAS["object"]))
    text = '{"name": "Zoë 你好", "age": 77}'
    took = []
    for token in tokenizer.encode(text):
        start = time.perf_counter()
        mask = guide.mask()
        took.append(time.perf_counter() - start)
        assert mask.shape == (4040,)
        assert token in allowed(mask, masks.size)
        guide.advance(token)
    assert set(allowed(guide.mask(), masks.size)) == masks.ends
    assert sorted(took)[len(took) // 2] < 0.005


def test_a_grammar_is_compiled_once(tiny):
    grammars = Grammars(TokenMasks(tiny, PADDED, tiny.eos_ids))
    hard = grammar.json_schema(HOSTILE["many patterns"]())
    took = []
    for _ in range(2):
        start = time.perf_counter()
        grammars.guide(hard)
        took.append(time.perf_counter() - start)
    assert took[1] < took[0] / 5


def test_without_llguidance_it_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    grammars = Grammars(TokenMasks(tiny, PADDED, tiny.eos_ids))
    with pytest.raises(RequestError, match="pip install"):
        grammars.guide(grammar.choice(["a"]))


def test_a_lark_grammar_may_hold_the_sign_of_another_notation():
    source = 'start: "a ::= b"'
    assert grammar.lark(source) == source
