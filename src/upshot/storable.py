"""Convert text and data to what every store accepts: SQLite, PostgreSQL and JSON columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import orjson

from upshot.clock import format_time
from upshot.unicode_text import to_storable_text

SUPPORTED_INTEGERS = range(-(2**63), 2**64)  #: what orjson reads and writes
MAX_DEPTH = 128  #: of nested lists and objects; orjson writes 254 levels, and a row adds some of its own
TOO_DEEP = f"(left out: nested deeper than {MAX_DEPTH} levels)"
_SMALL_PARTS = 1_000
_SMALL_CHARS = 64_000
_MAX_DECIMAL_BITS = 14_000  # about 4,200 digits; Python refuses to write more than 4,300


def is_small(value: Any, *, max_chars: int = _SMALL_CHARS) -> bool:
    """Return whether data has so few parts and characters that processing it takes less than a millisecond."""
    parts, chars = 0, 0
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str | bytes):
            chars += len(part)
        elif isinstance(part, Mapping | list | tuple):
            parts += len(part)
            if parts <= _SMALL_PARTS:
                rest += part.values() if isinstance(part, Mapping) else part
        if parts > _SMALL_PARTS or chars > max_chars:
            return False
    return True


def ensure_storable(value: Any) -> Any:
    """Return a value as it is if it can be stored. Otherwise return `to_storable` of it."""
    try:
        orjson.dumps([[[[[[[[value]]]]]]]], option=orjson.OPT_UTC_Z)  # more levels than a row adds around it
    except (TypeError, ValueError, RecursionError):
        return to_storable(value)
    return value


def to_storable(value: Any, depth: int = MAX_DEPTH) -> Any:
    """
    Convert a value to data that JSON can represent.

    An integer beyond 64 bits becomes a text, because a float would be another number. Infinity and NaN become None.
    An object that is not data becomes its text. A list or object below `depth` levels becomes `TOO_DEEP`.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return to_storable_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _to_storable_integer(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping | list | tuple) and depth == 0:
        return TOO_DEEP
    if isinstance(value, Mapping):
        return {to_storable_text(str(key)): to_storable(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_storable(item, depth - 1) for item in value]
    return _to_storable_object(value, depth)


def _to_storable_object(value: Any, depth: int) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if is_dataclass(value):
        if depth == 0:
            return TOO_DEEP
        return {field.name: to_storable(getattr(value, field.name), depth - 1) for field in fields(value)}
    return to_storable_text(str(value))


def _to_storable_integer(number: int) -> int | str:
    if number in SUPPORTED_INTEGERS:
        return number
    return str(number) if number.bit_length() < _MAX_DECIMAL_BITS else f"{number:#x}"
