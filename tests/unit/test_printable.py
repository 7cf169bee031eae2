"""What commands print cannot control a terminal, and reads as what it is."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from upshot.cli.lazy import LazyGroup
from upshot.console import Output
from upshot.errors import UpshotError
from upshot.printable import dump_json, escape

HOSTILE = "a\x9b2J\u202eb\u2066c\x1b[31m\u200b\x85d"


@given(st.text())
def test_escaped_text_is_printable(text):
    """Line breaks stay, because texts have lines."""
    assert escape(text).replace("\n", "").isprintable()
    assert escape(text, keep="").isprintable()


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_printable_json_means_the_same(data):
    """Escaped or not, a program reads the same data."""
    for indent in (None, 2):
        text = dump_json(data, indent=indent)
        assert json.loads(text) == data
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("as_json", [False, True], ids=["lines", "JSON"])
def test_output_is_printable(capsys, as_json):
    """Lines, tables, fields and JSON are printable."""
    output = Output(as_json=as_json)
    output.rows([{"name": HOSTILE}], {"name": lambda item: item["name"]}, empty="none")
    output.result({"name": HOSTILE}, HOSTILE)
    output.text(HOSTILE)
    output.fields([("name", HOSTILE)])

    assert capsys.readouterr().out.replace("\n", "").isprintable()


@pytest.mark.parametrize("error", [UpshotError(HOSTILE), click.UsageError(HOSTILE), ValueError(HOSTILE)], ids=repr)
def test_errors_are_printable(error):
    """A message can quote what a server or a file says."""

    @click.command()
    def fail():
        raise error

    class Group(LazyGroup):
        def get_command(self, ctx, cmd_name):
            return fail

    group = Group("upshot", lazy={"fail": ("somewhere:fail", "Fail.")})
    shown = CliRunner().invoke(group, ["fail"]).output

    assert "2J" in shown
    assert shown.replace("\n", "").isprintable()
