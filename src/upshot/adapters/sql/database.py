"""
All access to the database: short transactions, which are repeated when the database asks for it.

Every call returns within a bounded time. An error that is not a statement about the data, such as a full disk, a lock
that is not released or a lost connection, becomes `Unavailable` (see `sql_errors`).

SQLite runs in WAL mode with `synchronous=FULL`. A writing transaction always begins with `BEGIN IMMEDIATE`,
because a transaction that begins by reading cannot be upgraded while another one writes.
Writers on SQLite share commits (see `group_commit`). PostgreSQL's server does that by itself.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.pool import StaticPool

from upshot.adapters.sql.group_commit import GroupCommit
from upshot.adapters.sql.sql_errors import ErrorKind, classify, is_full
from upshot.clock import stopwatch
from upshot.errors import ConfigError, InvalidInput, NoSpace, Unavailable
from upshot.private_files import create_private

T = TypeVar("T")
DatabaseUrl = str | URL
_ESCAPES = "in the user and the password, write %40 for `@` and %25 for `%`"

BUSY_TIMEOUT_SECONDS = 5.0  # how long SQLite waits for another writer
MAX_ATTEMPTS = 6  # of one transaction
RETRY_SECONDS = 5.0  # a transaction that has failed is not repeated after this time
PROBE_SECONDS = 0.2  # how long a probe of the health checks waits for a write
POOL_SECONDS = 5.0  # for a free connection
MAX_OVERFLOW = 56  # connections beyond the pool's size: one for each thread of the web process, so that none waits


def sqlite_url(path: Path) -> DatabaseUrl:
    """Return the URL of an SQLite file. Written as a string, it would need escapes for some characters of the path."""
    return URL.create("sqlite", database=str(path))


def _parse_url(url: DatabaseUrl) -> URL:
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:  # a ValueError if the port is not a number
        raise ConfigError(  # without the URL, which can contain a password
            f"UPSHOT_DATABASE_URL is not a database URL; write postgresql://user:password@host/name, and {_ESCAPES}"
        ) from error
    if "@" in (parsed.host or ""):
        raise ConfigError(f"UPSHOT_DATABASE_URL: its password contains `@`; {_ESCAPES}")
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

    def __init__(self, url: DatabaseUrl, *, pool_size: int = 8) -> None:
        self.url = _parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.in_memory = self.is_sqlite and self.url.database in (None, "", ":memory:")
        self.engine = self._sqlite_engine(pool_size) if self.is_sqlite else self._postgres_engine(pool_size)
        on_disk = self.is_sqlite and not self.in_memory
        if on_disk and self.url.database:
            with suppress(OSError):  # SQLite reports the error with a better message
                create_private(Path(self.url.database))
        self._write_failed = False
        self._probe: threading.Thread | None = None
        self._writers = GroupCommit(self._transaction, self.url.database if on_disk else None)

    def _sqlite_engine(self, pool_size: int) -> Engine:
        pool = {"poolclass": StaticPool} if self.in_memory else _pool(pool_size)
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
        from upshot.adapters.sql.postgres import connect_with_deadlines  # noqa: PLC0415 - SQLite does not need psycopg

        engine = sa.create_engine(
            self.url,
            pool_use_lifo=True,  # reuses few connections, whose server processes have cached our statements
            **_pool(pool_size),
        )
        sa_event.listen(engine, "do_connect", connect_with_deadlines)
        return engine

    def write(self, work: Callable[[Connection], T]) -> T:
        """
        Run the work in one writing transaction, and repeat it if the database asks for that.

        The work must only use the connection and have no other effect, because it may run more than once.

        Raises:
            Unavailable: The database does not answer, or the conflicts with other transactions did not end.
            InvalidInput: A text cannot be stored or looked up, such as one with a NUL character.
        """
        try:
            result = self._run(work, writing=True)
        except Unavailable:
            self._write_failed = True
            raise
        self._write_failed = False
        return result

    def read(self, work: Callable[[Connection], T]) -> T:
        """
        Run the work in one reading transaction, which sees one consistent state.

        Raises:
            Unavailable: As `write` does.
            InvalidInput: As `write` does.
        """
        return self._run(work, writing=False)

    def _run(self, work: Callable[[Connection], T], *, writing: bool) -> T:
        give_up_at = stopwatch() + RETRY_SECONDS
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
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, MemoryError) as error:
                kind = classify(error)
                if kind is ErrorKind.DATA:
                    raise
                is_last = attempt == MAX_ATTEMPTS or stopwatch() >= give_up_at
                if is_last and kind is ErrorKind.CONFLICT_OF_ROWS:
                    raise
                if is_last or kind is ErrorKind.UNAVAILABLE:
                    reason = str(getattr(error, "orig", None) or error) or type(error).__name__
                    unavailable = NoSpace if is_full(error) else Unavailable
                    raise unavailable(f"the database is unavailable: {reason}") from error
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
        """
        Return whether the database answers and, as far as is known, accepts writes.

        After a write has failed, another write tries whether they are accepted again. It may be blocked by a lock, so
        it has a thread of its own.
        """
        try:
            if self.is_sqlite:
                self.read(lambda connection: connection.scalar(sa.select(1)))
                return not self._write_failed or self._probe_write()
            return (
                self.read(lambda connection: connection.exec_driver_sql("SHOW transaction_read_only").scalar()) == "off"
            )
        except (Unavailable, sa.exc.SQLAlchemyError):
            return False

    def _probe_write(self) -> bool:
        """Return whether writes are accepted again, or False if the probe is still waiting."""
        if self._probe is None or not self._probe.is_alive():
            self._probe = threading.Thread(target=self._write_nothing, name="write-probe", daemon=True)
            self._probe.start()
        self._probe.join(PROBE_SECONDS)
        return not self._write_failed

    def _write_nothing(self) -> None:
        with suppress(Unavailable, sa.exc.SQLAlchemyError):
            self.write(_write_same_version)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self._writers.close()


def _write_same_version(connection: Connection) -> None:
    """Write a page of SQLite's file without a change, which fails on a full disk."""
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    connection.exec_driver_sql(f"PRAGMA user_version = {version}")


def _pool(size: int) -> dict[str, Any]:
    return {"pool_size": size, "max_overflow": MAX_OVERFLOW, "pool_timeout": POOL_SECONDS}
