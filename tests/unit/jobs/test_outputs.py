"""What a job may give back."""

from __future__ import annotations

import json

import pytest

from upshot.jobs.outputs import OutputsInvalid, read_outputs


def test_an_object_is_taken_as_it_is():
    """Numbers, texts and nested data come through, so that later steps read what the job wrote."""
    outputs = {"accuracy": 0.93, "labels": ["a", "b"], "metrics": {"f1": 0.9}}

    assert read_outputs(json.dumps(outputs).encode()) == outputs


def test_a_job_that_writes_nothing_gives_nothing():
    """No file is no mistake."""
    assert read_outputs(None) == {}


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"{accuracy: 1}", "not JSON", id="YAML"),
        pytest.param(b"\xff\xfe{}", "not JSON", id="not UTF-8"),
        pytest.param(b'{"accuracy": NaN}', "not JSON", id="NaN, which is no JSON"),
        pytest.param(b"[1, 2]", "holds a list", id="a list"),
        pytest.param(b"0.93", "holds a number", id="a number"),
        pytest.param(b"null", "holds null", id="null"),
        pytest.param(b'{"metrics": [1]}', "metrics is a list", id="metrics as a list"),
        pytest.param(b'{"a":' * 60 + b"1" + b"}" * 60, "deeper than 50", id="too deep"),
    ],
)
def test_what_templates_cannot_use_is_refused_with_the_reason(content, finding):
    """The author reads what is wrong with the file."""
    with pytest.raises(OutputsInvalid, match=finding):
        read_outputs(content)
