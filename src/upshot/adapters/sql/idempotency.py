"""Requests that may come twice, in SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import idempotency_keys as keys
from upshot.ports.idempotency import IdempotencyRecord, StoredResponse


class SqlIdempotency:
    """`IdempotencyStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = (sqlite.insert if database.is_sqlite else postgresql.insert)(keys)
        self._insert = insert.on_conflict_do_nothing(index_elements=["key"])

    def reserve(
        self, key: str, fingerprint: str, *, holder: str, now: datetime, stale_before: datetime, kept_since: datetime
    ) -> IdempotencyRecord:
        """Take the key for this call, if nobody has it."""
        taken = {"holder": holder, "reserved_at": now}
        fresh = {"key": key, "fingerprint": fingerprint, "first_at": now, **taken}
        forgotten = sa.delete(keys).where(keys.c.key == key, keys.c.first_at < kept_since)
        takeover = (
            sa.update(keys)
            .where(keys.c.key == key, keys.c.fingerprint == fingerprint, keys.c.status.is_(None))
            .where(keys.c.holder.is_(None) | (keys.c.reserved_at < stale_before))
            .values(taken)
        )
        standing = sa.select(keys).where(keys.c.key == key)

        def work(connection: Connection) -> IdempotencyRecord:
            connection.execute(forgotten)
            connection.execute(self._insert, fresh)
            connection.execute(takeover)
            return _kept(connection.execute(standing).one())

        return self._database.write(work)

    def store_response(self, key: str, holder: str, response: StoredResponse) -> None:
        """Keep what was answered; nothing happens if another call has taken the key since."""
        kept = {"status": response.status, "headers": dict(response.headers), "body": response.body}
        self._change(sa.update(keys).where(keys.c.key == key, keys.c.holder == holder).values(kept))

    def release(self, key: str, holder: str) -> None:
        """Let the same request be made again at once."""
        self._change(sa.update(keys).where(keys.c.key == key, keys.c.holder == holder).values(holder=None))

    def delete(self, key: str, holder: str) -> None:
        """Let any request use the key."""
        self._change(sa.delete(keys).where(keys.c.key == key, keys.c.holder == holder))

    def prune(self, *, kept_since: datetime) -> int:
        """Remove keys that first came before then; returns how many."""
        return self._change(sa.delete(keys).where(keys.c.first_at < kept_since))

    def _change(self, statement: sa.Update | sa.Delete) -> int:
        return self._database.write(lambda connection: connection.execute(statement).rowcount)


def _kept(row: sa.Row[Any]) -> IdempotencyRecord:
    response = None if row.status is None else StoredResponse(row.status, row.headers, row.body)
    return IdempotencyRecord(row.key, row.fingerprint, row.first_at, row.holder, response)
