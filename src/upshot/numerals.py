"""Numbers as people and programs write them: ASCII digits only, without separators, and finite."""

from __future__ import annotations

import math
import re

_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SPACES = " \t\r\n"  # allowed around a number
_MAX_CHARS = 400  #: longer numbers are rejected


def read_whole(text: str) -> int | None:
    """Read a whole number such as `12`. Return None for anything else, such as `1_000`, `1.0` or digits of Arabic."""
    text = text.strip(_SPACES)
    return int(text) if len(text) <= _MAX_CHARS and _WHOLE.fullmatch(text) else None


def read_decimal(text: str) -> float | None:
    """Read a number such as `0.93` or `5e-4`. Return None for anything else, such as `NaN`, `inf` or `1_000`."""
    text = text.strip(_SPACES)
    if len(text) > _MAX_CHARS or not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None
