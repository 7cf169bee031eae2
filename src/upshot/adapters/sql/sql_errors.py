"""
What an error of the database means: this is the only place that decides.

An error is a statement about the data (or a mistake in our SQL), a conflict with another transaction, or neither. If it
is neither, nothing was decided: the database is unavailable, and the caller waits.
"""

from __future__ import annotations

import sqlite3
from enum import Enum

import sqlalchemy as sa


class Verdict(Enum):
    """What to do about an error."""

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
_CONFLICT_CODES = frozenset({"40001", "40P01"})  # serialization failure, deadlock


def judge(error: sa.exc.DBAPIError | sa.exc.TimeoutError | MemoryError) -> Verdict:
    """Return what an error means. `sa.exc.TimeoutError` says that the pool had no free connection."""
    if not isinstance(error, sa.exc.DBAPIError):
        return Verdict.UNAVAILABLE
    if isinstance(error, sa.exc.IntegrityError):
        return Verdict.CONFLICT_OF_ROWS
    if isinstance(error.orig, sqlite3.Error):
        return _judge_sqlite(error.orig)
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    if sqlstate in _CONFLICT_CODES or error.connection_invalidated:
        return Verdict.CONFLICT
    if sqlstate is None:  # the client's own error: it could not connect, or misuses the library
        is_connection = isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
        return Verdict.UNAVAILABLE if is_connection else Verdict.DATA
    is_about_data = sqlstate[:2] in _DATA_CLASSES and sqlstate not in _NOT_ABOUT_DATA
    return Verdict.DATA if is_about_data else Verdict.UNAVAILABLE


def _judge_sqlite(error: sqlite3.Error) -> Verdict:
    code: int | None = getattr(error, "sqlite_errorcode", None)  # None: an error of the Python module itself
    if code is None:
        return Verdict.DATA
    if code & _PRIMARY_CODE in _SQLITE_CONFLICT_CODES:
        return Verdict.CONFLICT
    return Verdict.DATA if code & _PRIMARY_CODE in _SQLITE_DATA_CODES else Verdict.UNAVAILABLE
