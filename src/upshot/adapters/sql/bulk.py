"""
One statement for many rows.

SQLite takes them one by one as quickly as any other way. To PostgreSQL each would be a message of its own, or a
placeholder for each value, which is work for both sides: it gets them all as one JSON text and reads that by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

Insert = sqlite.Insert | postgresql.Insert

_POSTGRESQL: sa.Dialect = postgresql.dialect()  # type: ignore[no-untyped-call] # as SQLAlchemy has it


class BulkStatement:
    """
    A statement that is given at least one row.

    Args:
        table: That it is about.
        columns: Names of those that every row has; they are null in a row that is new otherwise.
        finish: Says what becomes of a row whose key exists.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str], finish: Callable[[Insert], Insert]) -> None:
        given = [table.c[name] for name in columns]
        from_json = postgresql.insert(table).from_select(list(columns), _rows_in_json(given))
        self._one_by_one = finish(sqlite.insert(table))
        self._at_once = finish(from_json)
        # `str`: a column's own name is of a kind of text that no encoder takes for a key.
        self._makers = tuple((str(column.name), column.type.bind_processor(_POSTGRESQL)) for column in given)

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> sa.CursorResult[Any]:
        """Execute it."""
        if connection.dialect.name == "sqlite":
            return connection.execute(self._one_by_one, rows)
        plain = [{name: make(row[name]) if make else row[name] for name, make in self._makers} for row in rows]
        return connection.execute(self._at_once, {"rows": orjson.dumps(plain).decode()})


def _rows_in_json(columns: Sequence[sa.Column[Any]]) -> sa.Select[Any]:
    text = sa.cast(sa.bindparam("rows", type_=sa.Text), postgresql.JSON)
    named = (sa.column(column.name, column.type) for column in columns)
    return sa.select(sa.func.json_to_recordset(text).table_valued(*named).render_derived(with_types=True))


def insert_many(table: sa.Table, columns: Sequence[str], *, returning: str | None = None) -> BulkStatement:
    """Insert rows, and return this column of those that are new; one whose key exists is left as it is."""

    def finish(insert: Insert) -> Insert:
        insert = insert.on_conflict_do_nothing()
        return insert.returning(table.c[returning]) if returning else insert  # type: ignore[return-value] # it is one

    return BulkStatement(table, columns, finish)


def change_many(
    table: sa.Table, columns: Sequence[str], *, changed: Sequence[str], cleared: Sequence[str], same: str
) -> BulkStatement:
    """
    Change rows that exist.

    It is written as an insertion in which every key exists. PostgreSQL looks those up one by one,
    whatever it knows of the table; an update that joins, planned once while the table was small, would go
    on reading all of it as it grows.

    Args:
        table: Whose rows.
        columns: Names of all those that may not be null, and of the changed.
        changed: Those that get what is given.
        cleared: Those that become null.
        same: A row in which this one is not what is given is passed over.
    """

    def finish(insert: Insert) -> Insert:
        return insert.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={**{name: insert.excluded[name] for name in changed}, **dict.fromkeys(cleared)},
            where=table.c[same] == insert.excluded[same],
        )

    return BulkStatement(table, columns, finish)
