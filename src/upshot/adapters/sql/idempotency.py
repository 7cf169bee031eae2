"""Idempotency keys in SQL."""

from __future__ import annotations

import time
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import idempotency_keys as keys
from upshot.ports.idempotency import IdempotencyRecord, IdempotencyStore, StoredResponse

_PRUNE_BATCH = 200
_PRUNE_PAUSE_SECONDS = 0.05


class SqlIdempotency(IdempotencyStore):
    """`IdempotencyStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = (sqlite.insert if database.is_sqlite else postgresql.insert)(keys)
        self._insert = insert.on_conflict_do_nothing(index_elements=["key"])

    @override
    def reserve(
        self,
        key: str,
        fingerprint: str,
        *,
        call_id: str,
        now: datetime,
        stale_before: datetime,
        expired_before: datetime,
    ) -> IdempotencyRecord:
        reservation = {"call_id": call_id, "reserved_at": now}
        new = {"key": key, "fingerprint": fingerprint, "first_at": now, **reservation}
        delete_expired = sa.delete(keys).where(keys.c.key == key, keys.c.first_at < expired_before)
        take_over = (
            sa.update(keys)
            .where(keys.c.key == key, keys.c.fingerprint == fingerprint, keys.c.status.is_(None))
            .where(keys.c.call_id.is_(None) | (keys.c.reserved_at < stale_before))
            .values(reservation)
        )
        select = sa.select(keys).where(keys.c.key == key)

        def work(connection: Connection) -> IdempotencyRecord:
            connection.execute(delete_expired)
            connection.execute(self._insert, new)
            connection.execute(take_over)
            row = connection.execute(select).one()
            response = None if row.status is None else StoredResponse(row.status, row.headers, row.body)
            return IdempotencyRecord(row.key, row.fingerprint, row.first_at, row.call_id, response)

        return self._database.write(work)

    @override
    def store_response(self, key: str, call_id: str, response: StoredResponse) -> None:
        values = {"status": response.status, "headers": dict(response.headers), "body": response.body}
        self._execute(sa.update(keys).where(keys.c.key == key, keys.c.call_id == call_id).values(values))

    @override
    def release(self, key: str, call_id: str) -> None:
        self._execute(sa.update(keys).where(keys.c.key == key, keys.c.call_id == call_id).values(call_id=None))

    @override
    def delete(self, key: str, call_id: str) -> None:
        self._execute(sa.delete(keys).where(keys.c.key == key, keys.c.call_id == call_id))

    @override
    def prune(self, *, expired_before: datetime) -> int:
        expired = sa.select(keys.c.key).where(keys.c.first_at < expired_before).limit(_PRUNE_BATCH)
        statement = sa.delete(keys).where(keys.c.key.in_(expired))
        # In small transactions, so that other writers do not wait long.
        total = removed = self._execute(statement)
        while removed == _PRUNE_BATCH:
            time.sleep(_PRUNE_PAUSE_SECONDS)
            removed = self._execute(statement)
            total += removed
        return total

    def _execute(self, statement: sa.Update | sa.Delete) -> int:
        return self._database.write(lambda connection: connection.execute(statement).rowcount)
