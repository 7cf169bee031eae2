"""Convert text and data to what every store accepts: SQLite, PostgreSQL and JSON columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from upshot.clock import format_time

_SUPPORTED_INTEGERS = range(-(2**63), 2**64)  # what orjson reads and writes


def to_storable_text(text: str) -> str:
    """Replace NUL, which PostgreSQL rejects, and lone surrogates, which UTF-8 cannot encode."""
    valid = text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return valid.replace("\x00", "\ufffd")


def to_storable(value: Any) -> Any:
    """
    Convert a value to data that JSON can represent.

    An integer beyond 64 bits becomes a float, or a text if it is too large for a float. Infinity and
    NaN become None. An object that is not data becomes its text.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return to_storable_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _to_storable_integer(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {to_storable_text(str(key)): to_storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_storable(item) for item in value]
    return value if value is None or isinstance(value, bool) else _to_storable_object(value)


def _to_storable_object(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if is_dataclass(value):
        return {field.name: to_storable(getattr(value, field.name)) for field in fields(value)}
    return to_storable_text(str(value))


def _to_storable_integer(number: int) -> int | float | str:
    if number in _SUPPORTED_INTEGERS:
        return number
    try:
        return float(number)
    except OverflowError:
        return f"{number:#x}"  # not decimal, because that is slow, and Python limits its length
