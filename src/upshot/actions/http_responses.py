"""What a receiver's response means for the next attempt. All HTTP actions share these rules."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from upshot.actions.protocol import HttpResponse
from upshot.errors import ActionError, Refused, TryLater
from upshot.json_data import JsonData, JsonInvalid, parse_json
from upshot.masking import cut_text

MAX_EXCERPT_CHARS = 200  #: of a response, in a message: about one line
MAX_RETRY_AFTER_SECONDS = 24 * 3600.0  #: a receiver that asks for a longer wait is mistaken or malicious
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
#: The beginning of two of HTTP's three forms of a date, so that a comma separates values only.
_DAY_AND_COMMA = re.compile(r"\b(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?,\s*", re.IGNORECASE)
#: Worth another attempt: timeout, too early, too many requests.
_TEMPORARY = frozenset({408, 425, 429})


def is_success(response: HttpResponse) -> bool:
    """Return whether the receiver accepted the request."""
    return 200 <= response.status < 300  # noqa: PLR2004 - the class of successful responses


def status_text(status: int) -> str:
    """Return `404 Not Found`, or the number alone if the status has no name."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def excerpt(response: HttpResponse) -> str:
    """Return the beginning of the body on one line, for a message. It is empty if the body is."""
    text = " ".join(f"{response.text}{'…' if response.is_text_cut else ''}".split())
    return f": {cut_text(text, MAX_EXCERPT_CHARS)}" if text else ""


def response_json(response: HttpResponse) -> JsonData | None:
    """Return the body as data. None if it is not JSON, or if it is not complete."""
    try:
        return parse_json(response.body) if response.body else None
    except JsonInvalid:
        return None


def retry_after_seconds(response: HttpResponse, now: datetime) -> float | None:
    """
    Return the seconds that the receiver asks for in `Retry-After`. None if it does not ask for a wait.

    A value is a number, also with a fraction, or a date in one of the three forms of RFC 9110 (section 5.6.7). Of
    several values, the longest wait counts.
    """
    values = _DAY_AND_COMMA.sub("", response.headers.get("retry-after", "")).split(",")
    waits = [seconds for value in values if (seconds := _wait_seconds(value.strip(), now)) is not None]
    return min(max(waits), MAX_RETRY_AFTER_SECONDS) if waits else None


def _wait_seconds(value: str, now: datetime) -> float | None:
    if _NUMBER.fullmatch(value):
        return float(value)
    try:
        time = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):  # no date, or a date beyond the calendar
        return None
    if time.tzinfo is None:  # the form of C's asctime has no zone; HTTP's dates are in UTC
        time = time.replace(tzinfo=UTC)
    return max(0.0, (time - now).total_seconds())


def error_from_response(response: HttpResponse, *, receiver: str, now: datetime) -> ActionError:
    """
    Return the error that an unsuccessful response means.

    Args:
        response: With any status but 2xx.
        receiver: Its name, for the message.
        now: Current time, from which a date in `Retry-After` is counted.
    """
    message = f"{receiver} answered {status_text(response.status)}{excerpt(response)}"
    if response.status in _TEMPORARY or response.status >= 500:  # noqa: PLR2004 - the class of server errors
        wait = retry_after_seconds(response, now)
        return response_error(TryLater, message, response, retry_after_seconds=wait)
    if response.status == HTTPStatus.GONE:
        message = f"{message}; it no longer accepts these requests: remove the step or disable the automation"
    elif 300 <= response.status < 400:  # noqa: PLR2004 - the class of redirects
        location = cut_text(response.headers.get("location", "nowhere"), MAX_EXCERPT_CHARS)
        message = f"{message}; redirects (here to {location}) are not followed, so correct the URL"
    return response_error(Refused, message, response)


def response_error(
    error_type: type[ActionError], message: str, response: HttpResponse, *, retry_after_seconds: float | None = None
) -> ActionError:
    """Return an error that carries the request and the response into the receipt."""
    return error_type(
        message,
        request=response.request,
        response=response.receipt_json(),
        retry_after_seconds=retry_after_seconds,
    )
