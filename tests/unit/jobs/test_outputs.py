"""What a job can write to `outputs.json`."""

from __future__ import annotations

import json

import pytest

from upshot.jobs.outputs import OutputsInvalid, kept_as_text_note, parse_outputs


def test_an_object_is_returned_unchanged():
    """Later steps read the numbers, strings and nested data that the job wrote."""
    outputs = {"accuracy": 0.93, "labels": ["a", "b"], "metrics": {"f1": 0.9}}

    assert parse_outputs(json.dumps(outputs).encode()).value == outputs


def test_a_job_does_not_have_to_write_outputs():
    """A missing file counts as an empty object."""
    assert parse_outputs(None).value == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "not valid JSON", id="empty"),
        pytest.param(b"{accuracy: 1}", "not valid JSON", id="YAML"),
        pytest.param(b"\xff\xfe{}", "not valid JSON", id="not UTF-8"),
        pytest.param(b'{"accuracy": NaN}', "not valid JSON", id="NaN"),
        pytest.param(b"[1, 2]", "holds a list", id="a list"),
        pytest.param(b"0.93", "holds a number", id="a number"),
        pytest.param(b"null", "holds null", id="null"),
        pytest.param(b'{"metrics": [1]}', "metrics is a list", id="metrics as a list"),
        pytest.param(b'{"a":' * 60 + b"1" + b"}" * 60, "deeper than 50", id="too deep"),
    ],
)
def test_unusable_outputs_are_refused_with_the_reason(content, reason):
    """The author of the job reads what is wrong with the file."""
    with pytest.raises(OutputsInvalid, match=reason):
        parse_outputs(content)


def test_a_number_that_cannot_be_kept_exactly_is_text():
    """An id of 26 digits does not become another number. The note names it."""
    data = parse_outputs(b'{"id": 12345678901234567890123456, "n": [18446744073709551616, 1]}')

    assert data.value == {"id": "12345678901234567890123456", "n": ["18446744073709551616", 1]}
    assert "outputs.id, outputs.n.0" in kept_as_text_note(data.kept_as_text)


def test_a_byte_order_mark_is_ignored():
    """PowerShell writes one."""
    assert parse_outputs(b'\xef\xbb\xbf{"a": 1}').value == {"a": 1}
