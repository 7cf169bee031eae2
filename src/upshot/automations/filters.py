"""
What templates can do with values: filters, tests and operators. Each is bounded before it computes.

| filter | returns |
|---|---|
| `default(value)` | the value in place of an unknown one or null; `default(value, true)`: also of an empty one |
| `tojson`, `tojson(indent=true)` | JSON text |
| `string`, `int`, `float` | the value as a string or number; `int(0)` returns 0 if it is not a number |
| `length` | the number of characters, elements or keys |
| `upper`, `lower`, `title`, `trim` | the string in another case; without surrounding spaces |
| `replace(old, new)`, `split(separator)` | the string with parts replaced; the list of its parts |
| `truncate(length, end="…")` | the string, cut to at most `length` characters |
| `slack` | the string with `&`, `<`, `>` escaped for Slack, which disables mentions and links |
| `urlencode` | the string encoded for a segment of a URL path or a query |
| `round(precision)`, `abs` | the number rounded; without its sign |
| `first`, `last`, `min`, `max`, `sum` | one element of a list, or the sum |
| `sort(reverse=true)`, `unique`, `list` | the list in order; without duplicates; the keys of a mapping |
| `join(separator)` | the elements of a list as one string |
| `map("field")` | one field of each element |
| `selectattr("field", "ge", 3)`, `rejectattr(…)` | the elements that pass, or do not pass |
| `items` | the pairs of key and value of a mapping, for a loop |

`sort`, `join`, `min`, `max`, `sum`, `unique` take `attribute="field"` if the elements are mappings.

Tests (`x is …`): `defined`, `undefined`, `none`, `true`, `false`, `boolean`, `string`, `number`, `integer`,
`float`, `mapping`, `sequence`, `odd`, `even`, `divisibleby(n)`, `in(list)`, `startingwith(text)`,
`endingwith(text)`, `matching(glob)`.
"""

from __future__ import annotations

import operator
import string
import threading
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

import orjson

from upshot.validation import describe_value

MAX_OUTPUT_BYTES = 64 * 1024  #: of everything that one step renders, and of any string on the way
MAX_WORK = 300_000  #: units: one for each evaluated node of a template or 64 characters; about 0.1 s in all
MAX_NUMBER_BITS = 1024  #: the range of a float; larger integers are useful only to exhaust memory

_MAX_GLOB_CHARS = 256
_MAX_DECIMALS = 20
_CHARS_PER_UNIT = 64
_CHARS_PER_GLOB_UNIT = 8


class RenderError(Exception):
    """A template cannot do this with a value. The message contains a remedy and never the value."""


class RenderBudget(threading.local):
    """What the current render may still use. Each thread renders one template at a time."""

    work = MAX_WORK
    output = MAX_OUTPUT_BYTES

    def reset(self) -> None:
        """Start a render."""
        self.work = MAX_WORK
        self.output = MAX_OUTPUT_BYTES

    def spend(self, units: int) -> None:
        """Count work. Raises RenderError if it is too much."""
        self.work -= units
        if self.work < 0:
            raise RenderError("this is too much work for a template; loop over less, or send the data as it is")

    def emit(self, size_bytes: int) -> None:
        """Count output. Raises RenderError if it is too long."""
        self.output -= size_bytes
        if self.output < 0:
            raise RenderError(f"the result is longer than {MAX_OUTPUT_BYTES // 1024} KB; send less of it")


BUDGET = RenderBudget()


def describe(value: Any) -> str:
    """Name the kind of a value for messages, without the value itself."""
    return describe_value(value, show=False)


