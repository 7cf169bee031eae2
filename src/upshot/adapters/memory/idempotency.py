"""Idempotency keys in memory, for tests and `upshot.testing`."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime

from typing_extensions import override

from upshot.ports.idempotency import IdempotencyRecord, IdempotencyStore, StoredResponse


class MemoryIdempotency(IdempotencyStore):
    """`IdempotencyStore` in memory."""

    def __init__(self) -> None:
        self._records: dict[str, IdempotencyRecord] = {}
        self._reserved_at: dict[str, datetime] = {}
        self._lock = threading.Lock()

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
        with self._lock:
            record = self._records.get(key)
            if record is None or record.first_at < expired_before:
                record = IdempotencyRecord(key, fingerprint, now, None, None)
            is_free = record.call_id is None or self._reserved_at[key] < stale_before
            if record.fingerprint == fingerprint and record.response is None and is_free:
                record = replace(record, call_id=call_id)
                self._records[key], self._reserved_at[key] = record, now
            return record

    @override
    def store_response(self, key: str, call_id: str, response: StoredResponse) -> None:
        with self._lock:
            if self._is_reserved_by(key, call_id):
                self._records[key] = replace(self._records[key], response=response)

    @override
    def release(self, key: str, call_id: str) -> None:
        with self._lock:
            if self._is_reserved_by(key, call_id):
                self._records[key] = replace(self._records[key], call_id=None)

    @override
    def delete(self, key: str, call_id: str) -> None:
        with self._lock:
            if self._is_reserved_by(key, call_id):
                del self._records[key]

    def _is_reserved_by(self, key: str, call_id: str) -> bool:
        return key in self._records and self._records[key].call_id == call_id

    @override
    def prune(self, *, expired_before: datetime) -> int:
        with self._lock:
            expired = [key for key, record in self._records.items() if record.first_at < expired_before]
            for key in expired:
                del self._records[key]
            return len(expired)
