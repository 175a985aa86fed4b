"""JSON schemas as they are meant: objects with the properties that are named."""

from collections.abc import Mapping
from typing import Any

# Where these come in, an object may get its properties from several schemas.
_JOINS = {"allOf", "not", "if", "dependentSchemas", "unevaluatedProperties"}
# And where one of the first stands beside one of the second.
_ALTERNATIVES = {"anyOf", "oneOf", "$ref", "$dynamicRef"}
_OBJECT = {"properties", "required"}
_OPEN = {"additionalProperties", "patternProperties", "propertyNames"}
_NAMED = {"properties", "$defs", "definitions"}  # schemas by name
_VALUES = {"const", "default", "enum", "example", "examples"}  # no schemas in these


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keeps objects to the properties that a schema names, unless it says otherwise.

    By the letter of JSON Schema any others may come, and weak models invent them. What
    fits the result fits the schema, too. A schema in which several are joined is left
    as it is.
    """
    return schema if _joins(schema) else _close(schema)


def _joins(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_joins, value))
    if not isinstance(value, dict):
        return False
    if not _JOINS.isdisjoint(value):
        return True
    if not (_ALTERNATIVES.isdisjoint(value) or _OBJECT.isdisjoint(value)):
        return True
    return any(map(_joins, value.values()))


def _close(value: Any) -> Any:
    if isinstance(value, list):
        return [_close(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    inside = {key: _close_under(key, inner) for key, inner in value.items()}
    names = value.get("properties")
    if not isinstance(names, Mapping) or not _OPEN.isdisjoint(value):
        return inside
    required = value.get("required", [])
    if not isinstance(required, list) or any(name not in names for name in required):
        return inside
    return {**inside, "additionalProperties": False}


def _close_under(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if key in _NAMED and isinstance(value, Mapping):
        return {name: _close(inner) for name, inner in value.items()}
    return _close(value)
