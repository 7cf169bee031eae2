"""This Upshot's name and key, in SQL."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import installation
from upshot.ports.jobs import Installation

_THE_ONE = 1
_SELECT = sa.select(installation.c.id, installation.c.key).where(installation.c.number == _THE_ONE)


def _kept(connection: Connection) -> Installation | None:
    row = connection.execute(_SELECT).first()
    return Installation(row.id, row.key) if row else None


class SqlInstallation:
    """`InstallationStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = sqlite.insert if database.is_sqlite else postgresql.insert
        self._insert = insert(installation).on_conflict_do_nothing()

    def get(self, make: Callable[[], Installation]) -> Installation:
        """The one that is kept; kept now if there was none."""
        if found := self._database.read(_kept):
            return found
        made = make()
        row = {"number": _THE_ONE, "id": made.id, "key": made.key}

        def work(connection: Connection) -> Installation:
            connection.execute(self._insert, row)
            return _kept(connection) or made

        return self._database.write(work)
