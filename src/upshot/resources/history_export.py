"""The history as text for an audit: CSV, or one JSON object per line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from upshot.resources.registry import HistoryEntryJson

ExportFormat = Literal["csv", "jsonl"]

_FIELDS = tuple(HistoryEntryJson.__annotations__)


def export_lines(entries: Iterable[HistoryEntryJson], export_format: ExportFormat) -> Iterator[str]:
    """Yield the lines of an export, each with its line end. CSV has a header, and its `before` and `after` are JSON."""
    if export_format == "jsonl":
        for entry in entries:
            yield f"{json.dumps(entry, ensure_ascii=False)}\n"
        return
    yield _csv_line(_FIELDS)
    for entry in entries:
        row = dict(entry)
        yield _csv_line(
            [
                json.dumps(row[name], ensure_ascii=False) if name in {"before", "after"} else _plain(row[name])
                for name in _FIELDS
            ]
        )


def _csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


def _plain(value: object) -> str:
    """Return a value as text that a spreadsheet does not take for a formula (CSV injection, OWASP)."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
