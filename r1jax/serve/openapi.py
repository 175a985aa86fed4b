"""The OpenAPI document: made of the models that read the requests."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import r1jax
from r1jax.serve import replies
from r1jax.serve.chat_request import ChatRequest
from r1jax.serve.completion_request import CompletionRequest
from r1jax.serve.message_request import MessageInput, MessageRequest
from r1jax.serve.protocol import HARMLESS, REFUSED, Body
from r1jax.serve.response_request import ResponseRequest
from r1jax.serve.tokens import DetokenizeRequest, TokenizeChat, TokenizeText

_REF = "#/components/schemas/"
_ERRORS = {
    400: "The request is wrong; the error names the parameter.",
    401: "The API key is missing or wrong.",
    404: "The model is not served here, or there is no such thing.",
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    500: "The server failed.",
    503: "The server is full, stops, or has failed; see Retry-After.",
}
_BODILESS = (401, 404, 500)
_NULL = {"type": "null"}
Schema = dict[str, Any]
Refs = Mapping[type[BaseModel], Schema]


@dataclass(frozen=True)
class _Operation:
    """One method of one path: what it takes and gives."""

    path: str
    summary: str
    reply: type[BaseModel] | None
    bodies: Sequence[type[Body]] = ()
    event: type[BaseModel] | None = None
    method: str = "post"
    error: type[BaseModel] = replies.Error


_OPERATIONS = (
    _Operation(
        "/chat/completions",
        "Answers a conversation",
        replies.ChatCompletion,
        [ChatRequest],
        replies.ChatCompletionChunk,
    ),
    _Operation(
        "/completions",
        "Continues a text",
        replies.TextCompletion,
        [CompletionRequest],
        replies.TextCompletion,
    ),
    _Operation(
        "/responses",
        "Answers with a response, OpenAI's newer shape",
        replies.Response,
        [ResponseRequest],
        replies.ResponseEvent,
    ),
    _Operation(
        "/responses/{id}", "Shows a kept response", replies.Response, method="get"
    ),
    _Operation(
        "/responses/{id}",
        "Forgets a kept response",
        replies.DeletedResponse,
        method="delete",
    ),
    _Operation(
        "/responses/{id}/cancel",
        "Tells that a kept response has ended already",
        None,
    ),
    _Operation(
        "/messages",
        "Answers with a message, Anthropic's shape",
        replies.MessageReply,
        [MessageRequest],
        replies.MessageEvent,
        error=replies.MessageError,
    ),
    _Operation(
        "/messages/count_tokens",
        "Counts the tokens of a message's prompt",
        replies.InputTokens,
        [MessageInput],
        error=replies.MessageError,
    ),
    _Operation(
        "/tokenize",
        "Turns text or messages into token ids",
        replies.Tokenized,
        [TokenizeText, TokenizeChat],
    ),
    _Operation(
        "/detokenize",
        "Turns token ids into text",
        replies.Detokenized,
        [DetokenizeRequest],
    ),
    _Operation(
        "/models", "Lists the names of the model", replies.ModelList, method="get"
    ),
    _Operation(
        "/models/{model}", "Describes one name", replies.ModelCard, method="get"
    ),
)


@functools.cache
def document(roots: tuple[str, ...], keyed: bool) -> dict[str, Any]:
    """Builds the document, once; it is for reading only.

    Args:
      roots: What the paths of the API may begin with; they mean the same.
      keyed: Whether the server asks for a key.
    """
    refs, schemas = _schemas()
    paths = dict(_about_the_server(refs))
    for root in roots:
        for operation in _OPERATIONS:
            path = paths.setdefault(root + operation.path, {})
            path[operation.method] = _describe(operation, refs)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "r1jax",
            "version": r1jax.__version__,
            "description": "Unknown and unsupported parameters are refused by name.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if keyed:
        described["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        described["security"] = [{"bearer": []}, {"key": []}]
    return described


def _about_the_server(refs: Refs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Describes what every path but those of the API gives."""
    for path in ("/health", "/ping"):
        answers = {
            "200": _answer("The server serves.", refs[replies.Health]),
            "503": _answer("It stops, or has failed.", refs[replies.Health]),
        }
        summary = "Tells whether new requests would be served"
        # No key is asked for.
        yield path, {"get": {"summary": summary, "responses": answers, "security": []}}
    for path, summary, kind, schema in (
        ("/version", "Tells the version", "application/json", refs[replies.Version]),
        ("/metrics", "Counts, for Prometheus", "text/plain", {"type": "string"}),
        ("/openapi.json", "This document", "application/json", {"type": "object"}),
    ):
        content = {kind: {"schema": schema}}
        good = {"description": f"{summary}.", "content": content}
        refused = _answer(_ERRORS[401], refs[replies.Error])
        yield (
            path,
            {"get": {"summary": summary, "responses": {"200": good, "401": refused}}},
        )


