"""The id and the key of this installation, in SQL."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import installation
from upshot.ports.jobs import Installation, InstallationStore

_ROW_NUMBER = 1
_SELECT = sa.select(installation.c.id, installation.c.key).where(installation.c.number == _ROW_NUMBER)


class SqlInstallation(InstallationStore):
    """`InstallationStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = sqlite.insert if database.is_sqlite else postgresql.insert
        self._insert = insert(installation).on_conflict_do_nothing()

    @override
    def get_or_create(self, create: Callable[[], Installation]) -> Installation:
        if stored := self._database.read(_read):
            return stored
        created = create()
        row = {"number": _ROW_NUMBER, "id": created.id, "key": created.key}

        def work(connection: Connection) -> Installation:
            connection.execute(self._insert, row)
            return _read(connection) or created  # another process may have inserted its row first

        return self._database.write(work)


def _read(connection: Connection) -> Installation | None:
    row = connection.execute(_SELECT).first()
    return Installation(row.id, row.key) if row else None
