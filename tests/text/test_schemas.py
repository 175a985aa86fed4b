"""Objects are kept to the properties that a schema names."""

import pytest

from r1jax.text.schemas import closed

A = {"a": {"type": "integer"}}


def test_objects_are_closed_wherever_they_are():
    inner = {"type": "object", "properties": A}
    schema = {"properties": {"b": inner}, "$defs": {"x": {"anyOf": [inner, {}]}}}
    shut = {**inner, "additionalProperties": False}
    assert closed(schema) == {
        "properties": {"b": shut},
        "$defs": {"x": {"anyOf": [shut, {}]}},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"properties": A, "additionalProperties": True},
        {"properties": A, "additionalProperties": {"type": "null"}},
        {"properties": A, "patternProperties": {"^x": {}}},
        {"properties": A, "required": ["a", "b"]},
        {"properties": A, "anyOf": [{"required": ["b"]}, {"properties": {"c": {}}}]},
        {"properties": A, "$ref": "#/$defs/x", "$defs": {"x": {"required": ["b"]}}},
        {"allOf": [{"properties": A}, {"properties": {"b": {}}}]},
        {"enum": [{"properties": {"a": 1}}], "const": {"properties": {}}},
    ],
)
def test_what_may_have_others_is_left_as_it_is(schema):
    assert closed(schema) == schema


def test_a_property_may_have_the_name_of_a_keyword():
    schema = {"properties": {"properties": {"type": "string"}}}
    assert closed(schema) == {**schema, "additionalProperties": False}
