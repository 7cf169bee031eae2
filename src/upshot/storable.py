"""Text and data that every store can keep: SQLite, PostgreSQL and JSON columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from upshot.clock import format_time

_WHOLE_NUMBERS = range(-(2**63), 2**64)  # what JSON is written with here


def to_storable_text(text: str) -> str:
    """The text without NUL, which PostgreSQL refuses, and without halves of characters, which are no UTF-8."""
    whole = text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\x00", "\ufffd")


def to_storable(value: Any) -> Any:
    """
    The value as data that can be written as JSON and read again.

    Whole numbers beyond 64 bits become fractions, or texts where they are too large for that, too;
    infinity and what is no number become null; what is no data becomes its text.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return to_storable_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _number_to_storable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {to_storable_text(str(key)): to_storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_storable(item) for item in value]
    return value if value is None or isinstance(value, bool) else _object_to_storable(value)


def _object_to_storable(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if is_dataclass(value):
        return {field.name: to_storable(getattr(value, field.name)) for field in fields(value)}
    return to_storable_text(str(value))


def _number_to_storable(number: int) -> int | float | str:
    if number in _WHOLE_NUMBERS:
        return number
    try:
        return float(number)
    except OverflowError:
        return f"{number:#x}"  # in tens it would take long, and Python refuses to
