"""CSV as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def csv_line(values: Iterable[object]) -> str:
    """Return one line with its end. A text that a spreadsheet takes for a formula gets a `'` in front (OWASP)."""
    line = io.StringIO()
    csv.writer(line).writerow([f"'{value}" if _is_formula(value) else value for value in values])
    return line.getvalue()


def _is_formula(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_FORMULA_STARTS)
