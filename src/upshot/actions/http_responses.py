"""What a receiver's response means for the next attempt. All HTTP actions share these rules."""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from upshot.actions.protocol import HttpResponse
from upshot.errors import ActionError, Refused, Unreachable

MAX_RETRY_AFTER_SECONDS = 24 * 3600.0  #: a receiver that asks for a longer wait is mistaken or malicious
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
    text = " ".join(response.text[:400].split())
    return f": {text[:200]}{'…' if len(text) > 200 else ''}" if text else ""  # noqa: PLR2004 - about one line


def retry_after_seconds(response: HttpResponse, now: datetime) -> float | None:
    """Return the seconds that the receiver asks for in `Retry-After`, as a number or a date. None if it does not."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:10]), MAX_RETRY_AFTER_SECONDS)
    try:
        seconds = (parsedate_to_datetime(value) - now).total_seconds()
    except (TypeError, ValueError, OverflowError):  # no date, a date without a zone, a date beyond the calendar
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


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
        return response_error(Unreachable, message, response, retry_after_seconds=wait)
    if response.status == HTTPStatus.GONE:
        message = f"{message}; it no longer accepts these requests: remove the step or disable the automation"
    elif 300 <= response.status < 400:  # noqa: PLR2004 - the class of redirects
        location = response.headers.get("location", "nowhere")[:200]
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