def to_text(value: Any) -> str:
    """
    Convert a value to a part of a text: null is empty, true and false are JSON's words.

    Raises:
        RenderError: The value is a mapping or a list, which has no obvious text.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict | list | tuple):
        raise RenderError(f"{describe(value)} cannot be part of a text; write `| tojson`, or use one field of it")
    raise RenderError("this value cannot be part of a text; use one field of it")


def plain_copy(value: Any) -> Any:
    """
    Copy a value that keeps its type, and count it as output.

    Raises:
        RenderError: It is not plain data (such as `secrets` as a whole), or it is too long.
    """
    if value is None or isinstance(value, bool | float):
        return value
    encoded = _json(value)
    BUDGET.emit(len(encoded))
    return value if isinstance(value, str | int) else orjson.loads(encoded)


def check_comparable(value: Any) -> Any:
    """Return a value that is about to be compared, after counting everything that the comparison may look at."""
    if isinstance(value, str):
        BUDGET.spend(1 + len(value) // _CHARS_PER_UNIT)
    elif isinstance(value, dict | list | tuple):
        pending: list[Any] = [value]
        while pending:
            container = pending.pop()
            BUDGET.spend(1 + len(container))
            members = container.values() if isinstance(container, dict) else container
            pending.extend(member for member in members if isinstance(member, dict | list | tuple))
    elif value is not None and not isinstance(value, bool | int | float):
        raise RenderError("only plain data can be compared; name the field or the secret")
    return value


def iterate(value: Any, body_nodes: int) -> Iterable[Any]:
    """
    Return what a loop runs over: a list, or the keys of a mapping.

    Args:
        value: The expression after `in`.
        body_nodes: How many nodes of the template each iteration evaluates.
    """
    elements = _elements(value)
    BUDGET.spend(len(elements) * body_nodes)
    return elements


def concat(*values: Any) -> str:
    """Evaluate the operator `~`."""
    parts = [to_text(value) for value in values]
    _check_length(sum(map(len, parts)))
    return "".join(parts)


def _json(value: Any, *, indent: bool = False) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None)
    except TypeError:
        raise RenderError("only plain data can be written as JSON; name the field or the secret") from None


def _check_length(chars: int) -> None:
    """Raise RenderError for a string that would be too long, before it exists."""
    BUDGET.spend(1 + chars // _CHARS_PER_UNIT)
    if chars > MAX_OUTPUT_BYTES:
        raise RenderError(f"the text would be longer than {MAX_OUTPUT_BYTES // 1024} KB")


def _elements(value: Any) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, dict):
        return list(value)
    raise RenderError(f"this must be a list, not {describe(value)}")


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RenderError(f"this must be a number, not {describe(value)}; `| float` converts a string")
    return value


def _field(element: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(element, dict) or key not in element:
            raise RenderError(f"an element of the list has no {path!r}")
        element = element[key]
    return element


def _values(value: Any, attribute: str | None) -> list[Any]:
    """Return the elements, or one field of each."""
    elements = _elements(value)
    BUDGET.spend(len(elements))
    return list(elements) if attribute is None else [_field(element, attribute) for element in elements]


# --- filters --------------------------------------------------------------------------------------


def _default(value: Any, fallback: Any = "", also_empty: Any = None) -> Any:
    # The sandbox replaces an unknown value by null before it calls this.
    return fallback if value is None or (also_empty and not value) else value


def _tojson(value: Any, indent: Any = None) -> str:
    encoded = _json(value, indent=bool(indent))
    _check_length(len(encoded))
    return encoded.decode()


def _replace(value: Any, old: Any, new: Any) -> str:
    text, before, after = to_text(value), to_text(old), to_text(new)
    if not before:
        raise RenderError("`replace` needs a text to search for")
    _check_length(len(text) + text.count(before) * (len(after) - len(before)))
    return text.replace(before, after)


def _split(value: Any, separator: Any = None) -> list[str]:
    return to_text(value).split(None if separator is None else to_text(separator) or None)


def _truncate(value: Any, length: Any = 255, end: Any = "…") -> str:
    text, ending = to_text(value), to_text(end)
    if len(text) <= _number(length):
        return text
    return text[: max(0, int(length) - len(ending))] + ending


def _slack(value: Any) -> str:
    # Slack's rule: escape these three, `&` first, and nothing else.
    return to_text(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_NO_DEFAULT = object()


def _convert(value: Any, number_type: Callable[[Any], int | float], default: Any) -> Any:
    try:
        if isinstance(value, str | int | float):
            return number_type(value)
    except (ValueError, OverflowError):
        pass
    if default is _NO_DEFAULT:
        raise RenderError("this is not a number; give a value for that case: `| float(0)`")
    return default


def _int(value: Any, default: Any = _NO_DEFAULT) -> Any:
    return _convert(value, int, default)


def _float(value: Any, default: Any = _NO_DEFAULT) -> Any:
    return _convert(value, float, default)


def _round(value: Any, precision: Any = 0) -> int | float:
    decimals = _number(precision)
    if not isinstance(decimals, int) or abs(decimals) > _MAX_DECIMALS:
        raise RenderError(f"`round` takes a whole number of decimals, at most {_MAX_DECIMALS}")
    try:
        return round(_number(value), decimals) if decimals > 0 else int(round(_number(value), decimals))
    except (ValueError, OverflowError):
        raise RenderError("an infinite number cannot be rounded") from None


def _at(value: Any, index: int) -> Any:
    elements = value if isinstance(value, str) else _elements(value)
    return elements[index] if elements else None


def _ordered(action: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    try:
        return action(values)
    except TypeError:
        raise RenderError("the elements are of different kinds and cannot be ordered") from None


def _min(value: Any, attribute: str | None = None) -> Any:
    return _ordered(lambda values: min(values, default=None), _values(value, attribute))


def _max(value: Any, attribute: str | None = None) -> Any:
    return _ordered(lambda values: max(values, default=None), _values(value, attribute))


def _sum(value: Any, attribute: str | None = None) -> int | float:
    return sum(_number(element) for element in _values(value, attribute))


def _sort(value: Any, reverse: Any = None, attribute: str | None = None) -> list[Any]:
    if attribute is None:
        return list(_ordered(lambda values: sorted(values, reverse=bool(reverse)), _values(value, None)))
    elements = _elements(value)
    keys = _values(value, attribute)
    order = _ordered(
        lambda indexes: sorted(indexes, key=keys.__getitem__, reverse=bool(reverse)), list(range(len(keys)))
    )
    return [elements[index] for index in order]


def _unique(value: Any, attribute: str | None = None) -> list[Any]:
    elements = _elements(value)
    first_indexes: dict[Any, int] = {}
    for index, key in enumerate(_values(value, attribute)):
        first_indexes.setdefault(key, index)
    return [elements[index] for index in first_indexes.values()]


def _join(value: Any, separator: Any = "", attribute: str | None = None) -> str:
    parts = [to_text(element) for element in _values(value, attribute)]
    between = to_text(separator)
    _check_length(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _map(value: Any, attribute: str) -> list[Any]:
    return [_field(element, attribute) for element in _elements(value)]


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "equalto": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "in": lambda element, container: element in container,
}


def _passes(element: Any, attribute: str, comparison: str | None, operand: Any) -> bool:
    found = _field(element, attribute)
    if comparison is None:
        return bool(found)
    if comparison not in _COMPARISONS:
        raise RenderError(f"`selectattr` and `rejectattr` compare with one of {', '.join(_COMPARISONS)}")
    return _COMPARISONS[comparison](check_comparable(found), check_comparable(operand))


def _selectattr(value: Any, attribute: str, comparison: str | None = None, operand: Any = None) -> list[Any]:
    return [element for element in _elements(value) if _passes(element, attribute, comparison, operand)]


def _rejectattr(value: Any, attribute: str, comparison: str | None = None, operand: Any = None) -> list[Any]:
    return [element for element in _elements(value) if not _passes(element, attribute, comparison, operand)]


def _items(value: Any) -> list[list[Any]]:
    if not isinstance(value, dict):
        raise RenderError(f"`items` takes a mapping, not {describe(value)}")
    return [[key, member] for key, member in value.items()]


FILTERS: dict[str, Callable[..., Any]] = {
    "abs": lambda value: abs(_number(value)),
    "default": _default,
    "first": lambda value: _at(value, 0),
    "float": _float,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": lambda value: _at(value, -1),
    "length": lambda value: len(value if isinstance(value, str | dict) else _elements(value)),
    "list": lambda value: list(_elements(value)),
    "lower": lambda value: to_text(value).lower(),
    "map": _map,
    "max": _max,
    "min": _min,
    "rejectattr": _rejectattr,
    "replace": _replace,
    "round": _round,
    "selectattr": _selectattr,
    "slack": _slack,
    "sort": _sort,
    "split": _split,
    "string": to_text,
    "sum": _sum,
    "title": lambda value: string.capwords(to_text(value)),
    "tojson": _tojson,
    "trim": lambda value: to_text(value).strip(),
    "truncate": _truncate,
    "unique": _unique,
    "upper": lambda value: to_text(value).upper(),
    "urlencode": lambda value: quote(to_text(value), safe=""),
}


# --- tests ----------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _matches(value: Any, glob: Any) -> bool:
    text, pattern = to_text(value), to_text(glob)
    if len(pattern) > _MAX_GLOB_CHARS:
        raise RenderError(f"a glob can have at most {_MAX_GLOB_CHARS} characters")
    BUDGET.spend(len(text) * (1 + pattern.count("*")) // _CHARS_PER_GLOB_UNIT)
    return fnmatchcase(text, pattern)


TESTS: dict[str, Callable[..., bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "divisibleby": lambda value, number: modulo(value, number) == 0,
    "endingwith": lambda value, end: to_text(value).endswith(to_text(end)),
    "even": lambda value: modulo(value, 2) == 0,
    "false": lambda value: value is False,
    "float": lambda value: isinstance(value, float),
    "in": lambda value, container: value in check_comparable(container),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "mapping": lambda value: isinstance(value, dict),
    "matching": _matches,
    "none": lambda value: value is None,
    "number": _is_number,
    "odd": lambda value: modulo(value, 2) == 1,
    "sequence": lambda value: isinstance(value, list | tuple | str),
    "startingwith": lambda value, start: to_text(value).startswith(to_text(start)),
    "string": lambda value: isinstance(value, str),
    "true": lambda value: value is True,
}


# --- operators ------------------------------------------------------------------------------------


def add(left: Any, right: Any) -> Any:
    """Evaluate `+` of two numbers, two strings or two lists."""
    if isinstance(left, str) and isinstance(right, str):
        return concat(left, right)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        BUDGET.spend(len(left) + len(right))
        return [*left, *right]
    return _compute(operator.add, "+", left, right)


def multiply(left: Any, right: Any) -> Any:
    """Evaluate `*` of two numbers."""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_NUMBER_BITS:
        raise RenderError("the product is too large")
    return _compute(operator.mul, "*", left, right)


def modulo(left: Any, right: Any) -> Any:
    """Evaluate `%` of two numbers."""
    return _compute(operator.mod, "%", left, right)


def _compute(action: Callable[[Any, Any], Any], sign: str, left: Any, right: Any) -> Any:
    if not (_is_number(left) and _is_number(right)):
        remedy = "write `~` to join texts" if sign == "+" else "`| float` converts a string to a number"
        raise RenderError(f"`{sign}` does not work with {describe(left)} and {describe(right)}; {remedy}")
    try:
        return action(left, right)
    except ZeroDivisionError:
        raise RenderError(f"`{sign}` divides by zero") from None
    except OverflowError:
        raise RenderError(f"the result of `{sign}` is too large") from None


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": add,
    "-": lambda left, right: _compute(operator.sub, "-", left, right),
    "*": multiply,
    "/": lambda left, right: _compute(operator.truediv, "/", left, right),
    "//": lambda left, right: _compute(operator.floordiv, "//", left, right),
    "%": modulo,
}
