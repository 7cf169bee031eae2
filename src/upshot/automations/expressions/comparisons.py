"""Comparisons in templates: `==`, `<`, `in` and conditions. Values that never compare are an error that says so."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from upshot.automations.expressions.budget import BUDGET, RenderError
from upshot.automations.expressions.operators import check_key
from upshot.automations.expressions.values import CHARS_PER_UNIT, describe, measure
from upshot.unicode_text import to_nfc

_COMPARISONS_PER_SEARCH_UNIT = 512  # of two characters


def check_comparable(value: Any) -> Any:
    """Return a value that is about to be compared, after counting everything that the comparison may look at."""
    if isinstance(value, str):
        BUDGET.spend(1 + len(value) // CHARS_PER_UNIT)
    elif isinstance(value, dict | list | tuple):
        measure(value)
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
        spend_search(container, element)
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


def spend_search(text: str, part: str) -> None:
    """Count a search for a part of a text. Python compares all pairs of characters at worst."""
    BUDGET.spend(1 + len(text) * (1 + len(part)) // _COMPARISONS_PER_SEARCH_UNIT)
