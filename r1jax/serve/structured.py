"""What a request says of the form that an answer must have.

OpenAI's `response_format` and vLLM's `structured_outputs` both become a grammar.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from r1jax.engine.types import SamplingParams
from r1jax.errors import RequestError
from r1jax.serve.errors import ApiError, bad_request, missing
from r1jax.text import grammar

_STRICT = ConfigDict(extra="forbid", strict=True, populate_by_name=False)
MAX_DEPTH = 64  # of arrays and objects in a schema


@dataclass(frozen=True)
class Form:
    """What an answer must fit.

    Attributes:
      source: The grammar.
      param: The parameter that asked for it.
      rule: The same as a rule for use in another grammar, where it is JSON.
      description: What the request says that it is for.
    """

    source: str
    param: str
    rule: str | None = None
    description: str | None = None


class JsonSchema(BaseModel):
    """OpenAI's named schema; answers fit it with `strict` and without."""

    model_config = _STRICT

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    model_config = _STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`: one of its fields."""

    model_config = _STRICT

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1)
    grammar: str | None = None


def form_of(
    response_format: ResponseFormat | None, outputs: StructuredOutputs | None
) -> Form | None:
    """Gives the form that a request asks for, if any.

    Raises:
      ApiError: 400, there are two, or one cannot be read.
    """
    if response_format is not None and response_format.type == "text":
        response_format = None
    if response_format is None:
        return None if outputs is None else _outputs_form(outputs)
    if outputs is not None:
        raise _two("'response_format' and 'structured_outputs'", "structured_outputs")
    named = response_format.json_schema
    if response_format.type == "json_object":
        return _json({"type": "object"}, "response_format")
    if named is None:
        raise missing("response_format.json_schema", "its type is 'json_schema'")
    schema = named.schema_ or {"type": "object"}
    param = "response_format.json_schema.schema"
    return _json(schema, param, named.description)


def _outputs_form(outputs: StructuredOutputs) -> Form | None:
    given = [name for name in type(outputs).model_fields if _asks(outputs, name)]
    if not given:
        return None
    if len(given) > 1:
        raise _two(
            " and ".join(name.strip("_") for name in given), "structured_outputs"
        )
    param = f"structured_outputs.{given[0].strip('_')}"
    if outputs.json_object:
        return _json({"type": "object"}, param)
    if outputs.json_ is not None:
        return _json(_parsed(outputs.json_, param), param)
    try:
        if outputs.regex is not None:
            return Form(grammar.regex(outputs.regex), param)
        if outputs.choice is not None:
            return Form(grammar.choice(outputs.choice), param)
        return Form(grammar.lark(outputs.grammar or ""), param)
    except RequestError as error:
        raise refused(error, param) from error


def _asks(outputs: StructuredOutputs, name: str) -> bool:
    return getattr(outputs, name) not in (None, False)


def _parsed(schema: dict[str, Any] | str, param: str) -> dict[str, Any]:
    """Reads a schema that may have been sent as JSON text."""
    try:
        value = json.loads(schema) if isinstance(schema, str) else schema
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise bad_request(
            f"'{param}' is not a JSON object",
            "a schema is one, as it is or as text",
            "send a JSON schema",
            param,
            "invalid_value",
        )
    return value


def _json(schema: dict[str, Any], param: str, description: str | None = None) -> Form:
    check_depth(schema, param)
    rule = grammar.json_rule(schema)
    return Form(f"start: {rule}", param, rule, description)


def check_depth(value: object, param: str) -> None:
    """Refuses a schema that is nested deeper than any real one.

    Raises:
      ApiError: 400.
    """
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise bad_request(
                f"'{param}' is nested more than {MAX_DEPTH} deep",
                "the work that a schema makes grows with its depth",
                "use '$defs' and '$ref'",
                param,
                "invalid_value",
            )
        level = [inner for outer in level for inner in _inside(outer)]


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def check_sampling(sampling: SamplingParams, bad_words: bool, param: str) -> None:
    """Refuses what would take from a grammar the tokens that it needs.

    Args:
      sampling: Of the request.
      bad_words: Whether it forbids words.
      param: What asked for the grammar.

    Raises:
      ApiError: 400.
    """
    asked = {
        "ignore_eos": sampling.ignore_eos,
        "min_tokens": sampling.min_tokens > 0,
        "allowed_token_ids": sampling.allowed_token_ids is not None,
        "bad_words": bad_words,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise bad_request(
                f"'{name}' together with '{param}'",
                "the answer's form alone decides what may come and when it ends",
                f"leave '{name}' out",
                name,
                "unsupported_parameter",
            )


def refused(error: RequestError, param: str) -> ApiError:
    """Makes the error of a form that cannot be used."""
    return bad_request(error.what, error.why, error.fix, param, "invalid_value")


def _two(which: str, param: str) -> ApiError:
    return bad_request(
        f"an answer cannot be held to {which}",
        "it has one form",
        "send one of them",
        param,
        "invalid_value",
    )
