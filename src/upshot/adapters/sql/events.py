"""Events in SQL, inserted with the mutation that created them and matched later."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.cursor import decode_event_cursor, make_cursor
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import events, executions, has_id_part, root_events
from upshot.domain.event import ALIAS_KINDS, Event
from upshot.ids import EventId, first_id
from upshot.ports.events import RARE_FACTOR, EventQuery, EventStore, StoredEvent
from upshot.ports.paging import Page
from upshot.resources.event import event_from_json, event_json

_INSERT = {
    "sqlite": sqlite.insert(events).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(events).on_conflict_do_nothing(),
}
_BY_IDS = sa.select(events.c.document).where(events.c.id.in_(sa.bindparam("ids", expanding=True)))
_BY_ID = (
    sa.select(events.c.document, events.c.matched_at, root_events.c.warning)
    .outerjoin(root_events, root_events.c.event_id == events.c.id)
    .where(events.c.id == sa.bindparam("id"))
)
_EXECUTION_IDS = sa.select(executions.c.id).where(executions.c.event_id == sa.bindparam("id")).order_by(executions.c.id)
_is_unmatched = sa.and_(events.c.matched_at.is_(None), events.c.published_at < sa.bindparam("before"))
_ANY_UNMATCHED = sa.select(events.c.id).where(_is_unmatched).limit(1)
_UNMATCHED = (
    sa.select(events.c.id, events.c.document)
    .where(_is_unmatched)
    .order_by(events.c.published_at, events.c.id)
    .limit(sa.bindparam("limit"))
    .with_for_update(skip_locked=True)  # on PostgreSQL relays share the work; on SQLite they take turns
)
_NEWEST_UNMATCHED = (
    sa.select(events.c.id)
    .where(events.c.matched_at.is_(None))
    .order_by(events.c.published_at.desc(), events.c.id.desc())
    .limit(1)
)
# The compared events in groups with their counts, so that window functions process groups instead of events.
_compared = (
    sa.select(
        events.c.id,
        events.c.kind,
        sa.func.coalesce(events.c.name, "").label("name"),
        sa.func.coalesce(events.c.alias, "").label("alias"),
        sa.func.coalesce(events.c.subject_base, events.c.subject).label("subject"),
    )
    .where(events.c.matched_at.is_(None))
    .order_by(events.c.published_at.desc())
    .limit(sa.bindparam("among"))
    .cte("compared")
)
_group_columns = ("kind", "name", "alias", "subject")
_groups = (
    sa.select(*(_compared.c[name] for name in _group_columns), sa.func.count().label("size"))
    .group_by(*(_compared.c[name] for name in _group_columns))
    .cte("groups")
)


def _count_alike(*names: str) -> sa.ColumnElement[int]:
    alike = sa.func.sum(_groups.c.size).over(partition_by=[_groups.c[name] for name in names])
    return sa.cast(alike, sa.BigInteger)


_scored = sa.select(
    *(_groups.c[name] for name in _group_columns),
    (
        _count_alike("kind")
        * _count_alike("kind", "name")
        * _count_alike("kind", "name", "alias")
        * _count_alike("kind", "name", "subject")
    ).label("score"),
).cte("scored")
_RARE = (
    sa.select(events.c.document)
    .select_from(
        _compared.join(_scored, sa.and_(*(_compared.c[name] == _scored.c[name] for name in _group_columns))).join(
            events, events.c.id == _compared.c.id
        )
    )
    .where(_scored.c.score * RARE_FACTOR <= sa.select(sa.func.max(_scored.c.score)).scalar_subquery())
    .order_by(_scored.c.score, _compared.c.id)
    .limit(sa.bindparam("limit"))
)
_SET_PUBLISHED = (
    sa.update(events)
    .where(events.c.id.in_(sa.bindparam("ids", expanding=True)))
    .values(published_at=sa.bindparam("now"))
)


def subject_base(subject: str) -> str:
    """Return the subject up to its first `:`: the collection of a version, the artifact of an artifact version."""
    return subject.partition(":")[0]


def insert_events(connection: Connection, accepted: Sequence[Event], now: datetime) -> None:
    """Insert events in a transaction, published now. An event whose id exists is left unchanged."""
    rows = [
        {
            "id": event.id,
            "kind": event.kind.value,
            "name": event.name,
            "subject": event.subject,
            "time": event.time,
            "mutation_id": event.mutation_id,
            "document": event_json(event),
            "published_at": now,
            "subject_base": subject_base(event.subject),
            "alias": event.data.get("alias") if event.kind in ALIAS_KINDS else None,
        }
        for event in accepted
    ]
    connection.execute(_INSERT[connection.dialect.name], rows)


class SqlEvents(EventStore):
    """`EventStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def get(self, event_ids: Collection[EventId]) -> Mapping[EventId, Event]:
        ids = list(event_ids)
        documents = self._database.read(lambda connection: connection.execute(_BY_IDS, {"ids": ids}).scalars().all())
        return {event.id: event for event in map(event_from_json, documents)}

    @override
    def find(self, event_id: EventId) -> StoredEvent | None:
        def work(connection: Connection) -> StoredEvent | None:
            row = connection.execute(_BY_ID, {"id": event_id}).one_or_none()
            if row is None:
                return None
            execution_ids = connection.execute(_EXECUTION_IDS, {"id": event_id}).scalars()
            return StoredEvent(event_from_json(row.document), row.matched_at, tuple(execution_ids), row.warning)

        return self._database.read(work)

    @override
    def page(self, query: EventQuery, *, cursor: str | None, limit: int) -> Page[StoredEvent]:
        last = decode_event_cursor(cursor) if cursor is not None else None
        select = _page_select(query, last, limit + 1)
        rows = self._database.read(lambda connection: connection.execute(select).all())
        items = tuple(StoredEvent(event_from_json(row.document), row.matched_at) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].event.id) if len(rows) > limit else None)

    @override
    def take_unmatched(self, *, published_before: datetime, now: datetime, limit: int) -> tuple[Event, ...]:
        def any_unmatched(connection: Connection) -> bool:
            return connection.execute(_ANY_UNMATCHED, {"before": published_before}).first() is not None

        def work(connection: Connection) -> tuple[Event, ...]:
            rows = connection.execute(_UNMATCHED, {"before": published_before, "limit": limit}).all()
            if rows:
                connection.execute(_SET_PUBLISHED, {"ids": [row.id for row in rows], "now": now})
            return tuple(event_from_json(row.document) for row in rows)

        # Usually nothing is unmatched. Then a read is enough, and SQLite's single writer is not disturbed.
        return self._database.write(work) if self._database.read(any_unmatched) else ()

    @override
    def newest_unmatched(self) -> EventId | None:
        return self._database.read(lambda connection: connection.execute(_NEWEST_UNMATCHED).scalar())

    @override
    def find_rare(self, *, among: int, limit: int) -> tuple[Event, ...]:
        values = {"among": among, "limit": limit}
        documents = self._database.read(lambda connection: connection.execute(_RARE, values).scalars().all())
        return tuple(map(event_from_json, documents))


def _page_select(query: EventQuery, last: str | None, limit: int) -> sa.Select[Any]:
    """Return the statement for a page. Each part of it reads an index in the order of the page, and stops early."""
    equal = {"kind": query.kind, "name": query.name, "mutation_id": query.mutation_id}
    # A subject is the better index: SQLite must not read all events of a kind instead.
    conditions = [
        (events.c[column].concat("") if query.subject is not None and column != "mutation_id" else events.c[column])
        == value
        for column, value in equal.items()
        if value is not None
    ]
    if query.since is not None:
        conditions.append(events.c.id >= first_id("evt", query.since))
    if query.id_part is not None:
        conditions.append(has_id_part(events.c.id, query.id_part))
    oldest_first = query.after_id is not None
    if query.after_id is not None:
        conditions.append(events.c.id > query.after_id)
    if last is not None:
        conditions.append(events.c.id > last if oldest_first else events.c.id < last)

    def select(table: sa.FromClause, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
        ordered = table.c.id if oldest_first else table.c.id.desc()
        return sa.select(table.c.id, table.c.document, table.c.matched_at).where(*where).order_by(ordered).limit(limit)

    if query.subject is None:
        return select(events, *conditions)
    if ":" not in query.subject:  # `model/churn` also matches `model/churn:v3`
        return select(events, events.c.subject_base == query.subject, *conditions)
    # `a:b` also matches `a:b:c`. The character after `:` is `;`.
    whole = select(events, events.c.subject == query.subject, *conditions)
    beginning = select(
        events, events.c.subject > f"{query.subject}:", events.c.subject < f"{query.subject};", *conditions
    )
    # In subqueries, because SQLite allows no LIMIT in the parts of a UNION.
    return select(sa.union_all(*(sa.select(part.subquery()) for part in (whole, beginning))).subquery())
