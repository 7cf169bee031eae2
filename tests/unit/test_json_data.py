"""JSON of other systems is read without changing a number."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.json_data import MAX_JSON_DEPTH, JsonInvalid, JsonTooDeep, parse_json


@pytest.mark.parametrize(
    ("text", "value", "kept_as_text"),
    [
        pytest.param("18446744073709551615", 2**64 - 1, (), id="largest integer"),
        pytest.param("18446744073709551616", "18446744073709551616", (".",), id="larger"),
        pytest.param('{"a": [-9223372036854775808]}', {"a": [-(2**63)]}, (), id="smallest integer"),
        pytest.param('{"a": [-9223372036854775809]}', {"a": ["-9223372036854775809"]}, (".a.0",), id="smaller"),
        pytest.param("[1e400, -1E+400]", ["1e400", "-1E+400"], (".0", ".1"), id="beyond a float"),
        pytest.param("[1" + "0" * 5000 + "]", ["1" + "0" * 5000], (".0",), id="more digits than Python reads"),
        pytest.param("[0.30000000000000004, 1e300]", [0.30000000000000004, 1e300], (), id="floats"),
        pytest.param('{"a": "12345678901234567890123456"}', {"a": "12345678901234567890123456"}, (), id="a text"),
    ],
)
def test_a_number_is_exact_or_text(text, value, kept_as_text):
    """A number that cannot be kept exactly is a text, and its path is reported."""
    data = parse_json(text.encode())

    assert data.value == value
    assert data.kept_as_text == kept_as_text
    assert orjson.loads(orjson.dumps(data.value)) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_ignored(encoding):
    """It says how the text is encoded, and is not part of it."""
    assert parse_json('{"a": "ü"}'.encode(encoding)).value == {"a": "ü"}


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", "NaN", "[12345678901234567890123456, Infinity]", '"\ud800"', "[12345678901234567890 1]"]
)
def test_other_text_is_refused(text):
    """What JSON does not allow is not guessed."""
    with pytest.raises(JsonInvalid):
        parse_json(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("start", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [MAX_JSON_DEPTH + 1, 300, 900, 5_000, 300_000])
@pytest.mark.parametrize("number", ["1", "12345678901234567890123456"])
def test_deep_json_is_refused(start, levels, number):
    """The depth is limited, so that no code that handles the data exhausts the stack."""
    end = "]" if start == "[" else "}"
    with pytest.raises(JsonTooDeep):
        parse_json((start * levels + number + end * levels).encode())


def test_json_within_the_limit_is_read():
    """The deepest allowed list is data."""
    assert parse_json(b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH).value


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_any_json_can_be_written_again(value):
    """The numbers that changed their kind are exactly those that are reported."""
    data = parse_json(json.dumps(value).encode())
    orjson.dumps(data.value)
    assert bool(data.kept_as_text) == (data.value != value)
