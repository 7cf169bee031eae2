"""Log lines: one for each event, as key=value or JSON."""

import json

import pytest
import structlog

from upshot import logs


@pytest.fixture(autouse=True)
def reset_structlog():
    yield
    structlog.reset_defaults()


def test_a_text_line_has_keys_and_values(capsys):
    """Time, level and event come first. A value with spaces or quotes is quoted, and None is left out."""
    logs.configure("info", "text")
    structlog.get_logger().info("attempt.finished", step_id="call", wait_seconds=None, error='no "answer"')
    line = capsys.readouterr().err
    assert line.startswith("time=20")
    assert line.endswith(' level=info event=attempt.finished step_id=call error="no \\"answer\\""\n')


def test_a_value_cannot_start_another_line(capsys):
    """A response with line breaks is one log line, so that a receiver cannot forge log lines."""
    logs.configure("info", "text")
    structlog.get_logger().info("response", text="a\nlevel=error event=forged \ud800")
    assert capsys.readouterr().err.count("\n") == 1


def test_json_has_the_same_keys(capsys):
    """A JSON line has the keys of a text line."""
    logs.configure("info", "json")
    structlog.get_logger().info("attempt.finished", step_id="call", error=None)
    line = json.loads(capsys.readouterr().err)
    assert {key: line[key] for key in ("event", "level", "step_id")} == {
        "event": "attempt.finished",
        "level": "info",
        "step_id": "call",
    }
    assert "error" not in line


def test_lines_below_the_level_are_not_written(capsys):
    """With the level `warning`, an `info` line is not written."""
    logs.configure("warning", "text")
    structlog.get_logger().info("attempt.finished")
    assert capsys.readouterr().err == ""


CONTROLS = "\x00\x07\x1b[2J\x7f\x85\x9b2J\u061c\u200b\u200e\u2028\u202e\u2066\ufeff\U000e0041\ud800"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_value_cannot_control_a_terminal_or_change_how_a_line_reads(capsys, log_format):
    """Control characters (C0, C1), bidirectional controls and characters without width are escaped."""
    logs.configure("info", log_format)
    structlog.get_logger().info("response", text=CONTROLS, plain="é中\U0001f600")
    line = capsys.readouterr().err

    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "\\u009b2J" in line
    assert "\\u202e" in line
    assert log_format == "json" or "plain=é中\U0001f600" in line
