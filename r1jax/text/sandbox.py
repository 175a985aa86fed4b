"""A Jinja environment for templates written by strangers.

A chat template comes with a model, so it is somebody else's program. Jinja's sandbox
keeps it from the files, the network and Python's insides; this one also keeps it from
running or growing without end. Whatever a template makes is weighed (about one unit a
character or number), and so is every turn of a loop and every call: beyond a budget in
proportion to the messages, or after ten seconds, rendering stops. What could grow in a
single step (`*`, `**`, padding, `replace`, `join`) is weighed before it is done.
"""

import json
import re
import string
import time
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

SECONDS = 10.0
UNITS = 32_000_000
UNITS_PER_INPUT = 128
UNITS_PER_TURN = 32
UNITS_PER_CALL = 128
INTEGER_BITS = 4096

# fmt: off
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first",
    "float", "format", "groupby", "indent", "int", "items", "join", "last", "length",
    "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse",
    "round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "tojson",
    "trim", "truncate", "unique", "upper", "wordcount",
)
# fmt: on
# Each pads to a width given as a number, or makes bytes of that many.
PADDING = {"center", "expandtabs", "ljust", "rjust", "to_bytes", "translate", "zfill"}
# The guards, as filters.
_LOOP, _MADE, _CONCAT = "loop!", "made!", "concat!"


