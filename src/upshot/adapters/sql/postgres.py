"""
Connections to PostgreSQL on which every call ends in bounded time.

The server ends a statement that takes too long, and a transaction that does nothing. The kernel ends a connection whose
packets nobody acknowledges. And if a proxy or firewall swallows everything, this process gives up by itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import psycopg
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.clock import stopwatch

T = TypeVar("T")

CONNECT_SECONDS = 5
LOCK_SECONDS = 5  # for a lock of a row or table
STATEMENT_SECONDS = 10
IDLE_SECONDS = 10  # in a transaction, between two statements; a dead client must not keep its locks
RESPONSE_SECONDS = 12.0  # for the response to one statement: longer than the server's own limits
_LIMITS = {
    "statement_timeout": STATEMENT_SECONDS,
    "lock_timeout": LOCK_SECONDS,
    "idle_in_transaction_session_timeout": IDLE_SECONDS,
}
# All our statements are short. For large tables, compiling one takes far longer than executing it.
_NO_COMPILATION = {"jit": "off"}
_SOCKET: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,  # a silent connection is found dead after 5 + 3 × 2 s
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds until sent data must be acknowledged
    "application_name": "upshot",
}


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection that is closed if the server does not respond in time."""

    response_seconds: float | None = RESPONSE_SECONDS  #: None: no limit

    @override
    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        if self.response_seconds is None:
            return super().wait(gen, *args, **kwargs)
        return super().wait(self._limited(gen, self.response_seconds), *args, **kwargs)

    def _limited(self, gen: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
        """Pass a generator through. psycopg resumes it several times a second while it waits for the server."""
        deadline = stopwatch() + seconds
        try:
            needed = next(gen)
            while True:
                ready = yield needed
                needed = gen.send(ready)
                if not ready and stopwatch() > deadline:
                    self.pgconn.finish()  # nobody knows in which state the connection is
                    raise psycopg.OperationalError(f"no response within {seconds:g} s")
        except StopIteration as end:
            return cast("T", end.value)


def connect_with_deadlines(
    _dialect: object, _record: object, args: tuple[Any, ...], arguments: dict[str, Any]
) -> DeadlineConnection:
    """Connect. This is a listener for SQLAlchemy's `do_connect`; parameters of the database URL take precedence."""
    connection = DeadlineConnection.connect(*args, **(_SOCKET | arguments))
    connection.autocommit = True  # the limits stay after the first transaction
    settings = {name: str(1000 * seconds) for name, seconds in _LIMITS.items()} | _NO_COMPILATION
    connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()).encode())
    connection.autocommit = False
    return connection


@contextmanager
def without_deadlines(connection: Connection) -> Iterator[None]:
    """Lift the limits for the rest of this transaction, such as for a migration of large tables."""
    driver_connection = connection.connection.driver_connection
    if not isinstance(driver_connection, DeadlineConnection):
        yield
        return
    for name in _LIMITS:
        connection.exec_driver_sql(f"SET LOCAL {name} = 0")
    driver_connection.response_seconds = None
    try:
        yield
    finally:
        driver_connection.response_seconds = RESPONSE_SECONDS
