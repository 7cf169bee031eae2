"""What a receiver's answer means for the next attempt."""

from __future__ import annotations

import pytest

from tests.unit.actions.action_calls import NOW, make_answer
from upshot.actions.http_responses import failure, is_success, retry_after_seconds
from upshot.errors import Refused, Unreachable


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_two_hundreds_are_success(status):
    """Any 2xx means that the receiver took it."""
    assert is_success(make_answer(status))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 521, 599, 799])
def test_what_may_pass_is_tried_again(status):
    """Time-outs, too many requests and server errors say nothing about the message."""
    assert type(failure(make_answer(status), receiver="r", now=NOW)) is Unreachable


@pytest.mark.parametrize(
    "status", [101, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451]
)
def test_what_will_not_pass_is_final(status):
    """Redirects and other 4xx would be answered the same next time."""
    assert type(failure(make_answer(status), receiver="r", now=NOW)) is Refused


def test_gone_says_what_to_do():
    """410 is a receiver's way to say: no more."""
    assert "remove the step or disable the automation" in str(failure(make_answer(410), receiver="r", now=NOW))


def test_a_redirect_says_where_to():
    """The author can correct the URL from the message alone."""
    answer = make_answer(308, {"location": "https://new.example/x"})

    assert "https://new.example/x" in str(failure(answer, receiver="r", now=NOW))


@pytest.mark.parametrize(
    ("wish", "seconds"),
    [
        pytest.param("120", 120.0, id="seconds"),
        pytest.param(" 0 ", 0.0, id="at once"),
        pytest.param("Thu, 01 Jan 2026 12:01:30 GMT", 90.0, id="a date"),
        pytest.param("Thu, 01 Jan 2026 11:00:00 GMT", 0.0, id="a date that has passed"),
        pytest.param("9" * 400, 86_400.0, id="no end of digits"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0, id="the end of days"),
        pytest.param("", None, id="empty"),
        pytest.param("-5", None, id="negative"),
        pytest.param("1.5", None, id="a fraction"),
        pytest.param("nan", None, id="not a number"),
        pytest.param("soon", None, id="a word"),
        pytest.param("٣", None, id="other digits"),
        pytest.param("Thu, 01 Jan 2026 12:01:30 -0000", None, id="a date without a zone"),
        pytest.param("Thu, 99 Jan 99999 99:99:99 GMT", None, id="no such date"),
    ],
)
def test_retry_after_is_read_in_both_forms_and_within_reason(wish, seconds):
    """Seconds or an HTTP date, at most a day; anything else is no wish at all."""
    answer = make_answer(503, {"retry-after": wish})

    assert retry_after_seconds(answer, NOW) == seconds
    assert failure(answer, receiver="r", now=NOW).retry_after_seconds == seconds


def test_a_failure_carries_the_receipt_and_a_short_word():
    """The error has what was sent and what came back; its text has one line of the body."""
    answer = make_answer(400, body=b"line one\n" + b"x" * 5000)
    error = failure(answer, receiver="https://hooks.example.com:443", now=NOW)

    assert str(error).startswith("https://hooks.example.com:443 answered 400 Bad Request: line one x")
    assert len(str(error)) < 400
    assert error.request == answer.request
    assert error.response is not None
    assert error.response["status"] == 400
