"""
One statement for many rows.

SQLite executes rows one by one as quickly as in any other way. For PostgreSQL each row would be a message of
its own, or a placeholder for each value, which costs both sides time. It gets all rows as one JSON text
and parses that itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

Insert = sqlite.Insert | postgresql.Insert

_POSTGRESQL: sa.Dialect = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy does not annotate it


class BulkStatement:
    """
    A statement that is executed with at least one row.

    Args:
        table: The table of the rows.
        columns: Names of the columns that every row has. The other columns of a new row are null.
        on_conflict: Adds the clause for a row whose key exists.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str], on_conflict: Callable[[Insert], Insert]) -> None:
        given = [table.c[name] for name in columns]
        rows = sa.cast(sa.bindparam("rows", type_=sa.Text), postgresql.JSON)
        typed = (sa.column(column.name, column.type) for column in given)
        from_json = sa.select(sa.func.json_to_recordset(rows).table_valued(*typed).render_derived(with_types=True))
        self._row_by_row = on_conflict(sqlite.insert(table))
        self._all_at_once = on_conflict(postgresql.insert(table).from_select(list(columns), from_json))
        # `str`: orjson refuses a column's own name, which is a subclass of str, as a key.
        self._converters = tuple((str(column.name), column.type.bind_processor(_POSTGRESQL)) for column in given)

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> sa.CursorResult[Any]:
        """Execute the statement with these rows."""
        if connection.dialect.name == "sqlite":
            return connection.execute(self._row_by_row, rows)
        plain = [
            {name: convert(row[name]) if convert else row[name] for name, convert in self._converters} for row in rows
        ]
        return connection.execute(self._all_at_once, {"rows": orjson.dumps(plain).decode()})


def insert_many(table: sa.Table, columns: Sequence[str], *, returning: str | None = None) -> BulkStatement:
    """Insert rows and return this column of the new ones. A row whose key exists is left unchanged."""

    def on_conflict(insert: Insert) -> Insert:
        insert = insert.on_conflict_do_nothing()
        return insert.returning(table.c[returning]) if returning else insert  # type: ignore[return-value] # an Insert

    return BulkStatement(table, columns, on_conflict)


def update_many(
    table: sa.Table, columns: Sequence[str], *, updated: Sequence[str], cleared: Sequence[str], if_equal: str
) -> BulkStatement:
    """
    Update rows that exist.

    The statement is written as an insert in which every key exists. PostgreSQL looks these keys up one by one,
    whatever its statistics say about the table. An update with a join, planned once while the table was
    small, would keep reading the whole table as it grows.

    Args:
        table: The table of the rows.
        columns: Names of all columns that are not nullable, and of the updated ones.
        updated: Columns that get the given value.
        cleared: Columns that become null.
        if_equal: A row is left unchanged if this column differs from the given value.
    """

    def on_conflict(insert: Insert) -> Insert:
        return insert.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={**{name: insert.excluded[name] for name in updated}, **dict.fromkeys(cleared)},
            where=table.c[if_equal] == insert.excluded[if_equal],
        )

    return BulkStatement(table, columns, on_conflict)
