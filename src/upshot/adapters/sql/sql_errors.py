"""
Classify errors of the database. Only this module decides what such an error means.

An error is about the data (or a mistake in our SQL), a conflict with another transaction, or neither. If it is neither,
nothing was decided: the database is unavailable, and the caller waits.
"""

from __future__ import annotations

import sqlite3
from enum import Enum

import sqlalchemy as sa


class ErrorKind(Enum):
    """What an error means, and what the caller does about it."""

    DATA = "data"  #: the same statement would fail again: raise the error
    CONFLICT_OF_ROWS = "conflict of rows"  #: two writers inserted the same row: the next attempt sees the other's row
    CONFLICT = "conflict"  #: with another transaction, or the connection was lost: another attempt may succeed at once
    UNAVAILABLE = "unavailable"  #: full, read-only, locked, too slow, …: wait


# Primary result codes of SQLite, see https://www.sqlite.org/rescode.html. All others mean that it cannot work now:
# NOMEM, READONLY, INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, …
_SQLITE_DATA_CODES = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_INTERNAL,
        sqlite3.SQLITE_NOTFOUND,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
    }
)
_SQLITE_CONFLICT_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})  # usually after the busy timeout
_PRIMARY_CODE = 0xFF  # mask of the primary code in an extended result code

# Classes and codes of PostgreSQL, see https://www.postgresql.org/docs/current/errcodes-appendix.html.
_DATA_CLASSES = frozenset({"0A", "20", "21", "22", "23", "26", "2F", "34", "39", "3B", "42", "44", "P0"})
# In class 42, but about the state of the server: no privilege, or a table that is not there (yet).
_NOT_ABOUT_DATA = frozenset({"42501", "42P01"})
_DISK_FULL = "53100"
_CONFLICT_CODES = frozenset({"40001", "40P01"})  # serialization failure, deadlock


def classify(error: sa.exc.DBAPIError | sa.exc.TimeoutError | MemoryError) -> ErrorKind:
    """Return the kind of an error. `sa.exc.TimeoutError` means that the pool had no free connection."""
    if not isinstance(error, sa.exc.DBAPIError):
        return ErrorKind.UNAVAILABLE
    if isinstance(error, sa.exc.IntegrityError):
        return ErrorKind.CONFLICT_OF_ROWS
    if isinstance(error.orig, sqlite3.Error):
        return _classify_sqlite(error.orig)
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    if sqlstate in _CONFLICT_CODES or error.connection_invalidated:
        return ErrorKind.CONFLICT
    if sqlstate is None:  # the client's own error: it could not connect, or misuses the library
        is_connection = isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
        return ErrorKind.UNAVAILABLE if is_connection else ErrorKind.DATA
    is_about_data = sqlstate[:2] in _DATA_CLASSES and sqlstate not in _NOT_ABOUT_DATA
    return ErrorKind.DATA if is_about_data else ErrorKind.UNAVAILABLE


def is_full(error: BaseException | None) -> bool:
    """Return whether an error says that the database's disk is full, or came while one that says so was handled."""
    while error is not None:
        original = getattr(error, "orig", None)
        code: int | None = getattr(original, "sqlite_errorcode", None)
        if getattr(original, "sqlstate", None) == _DISK_FULL or (
            code is not None and code & _PRIMARY_CODE == sqlite3.SQLITE_FULL
        ):
            return True
        error = error.__context__
    return False


def _classify_sqlite(error: sqlite3.Error) -> ErrorKind:
    code: int | None = getattr(error, "sqlite_errorcode", None)  # None: an error of the Python module itself
    if code is None:
        return ErrorKind.DATA
    if code & _PRIMARY_CODE in _SQLITE_CONFLICT_CODES:
        return ErrorKind.CONFLICT
    return ErrorKind.DATA if code & _PRIMARY_CODE in _SQLITE_DATA_CODES else ErrorKind.UNAVAILABLE
