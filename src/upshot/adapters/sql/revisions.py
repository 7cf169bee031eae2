"""Revisions of automations in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.serialization.watches import watches_from_data, watches_to_data
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import active_automations, file_faults, revisions
from upshot.domain.automation import ActiveRevision, ActiveWatch, Automation, FileFault, watches_of
from upshot.ids import RevisionId, new_id
from upshot.ports.executions import RevisionStore


class SqlRevisions(RevisionStore):
    """`RevisionStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = sqlite.insert if database.is_sqlite else postgresql.insert
        self._insert = insert(revisions).on_conflict_do_nothing()
        activate = insert(active_automations)
        self._activate = activate.on_conflict_do_update(
            index_elements=["name"],
            set_={name: activate.excluded[name] for name in ("revision_id", "path", "watches")},
        )

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

    @override
    def activate(self, automations: Iterable[Automation], faults: Iterable[FileFault], now: datetime) -> None:
        automations = list(automations)
        self.save(automations, now)
        active = {ActiveRevision(item.name, item.revision_id, item.path) for item in automations}
        watches = {item.name: watches_to_data(watches_of(item, now)) or None for item in automations}
        found = {fault.content: fault for fault in faults}

        def change(connection: Connection) -> None:
            stored = _read_active(connection)
            if gone := {revision.name for revision in stored} - {revision.name for revision in active}:
                connection.execute(_DEACTIVATE, [{"gone": name} for name in sorted(gone)])
            if new := active - stored:
                rows = [
                    asdict(revision) | {"watches": watches[revision.name]} for revision in sorted(new, key=_name_of)
                ]
                connection.execute(self._activate, rows)
            open_faults = _read_open_faults(connection)
            ended = [fault_id for fault_id, content in open_faults.items() if content not in found]
            if ended:
                connection.execute(sa.update(file_faults).where(file_faults.c.id.in_(ended)).values(until=now))
            new_faults = found.keys() - set(open_faults.values())
            if new_faults:
                rows = [{**asdict(found[content]), "id": new_id("flt", now), "since": now} for content in new_faults]
                connection.execute(sa.insert(file_faults), rows)

        def is_stored(connection: Connection) -> bool:
            open_faults = set(_read_open_faults(connection).values())
            return _read_active(connection) == active and open_faults == found.keys()

        if not self._database.read(is_stored):
            self._database.write(change)

    @override
    def active(self) -> tuple[ActiveRevision, ...]:
        return tuple(sorted(self._database.read(_read_active), key=_name_of))

    @override
    def watches(self) -> tuple[ActiveWatch, ...]:
        rows = self._database.read(lambda connection: connection.execute(_WATCHES).all())
        return tuple(watch for row in rows for watch in watches_from_data(row.watches))

    @override
    def faults_at(self, time: datetime) -> tuple[FileFault, ...]:
        select = (
            sa.select(file_faults)
            .where(
                sa.or_(file_faults.c.until.is_(None), file_faults.c.until > time),
                file_faults.c.since <= time,
            )
            .order_by(file_faults.c.path, file_faults.c.id)
        )
        rows = self._database.read(lambda connection: connection.execute(select).all())
        # Two workers that find an error at the same time both store it.
        return tuple({fault.content: fault for fault in map(_fault, rows)}.values())


_WATCHES = (
    sa.select(active_automations.c.watches)
    .where(active_automations.c.watches.is_not(None))
    .order_by(active_automations.c.name)
)
_DEACTIVATE = sa.delete(active_automations).where(active_automations.c.name == sa.bindparam("gone"))


def _name_of(revision: ActiveRevision) -> str:
    return revision.name


def _read_active(connection: Connection) -> set[ActiveRevision]:
    rows = connection.execute(sa.select(active_automations))
    return {ActiveRevision(row.name, row.revision_id, row.path) for row in rows}


def _read_open_faults(connection: Connection) -> dict[str, tuple[object, ...]]:
    rows = connection.execute(sa.select(file_faults).where(file_faults.c.until.is_(None)))
    return {row.id: _fault(row).content for row in rows}


def _fault(row: Any) -> FileFault:
    return FileFault(row.path, row.line, row.reason, row.error_count, tuple(row.kept), row.since, row.until)
