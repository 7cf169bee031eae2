"""What is small enough for the event loop."""

import pytest

from upshot.storable import is_small


@pytest.mark.parametrize(
    "value", [None, 1, "", "x" * 60_000, [], {"a": [1, {"b": None}]}, list(range(900)), {"status": 200, "body": "ok"}]
)
def test_usual_outputs_are_small(value):
    """They are stored without a thread."""
    assert is_small(value)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 70_000,
        list(range(2_000)),
        {str(number): number for number in range(2_000)},
        [[0] * 100 for _ in range(100)],
        ["x" * 1_000] * 100,
        {"body": {"items": ["a"] * 200_000}},
    ],
)
def test_many_parts_or_much_text_is_not_small(value):
    """A receiver decides how many parts its response has."""
    assert not is_small(value)
