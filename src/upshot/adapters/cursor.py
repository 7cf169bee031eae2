"""Cursors of pages. A cursor contains the last key of a page and is opaque to clients."""

from __future__ import annotations

import base64
import binascii
import re

from upshot.errors import InvalidInput
from upshot.ids import EventId

_EVENT_ID = re.compile(r"evt_[0-9a-z]{26}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_ABOVE_ALL = 2**31 - 1  # the largest INTEGER of PostgreSQL


def make_cursor(last_key: str) -> str:
    """Return the cursor of the page after the one that ends with the key."""
    return base64.urlsafe_b64encode(last_key.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """
    Return the key after which the page begins.

    Raises:
        InvalidInput: The cursor was not made by `make_cursor`.
    """
    try:
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise _invalid(cursor) from error
    if "\x00" in key:  # PostgreSQL rejects NUL in a text
        raise _invalid(cursor)
    return key


def decode_event_cursor(cursor: str) -> EventId:
    """
    Return the event id after which the page begins.

    Raises:
        InvalidInput: The cursor is not a cursor of a list of events.
    """
    key = decode_cursor(cursor)
    if not _EVENT_ID.fullmatch(key):
        raise _invalid(cursor)
    return EventId(key)


def decode_number_cursor(cursor: str | None) -> int:
    """
    Return the number below which the page's versions are. None begins at the highest number.

    Raises:
        InvalidInput: The cursor is not a cursor of a list of versions.
    """
    if cursor is None:
        return _ABOVE_ALL
    key = decode_cursor(cursor)
    if not _NUMBER.fullmatch(key):
        raise _invalid(cursor)
    return int(key)


def _invalid(cursor: str) -> InvalidInput:
    return InvalidInput(f"cursor {cursor!r} is invalid; pass the `next` of the previous page")
