"""
What templates can do with values: filters, tests and operators.

Each counts its cost before it computes. A value is counted as often as it occurs, because a list of a
thousand references to one long text is small in memory and large in JSON.

| filter | returns |
|---|---|
| `default(value)` | the value in place of an unknown one or null; `default(value, true)`: also of an empty one |
| `tojson`, `tojson(indent=true)` | JSON text |
| `string` | the value as a string |
| `int`, `float` | a number that is written with digits, as a number; `int(0)` returns 0 if it is not a number |
| `length` | the number of characters, elements or keys |
| `upper`, `lower`, `title`, `trim` | the string in another case; without surrounding spaces |
| `replace(old, new)`, `split(separator)` | the string with parts replaced; the list of its parts |
| `truncate(length, end="…")` | the string, cut to at most `length` characters |
| `slack` | the string with `&`, `<`, `>` escaped for Slack, which disables mentions and links |
| `safe` | the string as markup for Slack, which is not escaped |
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

import math
import operator
import re
import string
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

import orjson

from upshot.numerals import read_decimal, read_whole
from upshot.schema.slack_blocks import is_literal_block
from upshot.unicode_text import to_nfc
from upshot.validation import describe_value

MAX_OUTPUT_BYTES = 64 * 1024  #: of everything that one step renders, and of any string on the way
MAX_WORK = 300_000  #: units: one for each evaluated node of a template or 64 characters; about 0.1 s in all
MAX_NUMBER_BITS = 1024  #: the range of a float; larger integers are useful only to exhaust memory
MAX_DEPTH = 100  #: of lists in lists; what walks over a value in C has a limit of its own, or none

_MAX_GLOB_CHARS = 256
_MAX_FIELD_CHARS = 256  # of a path such as `attribute="metrics.accuracy"`
_MAX_DECIMALS = 20
_CHARS_PER_UNIT = 64
_CHARS_PER_GLOB_UNIT = 8
_CHARS_PER_SLOW_UNIT = 4  # of operations that make an object of each word or byte
_UNITS_PER_GLOB_CHAR = 4  # of a pattern, which is compiled
_COMPARISONS_PER_SEARCH_UNIT = 512  # of two characters
_UNRESERVED = string.ascii_letters.encode() + string.digits.encode() + b"_.-~"  # what `urlencode` keeps


class RenderError(Exception):
    """A template cannot do this with a value. The message contains a remedy and never the value."""


class TooCostly(Exception):
    """A render costs more than `RenderBudget.limit` allows here. Nothing is wrong with the template."""


class RenderBudget(threading.local):
    """What the current render may still use. Each thread renders one template at a time."""

    max_work = MAX_WORK
    work = MAX_WORK
    output = MAX_OUTPUT_BYTES

    @property
    def is_limited(self) -> bool:
        """Whether a render may use only a part of the work here."""
        return self.max_work < MAX_WORK

    @contextmanager
    def limit(self, units: int) -> Iterator[None]:
        """Allow each render only so much work. A render that needs more raises TooCostly."""
        self.max_work = units
        try:
            yield
        finally:
            self.max_work = MAX_WORK

    def reset(self) -> None:
        """Start a render."""
        self.work = self.max_work
        self.output = MAX_OUTPUT_BYTES

    def spend(self, units: int) -> None:
        """Count work. Raises RenderError if it is too much, or TooCostly if it is too much only here."""
        self.work -= units
        if self.work < 0:
            if self.is_limited:
                raise TooCostly
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
    if isinstance(value, int):
        return str(_check_number(value))
    if isinstance(value, float):
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
    if isinstance(value, str):
        return str(value)  # without what the filters know about it
    return value if isinstance(value, int) else orjson.loads(encoded)


@dataclass(frozen=True, slots=True)
class _Size:
    """The size of a value. Parts that occur more than once count each time."""

    nodes: int
    chars: int
    depth: int


def _measure(value: Any) -> _Size:
    """
    Count everything in a value, before something walks over it.

    Raises:
        RenderError: It is too large or too deep, or it contains something that is not plain data.
    """
    level: list[Any] = [value]
    nodes = chars = depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise RenderError(f"this is nested deeper than {MAX_DEPTH} levels")
        nodes += len(level)
        BUDGET.spend(len(level))
        below: list[Any] = []
        level_chars = 0
        for member in level:
            if isinstance(member, str):
                level_chars += len(member)
            elif isinstance(member, dict):
                BUDGET.spend(2 * len(member))
                below.extend(member)
                below.extend(member.values())
            elif isinstance(member, list | tuple):
                BUDGET.spend(len(member))
                below.extend(member)
            elif member is not None and not isinstance(member, int | float):
                raise RenderError("only plain data can be used as a whole; name the field or the secret")
        BUDGET.spend(level_chars // _CHARS_PER_UNIT)
        chars += level_chars
        level = below
    return _Size(nodes, chars, depth)


def check_comparable(value: Any) -> Any:
    """Return a value that is about to be compared, after counting everything that the comparison may look at."""
    if isinstance(value, str):
        BUDGET.spend(1 + len(value) // _CHARS_PER_UNIT)
    elif isinstance(value, dict | list | tuple):
        _measure(value)
    elif value is not None and not isinstance(value, bool | int | float):
        raise RenderError("only plain data can be compared; name the field or the secret")
    return value


def check_condition(value: Any, expression: str = "") -> bool:
    """
    Return a value that decides something. Only true and false can.

    Args:
        value: The value of the condition.
        expression: The condition as a message shows it; empty if it is not a path.

    Raises:
        RenderError: The value is neither true nor false.
    """
    if isinstance(value, bool):
        return value
    subject = f"`{expression}`" if expression else "the condition"
    if isinstance(value, str):
        remedy = '`{} == "true"` or `{} != ""`'
    elif value is None:
        remedy = "`{} is not none` or `{} | default(false)`"
    elif isinstance(value, int | float):
        remedy = "`{} != 0` or `{} > 0`"
    elif isinstance(value, dict | list | tuple):
        remedy = "`{} | length > 0`"
    else:
        raise RenderError(f"{subject} is neither true nor false; name the field or the secret")
    shown = expression or "(…)"
    raise RenderError(f"{subject} is {describe(value)}, not true or false; write {remedy.replace('{}', shown)}")


def _is_same(left: Any, right: Any) -> bool:
    """Return whether two values are equal. A boolean is not a number, and both Unicode forms of a text are equal."""
    if isinstance(left, str) and isinstance(right, str):
        return left == right or to_nfc(left) == to_nfc(right)
    return isinstance(left, bool) is isinstance(right, bool) and left == right


_SCALARS = (str, int, float)  # bool is an int
_NUMBERS = frozenset({int, float})
_ORDERED_KINDS = frozenset({"a string", "a number", "a list"})


def equal(left: Any, right: Any) -> bool:
    """
    Evaluate `==`.

    Raises:
        RenderError: A text, a number, and true or false are compared with one another, so they are never equal.
    """
    check_comparable(left)
    check_comparable(right)
    if type(left) is not type(right) and isinstance(left, _SCALARS) and isinstance(right, _SCALARS):
        kind, other_kind = describe(left), describe(right)
        if kind != other_kind:
            raise RenderError(f"{kind} and {other_kind} are never equal; {_conversion(left, right)}")
    return left == right or _is_same(left, right)


def _order(compare: Callable[[Any, Any], bool], sign: str) -> Callable[[Any, Any], bool]:
    def compare_in_order(left: Any, right: Any) -> bool:
        if type(left) in _NUMBERS and type(right) in _NUMBERS:
            return compare(left, right)
        check_comparable(left)
        check_comparable(right)
        kind, other_kind = describe(left), describe(right)
        if kind != other_kind or kind not in _ORDERED_KINDS:
            raise RenderError(f"`{sign}` cannot compare {kind} with {other_kind}; {_conversion(left, right)}")
        return compare(left, right)

    return compare_in_order


def _conversion(left: Any, right: Any) -> str:
    """Say how to make two values comparable."""
    if left is None or right is None:
        return "`| default(0)` replaces a missing value"
    if isinstance(left, bool) or isinstance(right, bool):
        return '`== "true"` makes true or false of a string, and `!= 0` of a number'
    if isinstance(left, str) or isinstance(right, str):
        return "`| float` converts a string to a number, and `| string` a number to a string"
    return "compare a field of it, or its `| length`"


#: Comparisons by Jinja's names, which `selectattr` uses too.
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": equal,
    "equalto": equal,
    "ne": lambda left, right: not equal(left, right),
    "lt": _order(operator.lt, "<"),
    "le": _order(operator.le, "<="),
    "lteq": _order(operator.le, "<="),
    "gt": _order(operator.gt, ">"),
    "ge": _order(operator.ge, ">="),
    "gteq": _order(operator.ge, ">="),
    "in": lambda element, container: contains(container, element),
}


def compare(first: Any, *rest: Any) -> bool:
    """Evaluate a chain of comparisons such as `0 < x <= 1`: the first value, then operators and values in turn."""
    if len(rest) == 2:  # noqa: PLR2004 - one operator and one value, the usual case
        return COMPARISONS[rest[0]](first, rest[1])
    left = first
    for comparison, right in zip(rest[::2], rest[1::2], strict=True):
        if not COMPARISONS[comparison](left, right):
            return False
        left = right
    return True


def contains(container: Any, element: Any) -> bool:
    """
    Evaluate `element in container`.

    Raises:
        RenderError: The element is a text, a number, or true or false, and everything in the container is of another
            of these kinds, so that it is never in it.
    """
    if isinstance(container, dict):
        return check_key(element) in container or _is_absent(element, container)
    check_comparable(element)
    check_comparable(container)
    if isinstance(container, str):
        if not isinstance(element, str):
            raise RenderError(f"{describe(element)} is never in a string; {_conversion(element, container)}")
        _spend_search(container, element)
        return element in container
    if not isinstance(container, list | tuple):
        raise RenderError(f"`in` needs a list, a mapping or a string after it, not {describe(container)}")
    is_ascii_text = isinstance(element, str) and element.isascii()
    is_found = element in container if is_ascii_text else any(_is_same(element, member) for member in container)
    return is_found or _is_absent(element, container)


def _is_absent(element: Any, container: Iterable[Any]) -> bool:
    """Return False for an element that is not in a container. Raise RenderError if it never can be, by its kind."""
    if not isinstance(element, _SCALARS):
        return False
    kind, first = describe(element), next(iter(container), None)
    if isinstance(first, _SCALARS) and all(
        isinstance(member, _SCALARS) and describe(member) != kind for member in container
    ):
        raise RenderError(f"{kind} and {describe(first)} are never equal; {_conversion(element, first)}")
    return False


def check_key(value: Any) -> Any:
    """Return a value that becomes a key of a mapping. Hashing a list has no bound."""
    if value is not None and not isinstance(value, str | int | float):
        raise RenderError(f"{describe(value)} cannot be a key; use a text or a number")
    return str(value) if isinstance(value, SlackText) else value


def slice_(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """Evaluate `value[start:stop:step]` of a text or a list."""
    if not isinstance(value, str | list | tuple):
        raise RenderError(f"a part can be taken of a text or a list, not of {describe(value)}")
    BUDGET.spend(1 + (len(value) // _CHARS_PER_UNIT if isinstance(value, str) else len(value)))
    part = value[start:stop:step]
    return SlackText(_PARTIAL_ENTITY.sub("", str(part))) if isinstance(value, SlackText) else part


def _spend_search(text: str, part: str) -> None:
    """Count a search for a part of a text. Python compares all pairs of characters at worst."""
    BUDGET.spend(1 + len(text) * (1 + len(part)) // _COMPARISONS_PER_SEARCH_UNIT)


def iterate(value: Any, body_nodes: int) -> Iterable[Any]:
    """
    Return what a loop runs over: a list, or the keys of a mapping.

    Args:
        value: The expression after `in`.
        body_nodes: How many nodes of the template each iteration evaluates.
    """
    BUDGET.spend(len(_sequence(value)) * body_nodes)
    return _elements(value)


def concat(*values: Any) -> str:
    """Evaluate the operator `~`. If one text is escaped for Slack, the others are escaped, too."""
    parts = [to_text(value) for value in values]
    is_escaped = any(isinstance(part, SlackText) for part in parts)
    if is_escaped:
        parts = [_escape(part) for part in parts]
    _check_length(sum(map(len, parts)))
    return SlackText("".join(parts)) if is_escaped else "".join(parts)


class SlackText(str):
    """A text that is ready for Slack: escaped, or the markup of an author. It is not escaped again."""

    __slots__ = ()


_PARTIAL_ENTITY = re.compile(r"&[a-z]*\Z")  # at the end of an escaped text that was cut
_UPPER_ENTITY = re.compile(r"&(?:AMP|LT|GT);")


def _escape(text: str) -> SlackText:
    """Escape a text as Slack requires: only these three characters, `&` first."""
    if isinstance(text, SlackText):
        return text
    return SlackText(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def to_slack_text(value: Any) -> SlackText:
    """Convert a value to a part of a text for Slack: escape it, unless it is markup or escaped already."""
    return _escape(_text(value))


def escape_slack_data(value: Any, *, is_text: bool) -> Any:
    """
    Escape what Slack reads as markup in a value that keeps its type.

    Args:
        value: A string, or blocks or parts of them, whose strings at the key `text` are escaped.
        is_text: Whether Slack reads the value itself as a text.
    """
    if isinstance(value, str):
        return to_slack_text(value) if is_text else value
    if isinstance(value, dict | list | tuple):
        _measure(value)
        return _escape_parts(value)
    return value


def _escape_parts(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_escape_parts(item) for item in value]
    if not isinstance(value, dict) or is_literal_block(value):
        return value
    return {
        key: _escape(item) if key == "text" and isinstance(item, str) else _escape_parts(item)
        for key, item in value.items()
    }


def _json(value: Any, *, indent: bool = False) -> bytes:
    size = _measure(value)
    if indent:
        BUDGET.spend(2 * size.nodes * size.depth // _CHARS_PER_UNIT)
    if size.chars > MAX_OUTPUT_BYTES:
        BUDGET.emit(size.chars)  # raises RenderError: its JSON is at least as long
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None)
    except TypeError as error:
        if "64-bit" in str(error):
            raise RenderError("an integer beyond 64 bits cannot be written as JSON; send it as a string") from None
        raise RenderError("only plain data can be written as JSON; name the field or the secret") from None


def _check_length(chars: int) -> None:
    """Raise RenderError for a string that would be too long, before it exists."""
    BUDGET.spend(1 + chars // _CHARS_PER_UNIT)
    if chars > MAX_OUTPUT_BYTES:
        raise RenderError(f"the text would be longer than {MAX_OUTPUT_BYTES // 1024} KB")


def _text(value: Any, *, chars_per_unit: int = _CHARS_PER_UNIT) -> str:
    """Convert a value to a text that something is about to read in full."""
    text = to_text(value)
    BUDGET.spend(1 + len(text) // chars_per_unit)
    return text


def _sequence(value: Any) -> Sequence[Any] | dict[Any, Any]:
    if isinstance(value, list | tuple | dict):
        return value
    raise RenderError(f"this must be a list, not {describe(value)}")


def _elements(value: Any) -> Sequence[Any]:
    """Return the elements of a list, or the keys of a mapping, to walk over them."""
    elements = _sequence(value)
    BUDGET.spend(len(elements))
    return list(elements) if isinstance(elements, dict) else elements


def _check_number(number: int) -> int:
    if number.bit_length() > MAX_NUMBER_BITS:
        raise RenderError("this number is too large")
    return number


def _check_finite(number: float) -> int | float:
    if isinstance(number, int):
        return _check_number(number)
    if not math.isfinite(number):
        raise OverflowError
    return number


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RenderError(f"this must be a number, not {describe(value)}; `| float` converts a string")
    return value


def _keys(path: Any) -> list[str]:
    """Return the keys of a path such as `metrics.accuracy`."""
    if not isinstance(path, str) or len(path) > _MAX_FIELD_CHARS:
        raise RenderError(f"a field is named by a text of at most {_MAX_FIELD_CHARS} characters")
    return path.split(".")


def _fields(elements: Sequence[Any], path: Any) -> list[Any]:
    """Return one field of each element."""
    keys = _keys(path)
    BUDGET.spend(len(elements) * len(keys))
    found = []
    for element in elements:
        value = element
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise RenderError(f"an element of the list has no {path!r}")
            value = value[key]
        found.append(value)
    return found


def _values(value: Any, attribute: str | None) -> list[Any]:
    """Return the elements, or one field of each."""
    elements = _elements(value)
    return list(elements) if attribute is None else _fields(elements, attribute)


def _spend_ordering(values: Sequence[Any], comparisons: int) -> None:
    """Count comparisons of each value with others."""
    if any(isinstance(value, str | list | tuple) for value in values):
        before = BUDGET.work
        for value in values:
            check_comparable(value)
        BUDGET.spend((before - BUDGET.work) * (comparisons - 1))
    else:
        BUDGET.spend(len(values) * comparisons)


# --- filters --------------------------------------------------------------------------------------


def _default(value: Any, fallback: Any = "", also_empty: Any = None) -> Any:
    # The sandbox replaces an unknown value by null before it calls this.
    return fallback if value is None or (also_empty and not value) else value


def _tojson(value: Any, indent: Any = None) -> str:
    encoded = _json(value, indent=bool(indent))
    _check_length(len(encoded))
    return encoded.decode()


def _like(value: Any, text: str) -> str:
    """Return a text that was made from a value. It needs no escaping if the value needed none."""
    return SlackText(text) if isinstance(value, SlackText) else text


def _replace(value: Any, old: Any, new: Any) -> str:
    text, before, after = _text(value), to_text(old), to_text(new)
    if isinstance(text, SlackText):
        before, after = _escape(before), _escape(after)
    if not before:
        raise RenderError("`replace` needs a text to search for")
    _spend_search(text, before)
    _check_length(len(text) + text.count(before) * (len(after) - len(before)))
    return _like(text, text.replace(before, after))


def _split(value: Any, separator: Any = None) -> list[str]:
    text, between = to_text(value), None if separator is None else to_text(separator) or None
    if between is None:
        return [_like(text, part) for part in _text(text, chars_per_unit=_CHARS_PER_SLOW_UNIT).split()]
    _spend_search(text, between)
    BUDGET.spend(text.count(between))
    return [_like(text, part) for part in text.split(between)]


def _truncate(value: Any, length: Any = 255, end: Any = "…") -> str:
    text, ending = _text(value), _text(end)
    if len(text) <= _number(length):
        return text
    if isinstance(text, SlackText):
        ending = _escape(ending)
        return SlackText(_PARTIAL_ENTITY.sub("", text[: max(0, int(length) - len(ending))]) + ending)
    return text[: max(0, int(length) - len(ending))] + ending


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return SlackText(_text(value))
    if isinstance(value, dict | list | tuple):
        _measure(value)
        return _mark_safe(value)
    return value


def _mark_safe(value: Any) -> Any:
    if isinstance(value, str):
        return SlackText(value)
    if isinstance(value, dict):
        return {key: _mark_safe(item) for key, item in value.items()}
    return [_mark_safe(item) for item in value] if isinstance(value, list | tuple) else value


def _upper(value: Any) -> str:
    text = _text(value)
    return _like(text, _UPPER_ENTITY.sub(lambda entity: entity[0].lower(), text.upper()))


_NO_DEFAULT = object()


def _convert(value: Any, number: float | None, default: Any, name: str) -> Any:
    if isinstance(value, str):
        BUDGET.spend(1 + len(value) // _CHARS_PER_UNIT)
    if number is not None:
        return _check_number(number) if isinstance(number, int) else number
    if default is _NO_DEFAULT:
        raise RenderError(f"this is not a number; give a value for that case: `| {name}(0)`")
    return default


def _int(value: Any, default: Any = _NO_DEFAULT) -> Any:
    number = read_whole(value) if isinstance(value, str) else int(value) if _is_number(value) else None
    return _convert(value, number, default, "int")


def _float(value: Any, default: Any = _NO_DEFAULT) -> Any:
    number = read_decimal(value) if isinstance(value, str) else float(value) if _is_number(value) else None
    return _convert(value, number, default, "float")


def _round(value: Any, precision: Any = 0) -> int | float:
    decimals = _number(precision)
    if not isinstance(decimals, int) or abs(decimals) > _MAX_DECIMALS:
        raise RenderError(f"`round` takes a whole number of decimals, at most {_MAX_DECIMALS}")
    try:
        return round(_number(value), decimals) if decimals > 0 else int(round(_number(value), decimals))
    except (ValueError, OverflowError):
        raise RenderError("an infinite number cannot be rounded") from None


def _first(value: Any) -> Any:
    if isinstance(value, str):
        return value[0] if value else None
    return next(iter(_sequence(value)), None)


def _last(value: Any) -> Any:
    if isinstance(value, str):
        return value[-1] if value else None
    return next(iter(reversed(_sequence(value))), None)


def _ordered(action: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    try:
        return action(values)
    except TypeError:
        raise RenderError("the elements are of different kinds and cannot be ordered") from None


def _extreme(value: Any, attribute: str | None, choose: Callable[..., Any]) -> Any:
    values = _values(value, attribute)
    _spend_ordering(values, comparisons=2)
    return _ordered(lambda values: choose(values, default=None), values)


def _sum(value: Any, attribute: str | None = None) -> int | float:
    try:
        return _check_finite(sum(_number(element) for element in _values(value, attribute)))
    except OverflowError:
        raise RenderError("the sum is too large") from None


def _sort(value: Any, reverse: Any = None, attribute: str | None = None) -> list[Any]:
    elements = _elements(value)
    keys = list(elements) if attribute is None else _fields(elements, attribute)
    _spend_ordering(keys, comparisons=1 + len(keys).bit_length())
    order = _ordered(
        lambda indexes: sorted(indexes, key=keys.__getitem__, reverse=bool(reverse)), list(range(len(keys)))
    )
    return [elements[index] for index in order]


def _unique(value: Any, attribute: str | None = None) -> list[Any]:
    elements = _elements(value)
    first_indexes: dict[Any, int] = {}
    for index, key in enumerate(elements if attribute is None else _fields(elements, attribute)):
        # A list cannot be hashed, and hashing a tuple of tuples has no bound. Their JSON takes their place.
        hashable = _json(key) if isinstance(key, dict | list | tuple) else check_comparable(key)
        first_indexes.setdefault(hashable, index)
    return [elements[index] for index in first_indexes.values()]


def _join(value: Any, separator: Any = "", attribute: str | None = None) -> str:
    parts = [to_text(element) for element in _values(value, attribute)]
    between = to_text(separator)
    is_escaped = any(isinstance(part, SlackText) for part in (between, *parts))
    if is_escaped:
        between, parts = _escape(between), [_escape(part) for part in parts]
    _check_length(sum(map(len, parts)) + len(between) * len(parts))
    return SlackText(between.join(parts)) if is_escaped else between.join(parts)


def _map(value: Any, attribute: str) -> list[Any]:
    return _fields(_elements(value), attribute)


def _select(value: Any, attribute: str, comparison: str | None, operand: Any, *, wanted: bool) -> list[Any]:
    if comparison is not None and comparison not in COMPARISONS:
        raise RenderError(f"`selectattr` and `rejectattr` compare with one of {', '.join(COMPARISONS)}")
    elements = _elements(value)
    fields = _fields(elements, attribute)
    if comparison is None:
        return [
            element
            for element, found in zip(elements, fields, strict=True)
            if check_condition(found, attribute) is wanted
        ]
    compare_field = COMPARISONS[comparison]
    return [element for element, found in zip(elements, fields, strict=True) if compare_field(found, operand) is wanted]


def _selectattr(value: Any, attribute: str, comparison: str | None = None, operand: Any = None) -> list[Any]:
    return _select(value, attribute, comparison, operand, wanted=True)


def _rejectattr(value: Any, attribute: str, comparison: str | None = None, operand: Any = None) -> list[Any]:
    return _select(value, attribute, comparison, operand, wanted=False)


def _urlencode(value: Any) -> str:
    encoded = _text(value, chars_per_unit=_CHARS_PER_SLOW_UNIT).encode("utf-8", "strict")
    BUDGET.spend(len(encoded.translate(None, _UNRESERVED)) // _CHARS_PER_SLOW_UNIT)
    return quote(encoded, safe="")


def _items(value: Any) -> list[list[Any]]:
    if not isinstance(value, dict):
        raise RenderError(f"`items` takes a mapping, not {describe(value)}")
    BUDGET.spend(len(value))
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
    "length": lambda value: len(value if isinstance(value, str) else _sequence(value)),
    "list": lambda value: list(_elements(value)),
    "lower": lambda value: _like(value, _text(value).lower()),
    "map": _map,
    "max": lambda value, attribute=None: _extreme(value, attribute, max),
    "min": lambda value, attribute=None: _extreme(value, attribute, min),
    "rejectattr": _rejectattr,
    "replace": _replace,
    "round": _round,
    "selectattr": _selectattr,
    "safe": _safe,
    "slack": to_slack_text,
    "sort": _sort,
    "split": _split,
    "string": to_text,
    "sum": _sum,
    "title": lambda value: _like(value, string.capwords(_text(value, chars_per_unit=_CHARS_PER_SLOW_UNIT))),
    "tojson": _tojson,
    "trim": lambda value: _like(value, _text(value).strip()),
    "truncate": _truncate,
    "unique": _unique,
    "upper": _upper,
    "urlencode": _urlencode,
}


# --- tests ----------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _matches(value: Any, glob: Any) -> bool:
    text, pattern = to_text(value), to_text(glob)
    if len(pattern) > _MAX_GLOB_CHARS:
        raise RenderError(f"a glob can have at most {_MAX_GLOB_CHARS} characters")
    BUDGET.spend(1 + _UNITS_PER_GLOB_CHAR * len(pattern) + len(text) * (1 + pattern.count("*")) // _CHARS_PER_GLOB_UNIT)
    name, pattern = to_nfc(text), to_nfc(pattern)
    return name == pattern or fnmatchcase(name, pattern)


TESTS: dict[str, Callable[..., bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "divisibleby": lambda value, number: modulo(value, number) == 0,
    "endingwith": lambda value, end: _text(value).endswith(_text(end)),
    "even": lambda value: modulo(value, 2) == 0,
    "false": lambda value: value is False,
    "float": lambda value: isinstance(value, float),
    "in": lambda value, container: contains(container, value),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "mapping": lambda value: isinstance(value, dict),
    "matching": _matches,
    "none": lambda value: value is None,
    "number": _is_number,
    "odd": lambda value: modulo(value, 2) == 1,
    "sequence": lambda value: isinstance(value, list | tuple | str),
    "startingwith": lambda value, start: _text(value).startswith(_text(start)),
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
        return _check_finite(action(left, right))
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
