"""Cursors of pages: opaque to callers, the last key of the page inside."""

from __future__ import annotations

import base64
import binascii
import re

from upshot.errors import InvalidInput

_EVENT_ID = re.compile(r"evt_[0-9a-z]{26}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_ABOVE_ALL = 2**31 - 1  # the largest INTEGER of PostgreSQL


def make_cursor(last: str) -> str:
    """The cursor of the page after the one that ends with this key."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def after_cursor(cursor: str) -> str:
    """
    The key that the page begins after.

    Raises:
        InvalidInput: This cursor was not made here.
    """
    try:
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise _not_ours(cursor) from error
    if "\x00" in key:  # which PostgreSQL refuses in any text
        raise _not_ours(cursor)
    return key


def event_after_cursor(cursor: str) -> str:
    """
    The event's id that the page begins after.

    Raises:
        InvalidInput: This cursor was not made here, or for another list.
    """
    key = after_cursor(cursor)
    if not _EVENT_ID.fullmatch(key):
        raise _not_ours(cursor)
    return key


def number_after_cursor(cursor: str | None) -> int:
    """
    The version's number that the page stays below; None begins at the highest.

    Raises:
        InvalidInput: This cursor was not made here, or for another list.
    """
    if cursor is None:
        return _ABOVE_ALL
    key = after_cursor(cursor)
    if not _NUMBER.fullmatch(key):
        raise _not_ours(cursor)
    return int(key)


def _not_ours(cursor: str) -> InvalidInput:
    return InvalidInput(f"cursor {cursor!r} is not one of ours; pass the `next` of the page before")
