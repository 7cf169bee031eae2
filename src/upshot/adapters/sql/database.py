"""
All access to the database: short transactions, which are repeated when the database asks for it.

SQLite runs in WAL mode with `synchronous=FULL`. A writing transaction always begins with `BEGIN IMMEDIATE`,
because a transaction that begins by reading cannot be upgraded while another one writes.
Writers on SQLite share commits (see `group_commit`). PostgreSQL's server does that by itself.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.pool import StaticPool

from upshot.adapters.sql.group_commit import GroupCommit
from upshot.errors import ConfigError, InvalidInput, Unavailable

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 30.0
# Attempts of one transaction. PostgreSQL asks for another one on a deadlock (40P01) and on a
# serialization failure (40001).
MAX_ATTEMPTS = 6
_RETRYABLE_SQLSTATES = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "08000", "08003", "08006"}


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{path}"


def _parse_url(url: str) -> sa.URL:
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigError(
            f"UPSHOT_DATABASE_URL: {url!r} is not a database URL; write postgresql://user:password@host/name"
        ) from error
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigError(f"UPSHOT_DATABASE_URL: {parsed.drivername} is not supported; use postgresql or sqlite")
    return parsed


class Database:
    """
    Runs transactions on one database.

    Args:
        url: `sqlite:///path`, `sqlite://` (in memory, for tests) or `postgresql://…`.
        pool_size: Number of connections to keep open. Writers on SQLite take turns anyway.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.url = _parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.in_memory = self.is_sqlite and self.url.database in (None, "", ":memory:")
        self.engine = self._sqlite_engine(pool_size) if self.is_sqlite else self._postgres_engine(pool_size)
        on_disk = self.is_sqlite and not self.in_memory
        self._writers = GroupCommit(self._transaction, self.url.database if on_disk else None)

    def _sqlite_engine(self, pool_size: int) -> Engine:
        pool = {"poolclass": StaticPool} if self.in_memory else {"pool_size": pool_size, "max_overflow": 32}
        engine = sa.create_engine(
            self.url,
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_SECONDS, "isolation_level": None},
            **pool,
        )

        @sa_event.listens_for(engine, "connect")
        def _prepare(connection: sqlite3.Connection, _record: object) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute("PRAGMA temp_store=MEMORY")
            cursor.close()

        @sa_event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            writing = connection.get_execution_options().get("upshot_writing", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

        return engine

    def _postgres_engine(self, pool_size: int) -> Engine:
        return sa.create_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=32,
            pool_use_lifo=True,  # reuses few connections, whose server processes have cached our statements
            connect_args={"connect_timeout": 5, "application_name": "upshot"},
        )

    def write(self, work: Callable[[Connection], T]) -> T:
        """
        Run the work in one writing transaction, and repeat it if the database asks for that.

        The work must only use the connection and have no other effect, because it may run more than once.

        Raises:
            Unavailable: The database does not answer, or the conflicts with other transactions did not end.
            InvalidInput: A text cannot be stored or looked up, such as one with a NUL character.
        """
        return self._run(work, writing=True)

    def read(self, work: Callable[[Connection], T]) -> T:
        """
        Run the work in one reading transaction, which sees one consistent state.

        Raises:
            Unavailable: As `write` does.
            InvalidInput: As `write` does.
        """
        return self._run(work, writing=False)

    def _run(self, work: Callable[[Connection], T], *, writing: bool) -> T:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                if self.is_sqlite and (writing or self.in_memory):
                    return self._writers.run(work)
                with self._transaction(writing=writing) as connection:
                    return work(connection)
            except (sa.exc.DataError, UnicodeEncodeError) as error:
                raise InvalidInput(
                    "a text cannot be stored: it is too long or contains a character such as NUL"
                ) from error
            except sa.exc.DBAPIError as error:
                if isinstance(error, sa.exc.IntegrityError) and attempt < MAX_ATTEMPTS:
                    pass  # two writers inserted the same row at once: the next attempt sees the other's row
                elif not _is_retryable(error):
                    raise
                elif attempt == MAX_ATTEMPTS:
                    raise Unavailable(f"the database does not answer: {error.orig}") from error
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter, not cryptography
        raise AssertionError("unreachable")

    @contextmanager
    def _transaction(self, *, writing: bool) -> Iterator[Connection]:
        options: dict[str, Any] = {"upshot_writing": writing}
        if not self.is_sqlite and not writing:
            options["isolation_level"] = "REPEATABLE READ"  # all statements see one state, as on SQLite
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def ping(self) -> bool:
        """Return whether the database answers."""
        try:
            self.read(lambda connection: connection.scalar(sa.select(1)))
        except (Unavailable, sa.exc.SQLAlchemyError):
            return False
        return True

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self._writers.close()


def _is_retryable(error: sa.exc.DBAPIError) -> bool:
    if error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _RETRYABLE_SQLSTATES:
        return True
    text = str(error.orig).lower()
    return isinstance(error, sa.exc.OperationalError) and any(
        word in text for word in ("locked", "busy", "connection", "timeout")
    )
