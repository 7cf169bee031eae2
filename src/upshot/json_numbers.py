"""Numbers that JSON lacks: NaN and the infinities. Upshot's JSON has them as texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

NOT_FINITE: Final[Mapping[str, float]] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  #: by text


def to_json_number(number: float) -> float | str:
    """Return a number as JSON. NaN and the infinities become texts."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
