"""Tables on terminals and in files."""

from __future__ import annotations

import io
import re

import pytest

from upshot.console import Output, fit_columns

ITEMS = [
    {"id": "exe_01m8nqn3tp9zq9h069v7wrd3qv", "name": "promote-to-production", "due": "", "reason": "word " * 40},
    {"id": "exe_01m8nqm3x869bd6tysbx6wj28h", "name": "announce", "due": "", "reason": ""},
]
COLUMNS = {name: (lambda item, name=name: item[name]) for name in ITEMS[0]}


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(monkeypatch, width, stdout):
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("TERM", "xterm")
    Output(as_json=False).rows(ITEMS, COLUMNS, empty="nothing", optional=("due", "name"), wrapped="reason")
    return re.sub(r"\x1b\[[0-9;]*m", "", stdout.getvalue())


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_an_id_is_never_folded(monkeypatch, width):
    """On a terminal of any width, every id is on one line, so that it can be copied."""
    lines = printed(monkeypatch, width, _Terminal()).splitlines()

    for item in ITEMS:
        assert any(line.startswith(item["id"]) for line in lines)


def test_a_narrow_terminal_leaves_columns_out(monkeypatch):
    """Columns are left out in the given order, empty ones first, and a line says which."""
    narrow = printed(monkeypatch, 60, _Terminal())
    assert "promote-to-production" not in narrow
    assert "not shown: name (use a wider terminal, or --json)" in narrow
    assert max(len(line) for line in narrow.splitlines()) <= 60

    wide = printed(monkeypatch, 200, _Terminal())
    assert "promote-to-production" in wide
    assert "not shown" not in wide


def test_a_file_gets_every_column(monkeypatch):
    """Another program gets each row on one line, with all columns, whatever the width of the terminal is."""
    lines = printed(monkeypatch, 20, io.StringIO()).splitlines()

    assert len(lines) == 3
    assert "promote-to-production" in lines[1]
    assert lines[1].count("word") == 40


def test_columns_are_dropped_until_the_rest_fits():
    """The first column stays, whatever the width. The wrapped column counts with its least width."""
    widths = {"id": 30, "state": 9, "created": 29, "reason": 300}

    assert fit_columns(widths, 200, ("created", "state"), "reason") == ("id", "state", "created", "reason")
    assert fit_columns(widths, 80, ("created", "state"), "reason") == ("id", "state", "reason")
    assert fit_columns(widths, 60, ("created", "state"), "reason") == ("id", "reason")
    assert fit_columns(widths, 40, (), "reason") == ("id",)
    assert fit_columns(widths, 10, ("created", "state"), "reason") == ("id",)
