"""What a receiver's answer means for the next attempt: the one table that all HTTP actions share."""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from upshot.actions.protocol import HttpResponse
from upshot.errors import ActionError, Refused, Unreachable

MAX_RETRY_AFTER_SECONDS = 24 * 3600.0  #: a longer wish is a mistake, or malice
#: what passes if it is tried again: time-out, too early, too many requests
_PASSING = frozenset({408, 425, 429})


def is_success(answer: HttpResponse) -> bool:
    """The receiver took it."""
    return 200 <= answer.status < 300  # noqa: PLR2004 - the class of successes


def status_words(status: int) -> str:
    """`404 Not Found`; the number alone where it has no name."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def excerpt(answer: HttpResponse) -> str:
    """The beginning of the answer's body on one line, for a message; empty when there is none."""
    text = " ".join(answer.text[:400].split())
    return f": {text[:200]}{'…' if len(text) > 200 else ''}" if text else ""  # noqa: PLR2004 - a line's worth


def retry_after_seconds(answer: HttpResponse, now: datetime) -> float | None:
    """Seconds that the receiver asks for in `Retry-After`, as a number or as an HTTP date; None when it does not."""
    wish = answer.headers.get("retry-after", "").strip()
    if wish.isascii() and wish.isdigit():
        return min(float(wish[:10]), MAX_RETRY_AFTER_SECONDS)
    try:
        seconds = (parsedate_to_datetime(wish) - now).total_seconds()
    except (TypeError, ValueError, OverflowError):  # no date; one without a zone; one beyond the calendar
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


def failure(answer: HttpResponse, *, receiver: str, now: datetime) -> ActionError:
    """
    The error that an answer without success stands for.

    Args:
        answer: Of any status but 2xx.
        receiver: Who answered, for the message.
        now: The present moment, to reckon an HTTP date in `Retry-After` with.
    """
    said = f"{receiver} answered {status_words(answer.status)}{excerpt(answer)}"
    if answer.status in _PASSING or answer.status >= 500:  # noqa: PLR2004 - the class of server errors
        return refusal(Unreachable, said, answer, retry_after_seconds=retry_after_seconds(answer, now))
    if answer.status == HTTPStatus.GONE:
        return refusal(Refused, f"{said}; it wants no more of these: remove the step or disable the automation", answer)
    if 300 <= answer.status < 400:  # noqa: PLR2004 - the class of redirects
        where = answer.headers.get("location", "nowhere")
        return refusal(Refused, f"{said}; redirects (here to {where[:200]}) are not followed, correct the URL", answer)
    return refusal(Refused, said, answer)


def refusal(
    kind: type[ActionError], message: str, answer: HttpResponse, *, retry_after_seconds: float | None = None
) -> ActionError:
    """An error that carries what was sent and what came back into the receipt."""
    return kind(message, request=answer.request, response=answer.as_response(), retry_after_seconds=retry_after_seconds)
