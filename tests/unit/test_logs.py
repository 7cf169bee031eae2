"""One wide line for each thing that happened."""

import json

import pytest
import structlog

from upshot import logs


@pytest.fixture(autouse=True)
def as_before():
    """Other tests log as they did."""
    yield
    structlog.reset_defaults()


def test_a_line_is_key_and_value(capsys):
    """Time, level and event first; a value with spaces or quotes is quoted, one that is None is left out."""
    logs.configure("info", "text")
    structlog.get_logger().info("attempt.finished", step="call", wait_seconds=None, error='no "answer"')
    line = capsys.readouterr().err
    assert line.startswith("time=20")
    assert line.endswith(' level=info event=attempt.finished step=call error="no \\"answer\\""\n')


def test_a_value_cannot_begin_a_line_of_its_own(capsys):
    """Whatever a receiver answered: one thing, one line."""
    logs.configure("info", "text")
    structlog.get_logger().info("answer", text="a\nlevel=error event=forged \ud800")
    assert capsys.readouterr().err.count("\n") == 1


def test_json_has_the_same_keys(capsys):
    """For machines that read logs."""
    logs.configure("info", "json")
    structlog.get_logger().info("attempt.finished", step="call", error=None)
    line = json.loads(capsys.readouterr().err)
    assert {key: line[key] for key in ("event", "level", "step")} == {
        "event": "attempt.finished",
        "level": "info",
        "step": "call",
    }
    assert "error" not in line


def test_what_is_below_the_level_is_not_written(capsys):
    """`warning` hides `info`."""
    logs.configure("warning", "text")
    structlog.get_logger().info("attempt.finished")
    assert capsys.readouterr().err == ""
