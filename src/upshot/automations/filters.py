"""
What templates may do to values: filters, tests and operators, each bounded before it acts.

| filter | gives |
|---|---|
| `default(value)` | the value for what is unknown or null; `default(value, true)`: or empty |
| `tojson`, `tojson(indent=true)` | JSON text |
| `string`, `int`, `float` | the same as text or as a number; `int(0)`: 0 where it cannot be read as one |
| `length` | how many characters, elements or keys |
| `upper`, `lower`, `title`, `trim` | the text so written |
| `replace(old, new)`, `split(separator)` | the text with parts exchanged; the list of its parts |
| `truncate(length, end="…")` | the text cut to at most `length` characters |
| `slack` | the text with `&`, `<`, `>` escaped for Slack, which disarms mentions and links |
| `urlencode` | the text as one part of a URL path or query |
| `round(precision)`, `abs` | the number rounded; without its sign |
| `first`, `last`, `min`, `max`, `sum` | one element, or the sum, of a list |
| `sort(reverse=true)`, `unique`, `list` | a list in order; without repetition; the keys of a mapping |
| `join(separator)` | the elements of a list as one text |
| `map("field")` | one field of each element |
| `selectattr("field", "ge", 3)`, `rejectattr(…)` | the elements that pass, or do not pass |
| `items` | the pairs of key and value of a mapping, for a loop |

`sort`, `join`, `min`, `max`, `sum`, `unique` take `attribute="field"` where the elements are mappings.

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

MAX_OUTPUT_BYTES = 64 * 1024  #: of everything that one step renders, and of any text on the way there
MAX_WORK = 300_000  #: units, each about one node of a template evaluated, or 64 characters handled: 0.1 s or so
MAX_NUMBER_BITS = 1024  #: what a float can hold; a longer integer only serves to exhaust memory

_MAX_GLOB_CHARS = 256
_MAX_DECIMALS = 20
_CHARS_PER_UNIT = 64
_CHARS_PER_GLOB_UNIT = 8


class RenderError(Exception):
    """A template asks something of a value that cannot be given; the text names finding and remedy, never a value."""


class RenderBudget(threading.local):
    """Counts what one render has used up; each thread renders one at a time."""

    work = MAX_WORK
    output = MAX_OUTPUT_BYTES

    def reset(self) -> None:
        """Begin a render."""
        self.work = MAX_WORK
        self.output = MAX_OUTPUT_BYTES

    def spend(self, units: int) -> None:
        """Count work; raises RenderError when there was too much."""
        self.work -= units
        if self.work < 0:
            raise RenderError("this is too much work for a template; loop over less, or send the data as it is")

    def emit(self, size_bytes: int) -> None:
        """Count output; raises RenderError when it is too long."""
        self.output -= size_bytes
        if self.output < 0:
            raise RenderError(f"the result is longer than {MAX_OUTPUT_BYTES // 1024} KB; send less of it")


BUDGET = RenderBudget()


def describe(value: Any) -> str:
    """Name the kind of a value in the words of YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return "something that is no plain data"


