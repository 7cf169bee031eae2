"""Sets of automations in SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import automation_set_holdings as holdings
from upshot.adapters.sql.schema import automation_sets as sets
from upshot.ids import WorkerId
from upshot.ports.automation_sets import (
    AutomationSetStore,
    Holding,
    KnownSets,
    SetContent,
    SetMember,
    SetQuality,
)

_KEPT = 100  # numbers
_KEPT_HOLDINGS = timedelta(days=1)
_LOCK = 7_406_220_184  # advisory lock of workers that request a number; any constant works
_NUMBERS = sa.select(sets.c.digest, sets.c.number)
_HOLDINGS = sa.select(holdings)
_CONTENT = sa.select(sets.c.content).where(sets.c.digest == sa.bindparam("digest"))
_FIELDS = ("worker_id", "source", "digest", "quality", "held_at", "matches", "difference", "has_ended")


class SqlAutomationSets(AutomationSetStore):
    """`AutomationSetStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = sqlite.insert if database.is_sqlite else postgresql.insert
        hold = insert(holdings)
        changes = {name: hold.excluded[name] for name in _FIELDS if name != "worker_id"}
        self._hold = hold.on_conflict_do_update(index_elements=["worker_id"], set_=changes)
        number = insert(sets)
        changes = {"number": number.excluded.number, "content": number.excluded.content}
        self._set_number = number.on_conflict_do_update(index_elements=["digest"], set_=changes)

    @override
    def read(self) -> KnownSets:
        return self._database.read(_read)

    @override
    def content(self, digest: str) -> SetContent:
        stored = self._database.read(lambda connection: connection.execute(_CONTENT, {"digest": digest}).scalar())
        return {name: SetMember(revision_id, enabled) for name, (revision_id, enabled) in (stored or {}).items()}

    @override
    def hold(self, holding: Holding) -> None:
        self._database.write(lambda connection: connection.execute(self._hold, _to_row(holding)))

    @override
    def end(self, worker_id: WorkerId) -> None:
        statement = sa.update(holdings).where(holdings.c.worker_id == worker_id).values(has_ended=True)
        self._database.write(lambda connection: connection.execute(statement))

    @override
    def assign_number(
        self, holding: Holding, content: SetContent, next_number: Callable[[KnownSets], int | None]
    ) -> KnownSets:
        stored = {name: [member.revision_id, member.enabled] for name, member in content.items()}

        def work(connection: Connection) -> KnownSets:
            if connection.dialect.name == "postgresql":  # SQLite has one writer
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            known = _read(connection)
            number = next_number(known)
            if number is None:
                return known
            connection.execute(self._set_number, {"digest": holding.digest, "number": number, "content": stored})
            connection.execute(self._hold, _to_row(holding))
            connection.execute(sa.delete(holdings).where(holdings.c.held_at < holding.held_at - _KEPT_HOLDINGS))
            held = sa.select(holdings.c.digest)
            last = max(0, number - _KEPT)  # provisional numbers are forgotten, too
            connection.execute(sa.delete(sets).where(sets.c.number <= last, sets.c.digest.not_in(held)))
            return _read(connection)

        return self._database.write(work)


def _read(connection: Connection) -> KnownSets:
    numbers = {row.digest: row.number for row in connection.execute(_NUMBERS)}
    rows = connection.execute(_HOLDINGS).mappings()
    held = (Holding(**{**row, "quality": SetQuality(row["quality"])}) for row in rows)
    return KnownSets(numbers, {holding.worker_id: holding for holding in held})


def _to_row(holding: Holding) -> dict[str, Any]:
    return {name: getattr(holding, name) for name in _FIELDS} | {"quality": holding.quality.value}
