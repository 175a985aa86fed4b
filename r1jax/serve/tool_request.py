"""What a chat request says of tools: those offered, and whether to call them."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from r1jax.serve.errors import bad_request
from r1jax.serve.structured import check_depth
from r1jax.text.tools import Tool, Toolbox

_STRICT = ConfigDict(extra="forbid", strict=True)
_NAME = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")


class CalledFunction(BaseModel):
    """A call's name and arguments, these as JSON text.

    OpenAI's client sends back what it parsed of them, too; it says nothing more.
    """

    model_config = _STRICT

    name: str
    arguments: str
    parsed_arguments: Any = Field(None, exclude=True)


class ToolCall(BaseModel):
    """A call that an earlier answer made; streaming clients keep its index."""

    model_config = _STRICT

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class FunctionSpec(BaseModel):
    """A function that may be called."""

    model_config = _STRICT

    name: str = _NAME
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(BaseModel):
    """A tool that may be used: a function."""

    model_config = _STRICT

    type: Literal["function"]
    function: FunctionSpec


class FunctionName(BaseModel):
    """The name of a function."""

    model_config = _STRICT

    name: str


class NamedChoice(BaseModel):
    """The choice of one function, which must be called."""

    model_config = _STRICT

    type: Literal["function"]
    function: FunctionName


def toolbox(
    tools: Sequence[ToolSpec],
    choice: str | NamedChoice | None,
    parallel: bool,
) -> Toolbox | None:
    """Gives the tools that the model is offered; None where it is offered none.

    Raises:
      ApiError: 400, the choice does not go with the tools, or two have one name.
    """
    offered = {
        tool.function.name: _tool(tool.function, at) for at, tool in enumerate(tools)
    }
    if len(offered) < len(tools):
        raise bad_request(
            "two tools have the same name",
            "a call says by its name which one it is",
            "give each function a name of its own",
            "tools",
            "invalid_value",
        )
    named = choice.function.name if isinstance(choice, NamedChoice) else None
    if named is not None and named not in offered:
        raise bad_request(
            f"'tool_choice' names '{named[:80]}'",
            f"'tools' has {', '.join(offered) or 'no function'}",
            "name one of 'tools'",
            "tool_choice",
            "invalid_value",
        )
    if choice == "required" and not offered:
        raise bad_request(
            "'tool_choice' is 'required' without 'tools'",
            "there is nothing to call",
            "send 'tools'",
            "tool_choice",
            "invalid_value",
        )
    if choice == "none" or not offered:
        return None
    if named is not None:
        return Toolbox((offered[named],), required=True, parallel=False)
    return Toolbox(tuple(offered.values()), choice == "required", parallel)


def _tool(function: FunctionSpec, at: int) -> Tool:
    check_depth(function.parameters, f"tools[{at}].function.parameters")
    return Tool(
        function.name,
        function.description,
        function.parameters,
        function.strict or False,
    )
