"""Destinations in SQL: one row for each destination and worker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.destinations import combine
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import insert_events
from upshot.adapters.sql.schema import destinations, executions
from upshot.domain.event import Event
from upshot.ids import WorkerId
from upshot.ports.destinations import Destination, DestinationReport, DestinationStore

_REPORTED = ("name", "is_down", "reason", "in_progress", "limit", "probe_at")


class SqlDestinations(DestinationStore):
    """`DestinationStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def report(self, worker_id: WorkerId, reports: Sequence[DestinationReport], now: datetime) -> tuple[str, ...]:
        mine = destinations.c.worker_id == worker_id
        rows = [_to_row(report, worker_id, now) for report in reports]
        select = sa.select(destinations.c.name, destinations.c.is_down, destinations.c.released_at).where(mine)

        def any_reported(connection: Connection) -> bool:
            return connection.execute(select.limit(1)).first() is not None

        def work(connection: Connection) -> tuple[str, ...]:
            released = {row.name: row.is_down for row in connection.execute(select) if row.released_at is not None}
            connection.execute(sa.delete(destinations).where(mine))
            if rows:
                # A destination that is up for another worker must not go down again by this older report.
                changes = [{"is_down": row["is_down"] and released.get(row["name"], True)} for row in rows]
                connection.execute(
                    sa.insert(destinations), [row | change for row, change in zip(rows, changes, strict=True)]
                )
            return tuple(sorted(released))

        # A worker that sends nothing does not disturb SQLite's single writer.
        return self._database.write(work) if bool(rows) or self._database.read(any_reported) else ()

    @override
    def change(self, worker_id: WorkerId, report: DestinationReport, event: Event, *, seen_since: datetime) -> bool:
        named = destinations.c.name == report.name
        down = sa.select(destinations.c.name).where(named, destinations.c.is_down, destinations.c.seen_at >= seen_since)
        mine = sa.and_(named, destinations.c.worker_id == worker_id)
        row = _to_row(report, worker_id, event.time)

        def work(connection: Connection) -> bool:
            # Two workers that change the same destination at the same time take turns.
            connection.execute(sa.select(destinations.c.name).where(named).with_for_update()).all()
            was_down = connection.execute(down).first() is not None
            connection.execute(sa.delete(destinations).where(mine))
            connection.execute(sa.insert(destinations), [row])
            if not report.is_down:
                up = {"is_down": False, "reason": None, "probe_at": None, "released_at": event.time}
                connection.execute(sa.update(destinations).where(named, destinations.c.is_down).values(up))
            is_changed = was_down != (connection.execute(down).first() is not None)
            if is_changed:
                insert_events(connection, [event], event.time)
            return is_changed

        return self._database.write(work)

    @override
    def list(self, *, seen_since: datetime) -> tuple[Destination, ...]:
        select = sa.select(*(destinations.c[name] for name in _REPORTED)).where(destinations.c.seen_at >= seen_since)
        waiting = (
            sa.select(executions.c.waits_for, sa.func.count())
            .where(executions.c.waits_for.is_not(None))
            .group_by(executions.c.waits_for)
        )

        def work(connection: Connection) -> tuple[Destination, ...]:
            reports = [DestinationReport(**row) for row in connection.execute(select).mappings()]
            return combine(reports, {row[0]: row[1] for row in connection.execute(waiting)})

        return self._database.read(work)

    @override
    def release(self, name: str, now: datetime) -> None:
        statement = sa.update(destinations).where(destinations.c.name == name).values(released_at=now)
        self._database.write(lambda connection: connection.execute(statement))


def _to_row(report: DestinationReport, worker_id: WorkerId, now: datetime) -> dict[str, Any]:
    return {name: getattr(report, name) for name in _REPORTED} | {"worker_id": worker_id, "seen_at": now}
