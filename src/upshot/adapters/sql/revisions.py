"""Revisions of automations in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import revisions
from upshot.domain.automation import Automation
from upshot.ids import RevisionId
from upshot.ports.executions import RevisionStore


class SqlRevisions(RevisionStore):
    """`RevisionStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = sqlite.insert if database.is_sqlite else postgresql.insert
        self._insert = insert(revisions).on_conflict_do_nothing()

    @override
    def save(self, automations: Iterable[Automation], now: datetime) -> None:
        rows = {
            (automation.name, automation.revision_id): {
                "name": automation.name,
                "revision_id": automation.revision_id,
                "path": automation.path,
                "source": automation.source,
                "body_files": automation.body_files,
                "saved_at": now,
            }
            for automation in automations
        }
        if not rows:
            return

        def stored(connection: Connection) -> set[tuple[str, str]]:
            keys = connection.execute(sa.select(revisions.c.name, revisions.c.revision_id))
            return {(key.name, key.revision_id) for key in keys}

        if new := sorted(rows.keys() - self._database.read(stored)):
            new_rows = [rows[key] for key in new]
            self._database.write(lambda connection: connection.execute(self._insert, new_rows))

    @override
    def get(self, name: str, revision_id: RevisionId) -> tuple[Mapping[str, Any], Mapping[str, str], str] | None:
        select = sa.select(revisions).where(revisions.c.name == name, revisions.c.revision_id == revision_id)
        row = self._database.read(lambda connection: connection.execute(select).first())
        return None if row is None else (row.source, row.body_files, row.path)
