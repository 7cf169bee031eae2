"""Events in SQL: inserted with the mutation that made them, matched later."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from upshot.adapters.cursor import event_after_cursor, make_cursor
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import events, executions
from upshot.domain.event import Event
from upshot.ports.events import EventQuery, StoredEvent
from upshot.ports.paging import Page

_INSERT = {
    "sqlite": sqlite.insert(events).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(events).on_conflict_do_nothing(),
}
_BY_ID = sa.select(events.c.document).where(events.c.id.in_(sa.bindparam("ids", expanding=True)))
_FIND = sa.select(events.c.document, events.c.matched_at).where(events.c.id == sa.bindparam("id"))
_EXECUTIONS = sa.select(executions.c.id).where(executions.c.event_id == sa.bindparam("id")).order_by(executions.c.id)
_LIST = sa.select(events.c.id, events.c.document, events.c.matched_at)
_is_unmatched = sa.and_(events.c.matched_at.is_(None), events.c.published_at < sa.bindparam("before"))
_ANY_UNMATCHED = sa.select(events.c.id).where(_is_unmatched).limit(1)
_UNMATCHED = (
    sa.select(events.c.id, events.c.document)
    .where(_is_unmatched)
    .order_by(events.c.published_at, events.c.id)
    .limit(sa.bindparam("limit"))
    .with_for_update(skip_locked=True)  # several relays share the work (SQLite gives them their turn anyway)
)
_PUBLISHED = (
    sa.update(events)
    .where(events.c.id.in_(sa.bindparam("ids", expanding=True)))
    .values(published_at=sa.bindparam("now"))
)


def insert_events(connection: Connection, accepted: Sequence[Event], now: datetime) -> None:
    """Insert events as part of a transaction, published as of now; one whose id exists is left as it is."""
    rows = [
        {
            "id": event.id,
            "kind": event.kind.value,
            "name": event.name,
            "subject": event.subject,
            "time": event.time,
            "mutation_id": event.mutation_id,
            "document": event.as_dict(),
            "published_at": now,
        }
        for event in accepted
    ]
    connection.execute(_INSERT[connection.dialect.name], rows)


class SqlEvents:
    """`EventStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, ids: Collection[str]) -> Mapping[str, Event]:
        """The events of these ids; those that do not exist are left out."""

        def work(connection: Connection) -> dict[str, Event]:
            found = (Event.from_dict(document) for document in connection.execute(_BY_ID, {"ids": list(ids)}).scalars())
            return {event.id: event for event in found}

        return self._database.read(work)

    def find(self, event_id: str) -> StoredEvent | None:
        """One event with what has become of it."""

        def work(connection: Connection) -> StoredEvent | None:
            row = connection.execute(_FIND, {"id": event_id}).one_or_none()
            if row is None:
                return None
            answers = connection.execute(_EXECUTIONS, {"id": event_id}).scalars()
            return StoredEvent(Event.from_dict(row.document), row.matched_at, tuple(answers))

        return self._database.read(work)

    def page(self, query: EventQuery, *, cursor: str | None, limit: int) -> Page[StoredEvent]:
        """Events, newest first; oldest first with `query.after`."""
        oldest_first = query.after is not None
        select = _LIST.where(*_conditions(query))
        if cursor is not None:
            last = event_after_cursor(cursor)
            select = select.where(events.c.id > last if oldest_first else events.c.id < last)
        select = select.order_by(events.c.id if oldest_first else events.c.id.desc()).limit(limit + 1)

        rows = self._database.read(lambda connection: connection.execute(select).all())
        items = tuple(StoredEvent(Event.from_dict(row.document), row.matched_at) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].event.id) if len(rows) > limit else None)

    def take_unmatched(self, *, published_before: datetime, now: datetime, limit: int) -> tuple[Event, ...]:
        """Take for publishing again: unmatched events last published before then, oldest first; published now."""

        def any_unmatched(connection: Connection) -> bool:
            return connection.execute(_ANY_UNMATCHED, {"before": published_before}).first() is not None

        def work(connection: Connection) -> tuple[Event, ...]:
            rows = connection.execute(_UNMATCHED, {"before": published_before, "limit": limit}).all()
            if rows:
                connection.execute(_PUBLISHED, {"ids": [row.id for row in rows], "now": now})
            return tuple(Event.from_dict(row.document) for row in rows)

        # Most rounds find nothing: they shall not take SQLite's one writing place.
        return self._database.write(work) if self._database.read(any_unmatched) else ()


def _conditions(query: EventQuery) -> list[sa.ColumnElement[bool]]:
    equal = {"kind": query.kind, "name": query.name, "mutation_id": query.mutation_id}
    conditions = [events.c[column] == value for column, value in equal.items() if value is not None]
    if query.subject is not None:
        # `model/churn` also means `model/churn:v3`; `;` is the character after `:`.
        conditions.append(
            sa.or_(
                events.c.subject == query.subject,
                sa.and_(events.c.subject > f"{query.subject}:", events.c.subject < f"{query.subject};"),
            )
        )
    if query.after is not None:
        conditions.append(events.c.id > query.after)
    return conditions
