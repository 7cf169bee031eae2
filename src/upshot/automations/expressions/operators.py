"""Operators of templates: arithmetic, `~`, slices, keys and loops."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from upshot.automations.expressions.budget import BUDGET, RenderError
from upshot.automations.expressions.slack_text import PARTIAL_ENTITY, SlackText, escape
from upshot.automations.expressions.values import (
    CHARS_PER_UNIT,
    MAX_NUMBER_BITS,
    check_finite,
    check_length,
    describe,
    is_number,
    to_elements,
    to_sequence,
    to_text,
)


def check_key(value: Any) -> Any:
    """Return a value that becomes a key of a mapping. Hashing a list has no bound."""
    if value is not None and not isinstance(value, str | int | float):
        raise RenderError(f"{describe(value)} cannot be a key; use a text or a number")
    return str(value) if isinstance(value, SlackText) else value


def slice_(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """Evaluate `value[start:stop:step]` of a text or a list."""
    if not isinstance(value, str | list | tuple):
        raise RenderError(f"a part can be taken of a text or a list, not of {describe(value)}")
    BUDGET.spend(1 + (len(value) // CHARS_PER_UNIT if isinstance(value, str) else len(value)))
    part = value[start:stop:step]
    return SlackText(PARTIAL_ENTITY.sub("", str(part))) if isinstance(value, SlackText) else part


def iterate(value: Any, body_nodes: int) -> Iterable[Any]:
    """
    Return what a loop runs over: a list, or the keys of a mapping.

    Args:
        value: The expression after `in`.
        body_nodes: How many nodes of the template each iteration evaluates.
    """
    BUDGET.spend(len(to_sequence(value)) * body_nodes)
    return to_elements(value)


def concat(*values: Any) -> str:
    """Evaluate the operator `~`. If one text is escaped for Slack, the others are escaped, too."""
    parts = [to_text(value) for value in values]
    is_escaped = any(isinstance(part, SlackText) for part in parts)
    if is_escaped:
        parts = [escape(part) for part in parts]
    check_length(sum(map(len, parts)))
    return SlackText("".join(parts)) if is_escaped else "".join(parts)


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
    if not (is_number(left) and is_number(right)):
        remedy = "write `~` to join texts" if sign == "+" else "`| float` converts a string to a number"
        raise RenderError(f"`{sign}` does not work with {describe(left)} and {describe(right)}; {remedy}")
    try:
        return check_finite(action(left, right))
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
