"""What a receiver's response means for the next attempt."""

from __future__ import annotations

import pytest

from tests.unit.actions.action_calls import NOW, make_response
from upshot.actions.http_responses import error_from_response, is_success, retry_after_seconds
from upshot.errors import Refused, TryLater


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_any_2xx_is_success(status):
    """Any 2xx status means that the receiver accepted the request."""
    assert is_success(make_response(status))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 521, 599, 799])
def test_temporary_errors_lead_to_another_attempt(status):
    """Timeouts, too many requests and server errors are worth another attempt."""
    assert type(error_from_response(make_response(status), receiver="r", now=NOW)) is TryLater


@pytest.mark.parametrize(
    "status", [101, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451]
)
def test_other_errors_are_final(status):
    """Redirects and other 4xx responses would be the same in the next attempt."""
    assert type(error_from_response(make_response(status), receiver="r", now=NOW)) is Refused


def test_gone_is_reported_with_a_remedy():
    """A receiver that answers 410 does not want further requests, and the message says what to do."""
    assert "remove the step or disable the automation" in str(
        error_from_response(make_response(410), receiver="r", now=NOW)
    )


def test_a_redirect_is_reported_with_its_location():
    """The message contains the location, so that the author can correct the URL."""
    response = make_response(308, {"location": "https://new.example/x"})

    assert "https://new.example/x" in str(error_from_response(response, receiver="r", now=NOW))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("120", 120.0, id="seconds"),
        pytest.param(" 0 ", 0.0, id="no wait"),
        pytest.param("Thu, 01 Jan 2026 12:01:30 GMT", 90.0, id="a date"),
        pytest.param("Thu, 01 Jan 2026 11:00:00 GMT", 0.0, id="a date that has passed"),
        pytest.param("9" * 400, 86_400.0, id="many digits"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0, id="the last date of the calendar"),
        pytest.param("", None, id="empty"),
        pytest.param("-5", None, id="negative"),
        pytest.param("90.5", 90.5, id="a fraction"),
        pytest.param("30, 120", 120.0, id="two numbers"),
        pytest.param("120, Thu, 01 Jan 2026 12:01:30 GMT", 120.0, id="a number and a date"),
        pytest.param("5, Thursday, 01-Jan-26 12:01:30 GMT, 7", 90.0, id="a date between numbers"),
        pytest.param("soon, 5", 5.0, id="a word and a number"),
        pytest.param("Thursday, 01-Jan-26 12:01:30 GMT", 90.0, id="a date of RFC 850"),
        pytest.param("Thu Jan  1 12:01:30 2026", 90.0, id="a date of asctime"),
        pytest.param("Thu, 01 Jan 2026 13:01:30 +0100", 90.0, id="a date in another zone"),
        pytest.param("1e3", None, id="an exponent"),
        pytest.param("5 s", None, id="a unit"),
        pytest.param("inf", None, id="infinity"),
        pytest.param("nan", None, id="not a number"),
        pytest.param("soon", None, id="a word"),
        pytest.param("٣", None, id="digits of another script"),
        pytest.param("Thu, 01 Jan 2026 12:01:30 -0000", 90.0, id="a date without a zone"),
        pytest.param("Thu, 99 Jan 99999 99:99:99 GMT", None, id="an invalid date"),
    ],
)
def test_retry_after_is_a_number_or_a_date(value, seconds):
    """`Retry-After` is a number of seconds or an HTTP date. The largest counts, at most a day. The rest is ignored."""
    response = make_response(503, {"retry-after": value})

    assert retry_after_seconds(response, NOW) == seconds
    assert error_from_response(response, receiver="r", now=NOW).retry_after_seconds == seconds


def test_the_error_contains_request_and_response():
    """The error carries the request and the response for the receipt. Its message has one line of the body."""
    response = make_response(400, body=b"line one\n" + b"x" * 5000)
    error = error_from_response(response, receiver="https://hooks.example.com:443", now=NOW)

    assert str(error).startswith("https://hooks.example.com:443 answered 400 Bad Request: line one x")
    assert len(str(error)) < 400
    assert error.request == response.request
    assert error.response is not None
    assert error.response["status"] == 400