def _describe(operation: _Operation, refs: Refs) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    if operation.reply is not None:
        good = answers["200"] = _answer("The answer.", refs[operation.reply])
        if operation.event is not None:
            good["description"] = "The answer, whole or (with 'stream') as events."
            event = _server_sent(refs[operation.event])
            good["content"]["text/event-stream"] = {"schema": event}
    for status, text in _ERRORS.items():
        # Without a body to read little can be wrong.
        if operation.bodies or status in _BODILESS or operation.reply is None:
            answers[str(status)] = _answer(text, refs[operation.error])
    described: dict[str, Any] = {"summary": operation.summary, "responses": answers}
    if operation.bodies:
        schemas = [refs[body] for body in operation.bodies]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        content = {"application/json": {"schema": schema}}
        described["requestBody"] = {"required": True, "content": content}
    names = [part[1:-1] for part in operation.path.split("/") if part[:1] == "{"]
    if names:
        described["parameters"] = [
            {"name": n, "in": "path", "required": True, "schema": {"type": "string"}}
            for n in names
        ]
    return described


def _server_sent(data: Schema) -> Schema:
    """Describes one event of a stream; the last of OpenAI's is the text [DONE]."""
    text = {"type": "string", "contentMediaType": "application/json"}
    properties = {"event": {"type": "string"}, "data": text | {"contentSchema": data}}
    return {"type": "object", "properties": properties, "required": ["data"]}


def _answer(description: str, schema: Schema) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {"description": description, "content": content}


def _schemas() -> tuple[Refs, dict[str, Schema]]:
    """Writes the schemas of all models, and of those that they hold."""
    bodies = [body for each in _OPERATIONS for body in each.bodies]
    answers = [
        value
        for value in vars(replies).values()
        if isinstance(value, type) and issubclass(value, replies.Reply)
    ]
    modes, whole = models_json_schema(
        [(model, "validation") for model in (*bodies, *answers)],
        ref_template=_REF + "{model}",
    )
    refs = {model: modes[model, "validation"] for model in (*bodies, *answers)}
    schemas: dict[str, Schema] = whole["$defs"]
    for body in bodies:
        _add_what_parse_takes(schemas[refs[body]["$ref"].removeprefix(_REF)])
    return refs, schemas


def _add_what_parse_takes(schema: Schema) -> None:
    """Adds what a body may hold beside its fields; see `Body.parse`."""
    needed = schema.get("required", [])
    properties: dict[str, Schema] = schema["properties"]
    for name, value in properties.items():
        if name not in needed and _NULL not in value.get("anyOf", []):
            properties[name] = {"anyOf": [value, _NULL]}
    for name in sorted(HARMLESS - properties.keys()):
        properties[name] = {"description": "Taken, and without effect."}
    for name in sorted(REFUSED.keys() - properties.keys()):
        refusal = REFUSED[name]
        values = [*refusal.neutral, None]
        properties[name] = {"enum": values, "description": f"No: {refusal.why}."}