def text_of(value: Any) -> str:
    """
    Write a value as a part of a text: null is empty, true and false are JSON's words.

    Raises:
        RenderError: It is a mapping or a list, of which nobody can know how to write it.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    remedy = "write `| tojson`, or pick one field of it" if isinstance(value, dict | list | tuple) else "pick one field"
    raise RenderError(f"{describe(value)} cannot stand in a text; {remedy}")


def plain_copy(value: Any) -> Any:
    """
    Copy a value that keeps its type; counts as output.

    Raises:
        RenderError: It is no plain data (`secrets` as a whole), or too long.
    """
    if value is None or isinstance(value, bool | float):
        return value
    encoded = _json(value)
    BUDGET.emit(len(encoded))
    return value if isinstance(value, str | int) else orjson.loads(encoded)


def weigh(value: Any) -> Any:
    """Let a value through that is about to be compared, counting all that the comparison may look at."""
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
        raise RenderError("only plain data can be compared; name the field or secret that is meant")
    return value


def each(value: Any, body_nodes: int) -> Iterable[Any]:
    """
    Let a loop run over a list, or over the keys of a mapping.

    Args:
        value: What stands behind `in`.
        body_nodes: How many nodes of the template are evaluated in each round.
    """
    elements = _elements(value)
    BUDGET.spend(len(elements) * body_nodes)
    return elements


def concat(*values: Any) -> str:
    """The operator `~`."""
    parts = [text_of(value) for value in values]
    _expect_length(sum(map(len, parts)))
    return "".join(parts)


def _json(value: Any, *, indent: bool = False) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None)
    except TypeError:
        raise RenderError("only plain data can be written as JSON; name the field or secret that is meant") from None


def _expect_length(chars: int) -> None:
    """Refuse a text before it is made."""
    BUDGET.spend(1 + chars // _CHARS_PER_UNIT)
    if chars > MAX_OUTPUT_BYTES:
        raise RenderError(f"this would make a text longer than {MAX_OUTPUT_BYTES // 1024} KB")


def _elements(value: Any) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, dict):
        return list(value)
    raise RenderError(f"a list was expected here, and this is {describe(value)}")


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RenderError(f"a number was expected here, and this is {describe(value)}; `| float` reads text as one")
    return value


def _pluck(element: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(element, dict) or key not in element:
            raise RenderError(f"an element of the list has no {path!r}")
        element = element[key]
    return element


def _values(value: Any, attribute: str | None) -> list[Any]:
    """The elements, or one field of each; only such as can be compared without looking deeper."""
    elements = _elements(value)
    BUDGET.spend(len(elements))
    found = list(elements) if attribute is None else [_pluck(element, attribute) for element in elements]
    if any(isinstance(element, dict | list | tuple) for element in found):
        raise RenderError('the elements are mappings or lists; name a field of theirs with `attribute="…"`')
    return found


# --- filters --------------------------------------------------------------------------------------


def _default(value: Any, instead: Any = "", also_empty: Any = None) -> Any:
    # An unknown value is made null before it comes here.
    return instead if value is None or (also_empty and not value) else value


def _tojson(value: Any, indent: Any = None) -> str:
    encoded = _json(value, indent=bool(indent))
    _expect_length(len(encoded))
    return encoded.decode()


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | dict | list | tuple) else len(_elements(value))


def _title(value: Any) -> str:
    return string.capwords(text_of(value))


def _replace(value: Any, old: Any, new: Any) -> str:
    text, before, after = text_of(value), text_of(old), text_of(new)
    if not before:
        raise RenderError("`replace` needs a text to look for")
    _expect_length(len(text) + text.count(before) * (len(after) - len(before)))
    return text.replace(before, after)


def _split(value: Any, separator: Any = None) -> list[str]:
    return text_of(value).split(None if separator is None else text_of(separator) or None)


def _truncate(value: Any, length: Any = 255, end: Any = "…") -> str:
    text, ending = text_of(value), text_of(end)
    if len(text) <= _number(length):
        return text
    return text[: max(0, int(length) - len(ending))] + ending


def _slack(value: Any) -> str:
    # Slack's own rule: these three, & first, and nothing else.
    return text_of(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _urlencode(value: Any) -> str:
    return quote(text_of(value), safe="")


_NOTHING = object()


def _read_number(value: Any, read: Callable[[Any], int | float], default: Any) -> Any:
    try:
        if isinstance(value, str | int | float):
            return read(value)
    except (ValueError, OverflowError):
        pass
    if default is _NOTHING:
        raise RenderError("this cannot be read as a number; give a value for that case: `| float(0)`")
    return default


def _int(value: Any, default: Any = _NOTHING) -> Any:
    return _read_number(value, int, default)


def _float(value: Any, default: Any = _NOTHING) -> Any:
    return _read_number(value, float, default)


def _round(value: Any, precision: Any = 0) -> int | float:
    decimals = _number(precision)
    if not isinstance(decimals, int) or abs(decimals) > _MAX_DECIMALS:
        raise RenderError(f"`round` takes a whole number of decimals, at most {_MAX_DECIMALS}")
    try:
        return round(_number(value), decimals) if decimals > 0 else int(round(_number(value), decimals))
    except (ValueError, OverflowError):
        raise RenderError("an infinite number cannot be rounded") from None


def _first(value: Any) -> Any:
    return _at(value, 0)


def _last(value: Any) -> Any:
    return _at(value, -1)


def _at(value: Any, place: int) -> Any:
    elements = value if isinstance(value, str) else _elements(value)
    return elements[place] if elements else None


def _ordered(action: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    try:
        return action(values)
    except TypeError:
        raise RenderError("the elements are of different kinds and have no order") from None


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
    order = _ordered(lambda places: sorted(places, key=keys.__getitem__, reverse=bool(reverse)), list(range(len(keys))))
    return [elements[place] for place in order]


def _unique(value: Any, attribute: str | None = None) -> list[Any]:
    elements = _elements(value)
    first_places: dict[Any, int] = {}
    for place, key in enumerate(_values(value, attribute)):
        first_places.setdefault(key, place)
    return [elements[place] for place in first_places.values()]


def _join(value: Any, separator: Any = "", attribute: str | None = None) -> str:
    parts = [text_of(element) for element in _values(value, attribute)]
    between = text_of(separator)
    _expect_length(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _map(value: Any, attribute: str) -> list[Any]:
    return [_pluck(element, attribute) for element in _elements(value)]


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "equalto": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "in": lambda element, wanted: element in wanted,
}


def _passes(element: Any, attribute: str, comparison: str | None, wanted: Any) -> bool:
    found = _pluck(element, attribute)
    if comparison is None:
        return bool(found)
    if comparison not in _COMPARISONS:
        raise RenderError(f"`selectattr` and `rejectattr` compare with one of {', '.join(_COMPARISONS)}")
    return _COMPARISONS[comparison](weigh(found), weigh(wanted))


def _selectattr(value: Any, attribute: str, comparison: str | None = None, wanted: Any = None) -> list[Any]:
    return [element for element in _elements(value) if _passes(element, attribute, comparison, wanted)]


def _rejectattr(value: Any, attribute: str, comparison: str | None = None, wanted: Any = None) -> list[Any]:
    return [element for element in _elements(value) if not _passes(element, attribute, comparison, wanted)]


def _items(value: Any) -> list[list[Any]]:
    if not isinstance(value, dict):
        raise RenderError(f"`items` takes a mapping, and this is {describe(value)}")
    return [[key, member] for key, member in value.items()]


FILTERS: dict[str, Callable[..., Any]] = {
    "abs": lambda value: abs(_number(value)),
    "default": _default,
    "first": _first,
    "float": _float,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _last,
    "length": _length,
    "list": lambda value: list(_elements(value)),
    "lower": lambda value: text_of(value).lower(),
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
    "string": text_of,
    "sum": _sum,
    "title": _title,
    "tojson": _tojson,
    "trim": lambda value: text_of(value).strip(),
    "truncate": _truncate,
    "unique": _unique,
    "upper": lambda value: text_of(value).upper(),
    "urlencode": _urlencode,
}


# --- tests ----------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _matches(value: Any, glob: Any) -> bool:
    text, pattern = text_of(value), text_of(glob)
    if len(pattern) > _MAX_GLOB_CHARS:
        raise RenderError(f"a glob has at most {_MAX_GLOB_CHARS} characters")
    BUDGET.spend(len(text) * (1 + pattern.count("*")) // _CHARS_PER_GLOB_UNIT)
    return fnmatchcase(text, pattern)


TESTS: dict[str, Callable[..., bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "divisibleby": lambda value, number: divide_rest(value, number) == 0,
    "endingwith": lambda value, end: text_of(value).endswith(text_of(end)),
    "even": lambda value: divide_rest(value, 2) == 0,
    "false": lambda value: value is False,
    "float": lambda value: isinstance(value, float),
    "in": lambda value, container: value in weigh(container),
    "integer": _is_integer,
    "mapping": lambda value: isinstance(value, dict),
    "matching": _matches,
    "none": lambda value: value is None,
    "number": _is_number,
    "odd": lambda value: divide_rest(value, 2) == 1,
    "sequence": lambda value: isinstance(value, list | tuple | str),
    "startingwith": lambda value, start: text_of(value).startswith(text_of(start)),
    "string": lambda value: isinstance(value, str),
    "true": lambda value: value is True,
}


# --- operators ------------------------------------------------------------------------------------


def add(left: Any, right: Any) -> Any:
    """`+`: of numbers, of two texts, of two lists."""
    if isinstance(left, str) and isinstance(right, str):
        return concat(left, right)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        BUDGET.spend(len(left) + len(right))
        return [*left, *right]
    return _compute(operator.add, "+", left, right)


def multiply(left: Any, right: Any) -> Any:
    """`*`: of numbers."""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_NUMBER_BITS:
        raise RenderError("the product is too large a number")
    return _compute(operator.mul, "*", left, right)


def divide_rest(left: Any, right: Any) -> Any:
    """`%`: of numbers."""
    return _compute(operator.mod, "%", left, right)


def _compute(action: Callable[[Any, Any], Any], sign: str, left: Any, right: Any) -> Any:
    if not (_is_number(left) and _is_number(right)):
        remedy = "write `~` to join texts" if sign == "+" else "`| float` reads text as a number"
        raise RenderError(f"`{sign}` cannot take {describe(left)} and {describe(right)}; {remedy}")
    try:
        return action(left, right)
    except ZeroDivisionError:
        raise RenderError(f"`{sign}` divides by zero") from None
    except OverflowError:
        raise RenderError(f"the result of `{sign}` is too large a number") from None


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": add,
    "-": lambda left, right: _compute(operator.sub, "-", left, right),
    "*": multiply,
    "/": lambda left, right: _compute(operator.truediv, "/", left, right),
    "//": lambda left, right: _compute(operator.floordiv, "//", left, right),
    "%": divide_rest,
}
