"""What commands print: tables and lines for people, JSON for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from upshot.clock import SystemClock, parse_time

_LINE_STARTS = re.compile(r"\r+\n?")
_WIDE = 1_000  # columns where nobody looks: programs and files get whole lines
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
    "ambiguous": "yellow",
    "ok": "green",
    "verified": "green",
    "warn": "yellow",
    "fail": "red",
    "broken": "red",
}


class Output:
    """One command's output, in one of the two forms."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._is_terminal = sys.stdout.isatty()
        self._console = Console(file=sys.stdout, width=None if self._is_terminal else _WIDE, highlight=False)

    def data(self, data: Any) -> None:
        """JSON, whatever the form."""
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))

    def rows(self, items: Sequence[Any], columns: Mapping[str, Any], *, none: str) -> None:
        """
        A list.

        Args:
            items: As the API gave them; printed whole as JSON.
            columns: By heading, a function from an item to what the cell says.
            none: What to tell a person when there are no items.
        """
        if self.as_json:
            self.data(items)
        elif not items:
            self.line(none)
        else:
            rule = box.SIMPLE_HEAD if self._console.is_terminal else None
            table = Table(box=rule, pad_edge=False, show_edge=False)
            for heading in columns:
                table.add_column(heading, overflow="fold")
            for item in items:
                table.add_row(*(_cell(show(item)) for show in columns.values()))
            self._console.print(table)

    def done(self, data: Any, line: str) -> None:
        """What a command has done: its data, or one line."""
        if self.as_json:
            self.data(data)
        else:
            self.line(line)

    def fields(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Names and values, one a line; None is left out."""
        shown = [(name, value) for name, value in pairs if value is not None]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.line(f"{name:<{width}}  ", _cell(value))

    def line(self, *parts: str | Text) -> None:
        """One line for people."""
        self._console.print(
            Text.assemble(*(_clean(part) if isinstance(part, str) else part for part in parts)), soft_wrap=True
        )

    def text(self, text: str, *, indent: int = 0) -> None:
        """Several lines, as they are."""
        for line in text.splitlines():
            self.line(" " * indent, line)

    def passage(self, text: str) -> None:
        """
        What a program said, with nothing put behind it.

        A terminal gets each stretch that a progress bar would have drawn over as a line of its own,
        and no commands; a file or another program gets every character.
        """
        shown = _clean(_LINE_STARTS.sub("\n", text), keep="\n\t") if self._is_terminal else text
        click.echo(shown, nl=False, color=True)  # otherwise click takes colours out of what a file gets

    @staticmethod
    def state(word: str) -> Text:
        """A state, in its colour."""
        return Text(word, style=_STYLES.get(word, ""))

    @staticmethod
    def faint(text: str) -> Text:
        """What matters less."""
        return Text(_clean(text), style="dim")


def _cell(value: Any) -> Text:
    text = _clean(plain(value))
    return Text(text, style=_STYLES.get(text, ""))


def plain(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return json.dumps(value, ensure_ascii=False)


def _clean(text: str, *, keep: str = "\n") -> str:
    """Without characters that would command a terminal: names and answers come from others."""
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


def when(text: str | None) -> str | None:
    """A time of the API as a person reads it: in the local zone, with how long ago it was."""
    if text is None:
        return None
    moment = parse_time(text)
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({distance(moment)})"


def distance(moment: datetime) -> str:
    """`3 s ago`, `in 5 min`."""
    seconds = (SystemClock().now() - moment).total_seconds()
    size = abs(seconds)
    if size < _MINUTE:
        words = f"{size:.0f} s"
    elif size < _HOUR:
        words = f"{size / _MINUTE:.0f} min"
    elif size < _DAY:
        words = f"{size / _HOUR:.0f} h"
    else:
        words = f"{size / _DAY:.0f} d"
    return f"{words} ago" if seconds >= 0 else f"in {words}"
