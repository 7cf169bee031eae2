"""The clock that leases are compared with: the database's, so that the clocks of the machines can differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.clock import Clock, SystemClock, stopwatch

log = structlog.get_logger("upshot.clock")

MAX_ROUND_TRIP_SECONDS = 1.0  # a slower response says too little about the database's clock
REPORTED_SKEW_SECONDS = 2.0
_NOW = sa.select(sa.func.clock_timestamp())


class DatabaseClock(Clock):
    """
    The clock of a PostgreSQL server, which runs on in this process between two calls of `synchronize`.

    It does not jump when somebody sets the machine's clock. SQLite has no clock of its own. Its processes run on one
    machine, so they share the machine's clock.

    Args:
        database: The database.
        machine: The clock of this machine.

    Raises:
        Unavailable: The database does not answer.
    """

    def __init__(self, database: Database, machine: Clock | None = None) -> None:
        self._database = database
        self._machine = machine or SystemClock()
        self._synchronized: tuple[datetime, float] | None = None  #: the database's time, and the stopwatch then
        self.skew_seconds = 0.0  #: how far this machine's clock is ahead of the database's
        self._reported = False
        self.synchronize()

    @override
    def now(self) -> datetime:
        if self._synchronized is None:
            return self._machine.now()
        moment, at = self._synchronized
        return moment + timedelta(seconds=stopwatch() - at)

    def synchronize(self) -> None:
        """
        Read the database's clock, and measure how far this machine's clock differs.

        Raises:
            Unavailable: The database does not answer. The clock runs on.
        """
        if self._database.is_sqlite:
            return

        def work(connection: Connection) -> tuple[datetime, float, float]:
            started = stopwatch()
            moment: datetime = connection.execute(_NOW).scalar_one()
            return moment.astimezone(UTC), started, stopwatch()

        moment, started, ended = self._database.read(work)
        if self._synchronized is not None and ended - started > MAX_ROUND_TRIP_SECONDS:
            return
        self._synchronized = (moment, (started + ended) / 2)
        self.skew_seconds = (self._machine.now() - self.now()).total_seconds()
        is_large = abs(self.skew_seconds) > REPORTED_SKEW_SECONDS
        if is_large and not self._reported:
            log.warning("clock.differs", ahead_seconds=round(self.skew_seconds, 3), remedy="run a time service")
        self._reported = is_large
