"""Counts of attempts in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import deliveries
from upshot.ports.deliveries import BUCKETS_SECONDS, DeliveryCount, DeliveryKey, DeliveryStore

_BUCKETS = tuple(f"bucket_{index}" for index in range(len(BUCKETS_SECONDS)))
_ROWS_PER_STATEMENT = 500  # of 13 values; SQLite takes 32,766 values in one statement
_SELECT = sa.select(deliveries)


class SqlDeliveries(DeliveryStore):
    """`DeliveryStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert

    @override
    def add(self, counts: Mapping[DeliveryKey, DeliveryCount]) -> None:
        # Sorted, so that two workers do not deadlock on each other's rows.
        rows = [
            {
                **key._asdict(),
                "attempts": count.attempts,
                "seconds": count.seconds,
                **dict(zip(_BUCKETS, count.buckets, strict=True)),
            }
            for key, count in sorted(counts.items())
        ]
        if rows:
            self._database.write(lambda connection: self._add(connection, rows))

    def _add(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        for start in range(0, len(rows), _ROWS_PER_STATEMENT):
            insert = self._insert(deliveries).values(rows[start : start + _ROWS_PER_STATEMENT])
            sums = {name: deliveries.c[name] + insert.excluded[name] for name in ("attempts", "seconds", *_BUCKETS)}
            connection.execute(insert.on_conflict_do_update(index_elements=DeliveryKey._fields, set_=sums))

    @override
    def read(self) -> Mapping[DeliveryKey, DeliveryCount]:
        rows = self._database.read(lambda connection: connection.execute(_SELECT).mappings().all())
        return {
            DeliveryKey(row["action"], row["destination"], row["result"]): DeliveryCount(
                row["attempts"], row["seconds"], tuple(row[name] for name in _BUCKETS)
            )
            for row in rows
        }
