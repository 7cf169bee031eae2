"""Cursors of pages: opaque to callers, the last key of the page inside."""

from __future__ import annotations

import base64
import binascii

from upshot.errors import InvalidInput


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
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise InvalidInput(f"cursor {cursor!r} is not one of ours; pass the `next` of the page before") from error
