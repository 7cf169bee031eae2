"""
Tests of templates (`x is …`): `defined`, `undefined`, `none`, `true`, `false`, `boolean`, `string`, `number`,
`integer`, `float`, `mapping`, `sequence`, `odd`, `even`, `divisibleby(n)`, `in(list)`, `startingwith(text)`,
`endingwith(text)`, `matching(glob)`.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from upshot.automations.expressions.budget import BUDGET, RenderError
from upshot.automations.expressions.comparisons import contains
from upshot.automations.expressions.operators import modulo
from upshot.automations.expressions.values import is_number, read_text, to_text
from upshot.unicode_text import to_nfc

_MAX_GLOB_CHARS = 256


_CHARS_PER_GLOB_UNIT = 8


_UNITS_PER_GLOB_CHAR = 4  # of a pattern, which is compiled


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
    "endingwith": lambda value, end: read_text(value).endswith(read_text(end)),
    "even": lambda value: modulo(value, 2) == 0,
    "false": lambda value: value is False,
    "float": lambda value: isinstance(value, float),
    "in": lambda value, container: contains(container, value),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "mapping": lambda value: isinstance(value, dict),
    "matching": _matches,
    "none": lambda value: value is None,
    "number": is_number,
    "odd": lambda value: modulo(value, 2) == 1,
    "sequence": lambda value: isinstance(value, list | tuple | str),
    "startingwith": lambda value, start: read_text(value).startswith(read_text(start)),
    "string": lambda value: isinstance(value, str),
    "true": lambda value: value is True,
}
