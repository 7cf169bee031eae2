"""Requests that may come twice, in memory: the same promises as in SQL, for tests and `upshot.testing`."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime

from upshot.ports.idempotency import IdempotencyRecord, StoredResponse


class MemoryIdempotency:
    """`IdempotencyStore` in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, IdempotencyRecord] = {}
        self._taken_at: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def reserve(
        self, key: str, fingerprint: str, *, holder: str, now: datetime, stale_before: datetime, kept_since: datetime
    ) -> IdempotencyRecord:
        """Take the key for this call, if nobody has it."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept.first_at < kept_since:
                return self._take(IdempotencyRecord(key, fingerprint, now, holder, None), now)
            is_free = kept.holder is None or self._taken_at[key] < stale_before
            if kept.fingerprint == fingerprint and kept.response is None and is_free:
                return self._take(replace(kept, holder=holder), now)
            return kept

    def _take(self, taken: IdempotencyRecord, now: datetime) -> IdempotencyRecord:
        self._kept[taken.key] = taken
        self._taken_at[taken.key] = now
        return taken

    def store_response(self, key: str, holder: str, response: StoredResponse) -> None:
        """Keep what was answered; nothing happens if another call has taken the key since."""
        with self._lock:
            if self._is_held(key, holder):
                self._kept[key] = replace(self._kept[key], response=response)

    def release(self, key: str, holder: str) -> None:
        """Let the same request be made again at once."""
        with self._lock:
            if self._is_held(key, holder):
                self._kept[key] = replace(self._kept[key], holder=None)

    def delete(self, key: str, holder: str) -> None:
        """Let any request use the key."""
        with self._lock:
            if self._is_held(key, holder):
                del self._kept[key]

    def _is_held(self, key: str, holder: str) -> bool:
        return key in self._kept and self._kept[key].holder == holder

    def prune(self, *, kept_since: datetime) -> int:
        """Remove keys that first came before then; returns how many."""
        with self._lock:
            old = [key for key, kept in self._kept.items() if kept.first_at < kept_since]
            for key in old:
                del self._kept[key]
            return len(old)
