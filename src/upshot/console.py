"""
What commands print: tables and lines for people, JSON for programs.

It is a module of the base because both the command line and the demo print with it. It needs no
server, no client and no settings.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from upshot.clock import SystemClock, parse_time
from upshot.printable import dump_json, escape

_LINE_STARTS = re.compile(r"\r+\n?")
_WRAPPED_COLUMNS = 24  # minimum width of a column with sentences
_GAP_COLUMNS = 3  # between two columns of a table
_FILE_COLUMNS = 1_000  # files and other programs get each table row on one line
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "skipped": "dim",
    "waiting": "yellow",
    "running": "cyan",
    "queued": "yellow",
    "starting": "cyan",
    "stopping": "yellow",
    "refused": "red",
    "blocked": "red",
    "invalid": "red",
    "unmet": "red",
    "unreachable": "yellow",
    "unavailable": "yellow",
    "ambiguous": "yellow",
    "ok": "green",
    "verified": "green",
    "warn": "yellow",
    "fail": "red",
    "broken": "red",
}


class Output:
    """
    The standard output of one command.

    Args:
        as_json: Print JSON in place of tables and lines.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._is_terminal = sys.stdout.isatty()
        self._console = _console(None if self._is_terminal else _FILE_COLUMNS)

    def json(self, data: Any, *, compact: bool = False) -> None:
        """Print data as JSON: indented, or on one line if `compact` is true."""
        click.echo(dump_json(data, indent=None if compact else 2))

    def rows(
        self,
        items: Sequence[Any],
        columns: Mapping[str, Callable[[Any], Any]],
        *,
        empty: str,
        optional: Sequence[str] = (),
        wrapped: str | None = None,
    ) -> None:
        """
        Print a list. On a narrow terminal, columns are left out, so that every other cell can be copied.

        Args:
            items: The items as the API returned them. As JSON, they are printed completely.
            columns: Functions that return a cell's value for an item, by heading.
            empty: The line for people if there are no items.
            optional: Headings of columns that are left out first, in this order.
            wrapped: Heading of the column with sentences, which may take several lines.
        """
        if self.as_json:
            self.json(items)
            return
        if not items:
            self.line(empty)
            return
        cells = {heading: [_cell(value(item)) for item in items] for heading, value in columns.items()}
        widths = {
            heading: max(cell_len(heading), *(cell.cell_len for cell in column)) for heading, column in cells.items()
        }
        shown = tuple(columns)
        if self._console.is_terminal:
            empty_headings = [heading for heading in optional if not any(cell.plain for cell in cells[heading])]
            shown = fit_columns(widths, self._console.width, [*empty_headings, *optional], wrapped)
        rule = box.SIMPLE_HEAD if self._console.is_terminal else None
        table = Table(box=rule, pad_edge=False, show_edge=False)
        for heading in shown:
            is_wrapped = heading == wrapped and self._console.is_terminal
            table.add_column(
                heading, overflow="fold", no_wrap=not is_wrapped, min_width=None if is_wrapped else widths[heading]
            )
        for row in zip(*(cells[heading] for heading in shown), strict=True):
            table.add_row(*row)
        width = _table_width({heading: widths[heading] for heading in shown}, wrapped)
        _console(max(width, self._console.width)).print(table)
        if left_out := [heading for heading in columns if heading not in shown and any(cells[heading])]:
            self.line(self.dim(f"not shown: {', '.join(left_out)} (use a wider terminal, or --json)"))

    def result(self, data: Any, line: str) -> None:
        """Print the result of a command: its data as JSON, or one line for people."""
        if self.as_json:
            self.json(data)
        else:
            self.line(line)

    def fields(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """
        Print names and values, one pair per line. Pairs whose value is None are left out.

        The lines of a value stand below each other.
        """
        shown = [(escape(name, keep=""), _cell(value)) for name, value in pairs if value is not None]
        width = max((cell_len(name) for name, _ in shown), default=0)
        for name, value in shown:
            beside = name + " " * (width - cell_len(name))
            for line in value.split("\n", allow_blank=True):
                self.line(beside, "  ", line)
                beside = " " * width

    def line(self, *parts: str | Text) -> None:
        """Print one line for people."""
        self._console.print(
            Text.assemble(*(escape(part) if isinstance(part, str) else part for part in parts)), soft_wrap=True
        )

    def text(self, text: str, *, indent: int = 0) -> None:
        """Print several lines without wrapping them."""
        for line in text.splitlines():
            self.line(" " * indent, line)

    def raw(self, text: str) -> None:
        """
        Print a program's output without adding anything to it.

        A file or another program gets every character. On a terminal, a carriage return starts a new
        line, so that each state of a progress bar stays visible, and control characters are escaped.
        """
        shown = escape(_LINE_STARTS.sub("\n", text), keep="\n\t") if self._is_terminal else text
        click.echo(shown, nl=False, color=True)  # without `color`, click strips colour codes from what a file gets

    @staticmethod
    def state(word: str) -> Text:
        """Return a state in its colour."""
        return Text(word, style=_STYLES.get(word.strip(), ""))

    @staticmethod
    def dim(text: str) -> Text:
        """Return less important text in a dim style."""
        return Text(escape(text), style="dim")


def _console(width: int | None) -> Console:
    """Return a console on standard output. None is the width of the terminal."""
    return Console(file=sys.stdout, width=width, highlight=False)


def fit_columns(widths: Mapping[str, int], width: int, optional: Iterable[str], wrapped: str | None) -> tuple[str, ...]:
    """
    Return the headings of the columns that fit. The first column, such as the id, is always there.

    Args:
        widths: Width of each column, by heading.
        width: Width of the terminal.
        optional: Headings of columns that are left out first, in this order. The others follow, from the right.
        wrapped: Heading of the column that may take several lines.
    """
    shown = dict(widths)
    _, *others = widths
    for heading in [*optional, *reversed(others)]:
        if _table_width(shown, wrapped) <= width:
            break
        shown.pop(heading, None)
    return tuple(shown)


def _table_width(widths: Mapping[str, int], wrapped: str | None) -> int:
    """Return the minimum width of a table with these columns."""
    needed = (min(width, _WRAPPED_COLUMNS) if heading == wrapped else width for heading, width in widths.items())
    return sum(needed) + _GAP_COLUMNS * (len(widths) - 1)


def _cell(value: Any) -> Text:
    text = escape(format_value(value))
    return Text(text, style=_STYLES.get(text, ""))


def format_value(value: Any) -> str:
    """Format a JSON value for people."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    return json.dumps(value, ensure_ascii=False)


def local_time(text: str | None) -> str | None:
    """Format a time of the API for people: in the local time zone, with its distance from now."""
    if text is None:
        return None
    moment = parse_time(text)
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({_relative_time(moment)})"


def _relative_time(moment: datetime) -> str:
    """Format the distance of a time from now, such as `3 s ago` or `in 5 min`."""
    seconds = (SystemClock().now() - moment).total_seconds()
    size = abs(seconds)
    if size < _MINUTE:
        distance = f"{size:.0f} s"
    elif size < _HOUR:
        distance = f"{size / _MINUTE:.0f} min"
    elif size < _DAY:
        distance = f"{size / _HOUR:.0f} h"
    else:
        distance = f"{size / _DAY:.0f} d"
    return f"{distance} ago" if seconds >= 0 else f"in {distance}"
