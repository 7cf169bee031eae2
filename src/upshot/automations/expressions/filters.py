"""
Filters of templates.

Each counts its cost before it computes.

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
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from upshot.automations.expressions.budget import BUDGET, RenderError
from upshot.automations.expressions.comparisons import (
    COMPARISONS,
    check_comparable,
    check_condition,
    spend_search,
)
from upshot.automations.expressions.slack_text import (
    PARTIAL_ENTITY,
    UPPER_ENTITY,
    SlackText,
    escape,
    escaped_like,
    mark_safe,
    to_slack_text,
)
from upshot.automations.expressions.values import (
    CHARS_PER_UNIT,
    check_finite,
    check_length,
    check_number,
    describe,
    is_number,
    read_text,
    to_elements,
    to_json,
    to_number,
    to_sequence,
    to_text,
)
from upshot.numerals import read_decimal, read_whole

_MAX_FIELD_CHARS = 256  # of a path such as `attribute="metrics.accuracy"`


_MAX_DECIMALS = 20


_CHARS_PER_SLOW_UNIT = 4  # of operations that make an object of each word or byte


_UNRESERVED = string.ascii_letters.encode() + string.digits.encode() + b"_.-~"  # what `urlencode` keeps


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
    elements = to_elements(value)
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


def _default(value: Any, fallback: Any = "", also_empty: Any = None) -> Any:
    # The sandbox replaces an unknown value by null before it calls this.
    return fallback if value is None or (also_empty and not value) else value


def _tojson(value: Any, indent: Any = None) -> str:
    encoded = to_json(value, indent=bool(indent))
    check_length(len(encoded))
    return encoded.decode()


def _replace(value: Any, old: Any, new: Any) -> str:
    text, before, after = read_text(value), to_text(old), to_text(new)
    if isinstance(text, SlackText):
        before, after = escape(before), escape(after)
    if not before:
        raise RenderError("`replace` needs a text to search for")
    spend_search(text, before)
    check_length(len(text) + text.count(before) * (len(after) - len(before)))
    return escaped_like(text, text.replace(before, after))


def _split(value: Any, separator: Any = None) -> list[str]:
    text, between = to_text(value), None if separator is None else to_text(separator) or None
    if between is None:
        return [escaped_like(text, part) for part in read_text(text, chars_per_unit=_CHARS_PER_SLOW_UNIT).split()]
    spend_search(text, between)
    BUDGET.spend(text.count(between))
    return [escaped_like(text, part) for part in text.split(between)]


def _truncate(value: Any, length: Any = 255, end: Any = "…") -> str:
    text, ending = read_text(value), read_text(end)
    if len(text) <= to_number(length):
        return text
    if isinstance(text, SlackText):
        ending = escape(ending)
        return SlackText(PARTIAL_ENTITY.sub("", text[: max(0, int(length) - len(ending))]) + ending)
    return text[: max(0, int(length) - len(ending))] + ending


def _upper(value: Any) -> str:
    text = read_text(value)
    return escaped_like(text, UPPER_ENTITY.sub(lambda entity: entity[0].lower(), text.upper()))


_NO_DEFAULT = object()


def _convert(value: Any, number: float | None, default: Any, name: str) -> Any:
    if isinstance(value, str):
        BUDGET.spend(1 + len(value) // CHARS_PER_UNIT)
    if number is not None:
        return check_number(number) if isinstance(number, int) else number
    if default is _NO_DEFAULT:
        raise RenderError(f"this is not a number; give a value for that case: `| {name}(0)`")
    return default


def _int(value: Any, default: Any = _NO_DEFAULT) -> Any:
    number = read_whole(value) if isinstance(value, str) else int(value) if is_number(value) else None
    return _convert(value, number, default, "int")


def _float(value: Any, default: Any = _NO_DEFAULT) -> Any:
    number = read_decimal(value) if isinstance(value, str) else float(value) if is_number(value) else None
    return _convert(value, number, default, "float")


def _round(value: Any, precision: Any = 0) -> int | float:
    decimals = to_number(precision)
    if not isinstance(decimals, int) or abs(decimals) > _MAX_DECIMALS:
        raise RenderError(f"`round` takes a whole number of decimals, at most {_MAX_DECIMALS}")
    try:
        return round(to_number(value), decimals) if decimals > 0 else int(round(to_number(value), decimals))
    except (ValueError, OverflowError):
        raise RenderError("an infinite number cannot be rounded") from None


def _first(value: Any) -> Any:
    if isinstance(value, str):
        return value[0] if value else None
    return next(iter(to_sequence(value)), None)


def _last(value: Any) -> Any:
    if isinstance(value, str):
        return value[-1] if value else None
    return next(iter(reversed(to_sequence(value))), None)


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
        return check_finite(sum(to_number(element) for element in _values(value, attribute)))
    except OverflowError:
        raise RenderError("the sum is too large") from None


def _sort(value: Any, reverse: Any = None, attribute: str | None = None) -> list[Any]:
    elements = to_elements(value)
    keys = list(elements) if attribute is None else _fields(elements, attribute)
    _spend_ordering(keys, comparisons=1 + len(keys).bit_length())
    order = _ordered(
        lambda indexes: sorted(indexes, key=keys.__getitem__, reverse=bool(reverse)), list(range(len(keys)))
    )
    return [elements[index] for index in order]


def _unique(value: Any, attribute: str | None = None) -> list[Any]:
    elements = to_elements(value)
    first_indexes: dict[Any, int] = {}
    for index, key in enumerate(elements if attribute is None else _fields(elements, attribute)):
        # A list cannot be hashed, and hashing a tuple of tuples has no bound. Their JSON takes their place.
        hashable = to_json(key) if isinstance(key, dict | list | tuple) else check_comparable(key)
        first_indexes.setdefault(hashable, index)
    return [elements[index] for index in first_indexes.values()]


def _join(value: Any, separator: Any = "", attribute: str | None = None) -> str:
    parts = [to_text(element) for element in _values(value, attribute)]
    between = to_text(separator)
    is_escaped = any(isinstance(part, SlackText) for part in (between, *parts))
    if is_escaped:
        between, parts = escape(between), [escape(part) for part in parts]
    check_length(sum(map(len, parts)) + len(between) * len(parts))
    return SlackText(between.join(parts)) if is_escaped else between.join(parts)


def _map(value: Any, attribute: str) -> list[Any]:
    return _fields(to_elements(value), attribute)


def _select(value: Any, attribute: str, comparison: str | None, operand: Any, *, wanted: bool) -> list[Any]:
    if comparison is not None and comparison not in COMPARISONS:
        raise RenderError(f"`selectattr` and `rejectattr` compare with one of {', '.join(COMPARISONS)}")
    elements = to_elements(value)
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
    encoded = read_text(value, chars_per_unit=_CHARS_PER_SLOW_UNIT).encode("utf-8", "strict")
    BUDGET.spend(len(encoded.translate(None, _UNRESERVED)) // _CHARS_PER_SLOW_UNIT)
    return quote(encoded, safe="")


def _items(value: Any) -> list[list[Any]]:
    if not isinstance(value, dict):
        raise RenderError(f"`items` takes a mapping, not {describe(value)}")
    BUDGET.spend(len(value))
    return [[key, member] for key, member in value.items()]


FILTERS: dict[str, Callable[..., Any]] = {
    "abs": lambda value: abs(to_number(value)),
    "default": _default,
    "first": _first,
    "float": _float,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _last,
    "length": lambda value: len(value if isinstance(value, str) else to_sequence(value)),
    "list": lambda value: list(to_elements(value)),
    "lower": lambda value: escaped_like(value, read_text(value).lower()),
    "map": _map,
    "max": lambda value, attribute=None: _extreme(value, attribute, max),
    "min": lambda value, attribute=None: _extreme(value, attribute, min),
    "rejectattr": _rejectattr,
    "replace": _replace,
    "round": _round,
    "selectattr": _selectattr,
    "safe": mark_safe,
    "slack": to_slack_text,
    "sort": _sort,
    "split": _split,
    "string": to_text,
    "sum": _sum,
    "title": lambda value: escaped_like(value, string.capwords(read_text(value, chars_per_unit=_CHARS_PER_SLOW_UNIT))),
    "tojson": _tojson,
    "trim": lambda value: escaped_like(value, read_text(value).strip()),
    "truncate": _truncate,
    "unique": _unique,
    "upper": _upper,
    "urlencode": _urlencode,
}
