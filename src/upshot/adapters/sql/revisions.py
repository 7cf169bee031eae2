"""Revisions of automations in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import revisions
from upshot.domain.automation import Automation
from upshot.ids import RevisionId


class SqlRevisions:
    """`RevisionStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = sqlite.insert if database.is_sqlite else postgresql.insert
        self._insert = insert(revisions).on_conflict_do_nothing()

    def save(self, automations: Iterable[Automation], now: datetime) -> None:
        """Keep the revisions that are not kept yet."""
        rows = sorted(
            (
                {
                    "name": one.name,
                    "revision_id": one.revision_id,
                    "path": one.path,
                    "source": one.source,
                    "body_files": one.body_files,
                    "saved_at": now,
                }
                for one in automations
            ),
            key=lambda row: (row["name"], row["revision_id"]),
        )
        if not rows:
            return

        def known(connection: Connection) -> set[tuple[str, str]]:
            kept = connection.execute(sa.select(revisions.c.name, revisions.c.revision_id))
            return {(row.name, row.revision_id) for row in kept}

        kept = self._database.read(known)
        new = [row for row in rows if (row["name"], row["revision_id"]) not in kept]
        if new:
            self._database.write(lambda connection: connection.execute(self._insert, new) and None)

    def get(self, name: str, revision_id: RevisionId) -> tuple[Mapping[str, Any], Mapping[str, str], str] | None:
        """The document as plain data, its body files and its path; None when it was never kept."""
        select = sa.select(revisions).where(revisions.c.name == name, revisions.c.revision_id == revision_id)
        row = self._database.read(lambda connection: connection.execute(select).first())
        return None if row is None else (row.source, row.body_files, row.path)
