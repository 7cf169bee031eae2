"""
Values of templates: conversion to text and to JSON, and their size.

A value is counted as often as it occurs, because a list of a thousand references to one long text is small in memory
and large in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from upshot.automations.expressions.budget import BUDGET, MAX_OUTPUT_BYTES, RenderError
from upshot.validation import describe_value

MAX_NUMBER_BITS = 1024  #: the range of a float; larger integers are useful only to exhaust memory


MAX_DEPTH = 100  #: of lists in lists; what walks over a value in C has a limit of its own, or none


CHARS_PER_UNIT = 64


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
        return str(check_number(value))
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
    encoded = to_json(value)
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


def measure(value: Any) -> _Size:
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
        BUDGET.spend(level_chars // CHARS_PER_UNIT)
        chars += level_chars
        level = below
    return _Size(nodes, chars, depth)


def to_json(value: Any, *, indent: bool = False) -> bytes:
    """Convert plain data to JSON. Raises RenderError if it is not plain data, or too large."""
    size = measure(value)
    if indent:
        BUDGET.spend(2 * size.nodes * size.depth // CHARS_PER_UNIT)
    if size.chars > MAX_OUTPUT_BYTES:
        BUDGET.emit(size.chars)  # raises RenderError: its JSON is at least as long
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None)
    except TypeError as error:
        if "64-bit" in str(error):
            raise RenderError("an integer beyond 64 bits cannot be written as JSON; send it as a string") from None
        raise RenderError("only plain data can be written as JSON; name the field or the secret") from None


def check_length(chars: int) -> None:
    """Raise RenderError for a string that would be too long, before it exists."""
    BUDGET.spend(1 + chars // CHARS_PER_UNIT)
    if chars > MAX_OUTPUT_BYTES:
        raise RenderError(f"the text would be longer than {MAX_OUTPUT_BYTES // 1024} KB")


def read_text(value: Any, *, chars_per_unit: int = CHARS_PER_UNIT) -> str:
    """Convert a value to a text that something is about to read in full."""
    text = to_text(value)
    BUDGET.spend(1 + len(text) // chars_per_unit)
    return text


def to_sequence(value: Any) -> Sequence[Any] | dict[Any, Any]:
    """Return a list, or a mapping, whose keys count as its elements."""
    if isinstance(value, list | tuple | dict):
        return value
    raise RenderError(f"this must be a list, not {describe(value)}")


def to_elements(value: Any) -> Sequence[Any]:
    """Return the elements of a list, or the keys of a mapping, to walk over them."""
    elements = to_sequence(value)
    BUDGET.spend(len(elements))
    return list(elements) if isinstance(elements, dict) else elements


def check_number(number: int) -> int:
    """Return a whole number. Raises RenderError if it is too large."""
    if number.bit_length() > MAX_NUMBER_BITS:
        raise RenderError("this number is too large")
    return number


def check_finite(number: float) -> int | float:
    """Return a number that was computed. Raises OverflowError if it is not finite."""
    if isinstance(number, int):
        return check_number(number)
    if not math.isfinite(number):
        raise OverflowError
    return number


def to_number(value: Any) -> int | float:
    """Return a number. Raises RenderError if the value is not one; true and false are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RenderError(f"this must be a number, not {describe(value)}; `| float` converts a string")
    return value


def is_number(value: Any) -> bool:
    """Return whether a value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
