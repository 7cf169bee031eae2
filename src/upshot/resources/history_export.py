"""The history as text for an audit: CSV, or one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Literal

from upshot.csv_text import csv_line
from upshot.resources.registry import HistoryEntryJson

ExportFormat = Literal["csv", "jsonl"]

_FIELDS = tuple(HistoryEntryJson.__annotations__)


def export_lines(entries: Iterable[HistoryEntryJson], export_format: ExportFormat) -> Iterator[str]:
    """Yield the lines of an export, each with its line end. CSV has a header, and its `before` and `after` are JSON."""
    if export_format == "jsonl":
        for entry in entries:
            yield f"{json.dumps(entry, ensure_ascii=False)}\n"
        return
    yield csv_line(_FIELDS)
    for entry in entries:
        row = dict(entry)
        yield csv_line(
            json.dumps(row[name], ensure_ascii=False) if name in {"before", "after"} else row[name] for name in _FIELDS
        )