class Meter:
    """Weighs what a template makes, and stops it beyond its budget.

    Weights of containers are remembered, as a list of ten lists of ten lists weighs
    what printing it would, though it takes little memory.
    """

    def __init__(self, inputs: object = None) -> None:
        """Allows a budget for a template that is given `inputs`."""
        self._weights: dict[int, tuple[object, int]] = {}
        self._left = UNITS + UNITS_PER_INPUT * self.weigh(inputs)
        self._deadline = time.thread_time() + SECONDS

    def charge(self, units: int) -> None:
        """Takes `units` off the budget.

        Raises:
            SecurityError: the budget or the time is spent.
        """
        self._left -= max(units, 0)  # a negative width must not refund
        if self._left < 0 or time.thread_time() > self._deadline:
            raise SecurityError("it makes too much, or runs too long")

    def made(self, value: Any) -> Any:
        """Charges for `value` and returns it."""
        self.charge(self.weigh(value))
        return value

    def weigh(self, value: object) -> int:
        """Returns about the number of characters it takes to write `value`."""
        if isinstance(value, str | bytes):
            return 1 + len(value)
        if isinstance(value, int):
            return 1 + value.bit_length() // 4
        if isinstance(value, Mapping):
            return self._weigh_all(value, value.items())
        if isinstance(value, list | tuple | set | ItemsView | KeysView | ValuesView):
            return self._weigh_all(value, value)
        return 1

    def _weigh_all(self, container: object, items: Iterable[Any]) -> int:
        known = self._weights.get(id(container))
        if known is None:
            weight = 1 + sum(map(self.weigh, items))
            # Keeping the container keeps its id from being used again.
            known = self._weights[id(container)] = container, weight
        return known[1]


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering, with Hugging Face's settings and names."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, meter: Meter) -> None:
        """Charges everything that its templates make to `meter`."""
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=meter.made,
        )
        self._meter = meter
        own: dict[str, Callable[..., Any]] = {
            "indent": self._indent,
            "join": self._join,
            "replace": self._replace,
            "format": self._format,
            "tojson": self._tojson,
        }
        known = self.filters | own
        self.filters = {name: self._metered(known[name]) for name in FILTERS}
        self.filters |= {_LOOP: self._loop, _MADE: meter.made, _CONCAT: self._join}
        self.globals |= {
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        del self.globals["lipsum"]

    def compile_guarded(self, source: str) -> Any:
        """Compiles a template with guards on its loops, literals, slices and `~`."""
        return self.compile(_Guards().visit(self.parse(source)))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuses Python's insides, and the methods that pad to any width."""
        padding = callable(value) and attr in PADDING
        return not padding and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Refuses `str.format` with wide or computed widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            for _, _, spec, _ in string.Formatter().parse(value.__self__):
                _refuse_width("{" in (spec or "") or re.search(r"\d{4}", spec or ""))
        return wrapped

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls for a template, charging for what is returned."""
        self._meter.charge(UNITS_PER_CALL)
        owner = getattr(called, "__self__", None)
        if isinstance(called, LoopContext) and args:
            args = (self._loop(args[0], 0), *args[1:])
        elif isinstance(owner, str) and called.__name__ == "join":
            (parts,) = args
            return self._join(parts, owner)
        elif isinstance(owner, str) and called.__name__ == "replace":
            return self._replace(owner, *args)
        return self._meter.made(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Does one of the four operators that can make more than they are given."""
        if operator == "%" and isinstance(left, str):
            return self._format_percent(left, right)
        weight = self._meter.weigh(left) + self._meter.weigh(right)
        if isinstance(left, int) and isinstance(right, int):
            _refuse_long(left, operator, right)
        elif operator == "*":
            times = next((n for n in (left, right) if isinstance(n, int)), 1)
            repeated = any(isinstance(x, str | list | tuple) for x in (left, right))
            weight *= max(times, 1) if repeated else 1
        self._meter.charge(weight)
        return super().call_binop(context, operator, left, right)

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def metered(*args: Any, **kwargs: Any) -> Any:
            return self._meter.made(function(*args, **kwargs))

        # Jinja's marks, which say what a filter is given; all that `wraps` does would
        # take a third of a short conversation's time.
        metered.__dict__.update(getattr(function, "__dict__", {}))
        return metered

    def _loop(self, items: Iterable[Any], cost: int) -> Iterator[Any]:
        for item in items:
            self._meter.charge(UNITS_PER_TURN + cost)
            yield item

    def _join(self, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
        texts = []
        for item in value:
            part = item if attribute is None else self.getitem(item, attribute)
            texts.append(str(self._meter.made(part)))
            self._meter.charge(len(d))
        return d.join(texts)

    def _replace(self, s: Any, old: Any, new: Any, count: int | None = -1) -> str:
        text, old, new = str(s), str(old), str(new)
        found = text.count(old)
        self._meter.charge(len(text) + len(new) * found)
        return text.replace(old, new, -1 if count is None else count)

    def _indent(
        self, s: str, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        size = width if isinstance(width, int) else len(width)
        self._meter.charge(len(s) + size * (s.count("\n") + 1))
        margin = " " * width if isinstance(width, int) else width
        head, *lines = str(s).split("\n")
        body = [margin + line if line or blank else line for line in lines]
        return "\n".join([margin + head if first else head, *body])

    def _format(self, value: str, *args: Any, **kwargs: Any) -> str:
        return self._format_percent(str(value), kwargs or args)

    def _format_percent(self, template: str, values: Any) -> str:
        _refuse_width(re.search(r"%(\([^)]*\))?[^%a-zA-Z]*(\*|\d{4})", template))
        self._meter.charge(self._meter.weigh(values) * (1 + template.count("%")))
        made: str = self._meter.made(template % values)
        return made

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        margin = indent if isinstance(indent, int) else len(indent or "")
        breadth = 1 + margin + sum(map(len, separators or ()))
        self._meter.charge(breadth * self._meter.weigh(value))
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )


class _Guards(NodeTransformer):
    """Puts a guard around everything that no method of the sandbox would see."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """Guards what is inside `node`, then `node`."""
        node = self.generic_visit(node)
        if isinstance(node, nodes.For):
            text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
            node.iter = _filter(_LOOP, node.iter, text)
        elif isinstance(node, nodes.Concat):
            return _filter(_CONCAT, nodes.List(node.nodes, lineno=node.lineno))
        # A tuple may also be no value, but the names of `for a, b in`.
        made = isinstance(node, nodes.List | nodes.Dict) or (
            isinstance(node, nodes.Tuple) and node.ctx == "load"
        )
        sliced = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        return _filter(_MADE, node) if made or sliced else node


class _Generation(Extension):
    """Accepts `{% generation %}`, which marks answers for training, as plain text."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """A namespace that does not print what it holds, as that may hold itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _filter(name: str, node: Any, *args: int) -> nodes.Filter:
    given = [nodes.Const(arg) for arg in args]
    return nodes.Filter(node, name, given, [], None, None, lineno=node.lineno)


def _refuse_width(wide: object) -> None:
    if wide:
        raise SecurityError("it formats with a very wide or a computed width")


def _refuse_long(left: int, operator: str, right: int) -> None:
    a, b = left.bit_length(), right.bit_length()
    bits = {"*": a + b, "**": a * abs(right)}.get(operator, 0)
    if bits > INTEGER_BITS:
        raise SecurityError("it makes a very long number")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
