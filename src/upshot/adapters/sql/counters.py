"""Counters in SQL."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import counters
from upshot.ports.counters import CounterStore

_SELECT = sa.select(counters.c.name, counters.c.value)


class SqlCounters(CounterStore):
    """`CounterStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = (sqlite.insert if database.is_sqlite else postgresql.insert)(counters)
        value = counters.c.value + insert.excluded.value
        self._upsert = insert.on_conflict_do_update(index_elements=["name"], set_={"value": value})

    @override
    def increment(self, name: str, by: int) -> None:
        self._database.write(lambda connection: connection.execute(self._upsert, {"name": name, "value": by}))

    @override
    def read(self) -> Mapping[str, int]:
        rows = self._database.read(lambda connection: connection.execute(_SELECT).all())
        return {row.name: row.value for row in rows}
