"""Requests that may come twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """What a mutation answered, as it is said again."""

    status: int
    headers: Mapping[str, str]  #: beyond the length
    body: bytes


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """A mutation that came with an idempotency key."""

    key: str
    fingerprint: str  #: names method, address and body: the same key with another fingerprint is a mistake
    first_at: datetime  #: when the key first came; stays when the request is taken up again
    holder: str | None  #: names the call that works on it, or did when it was answered; None: given back
    response: StoredResponse | None  #: None while it is worked on


class IdempotencyStore(Protocol):
    """Which mutations came with a key, and what they answered."""

    def reserve(
        self, key: str, fingerprint: str, *, holder: str, now: datetime, stale_before: datetime, kept_since: datetime
    ) -> IdempotencyRecord:
        """
        Take the key for this call, if nobody has it.

        Args:
            key: As the client sent it.
            fingerprint: Of the request.
            holder: Names this call.
            now: The present moment.
            stale_before: A call that took the key before then and has not answered is taken for dead.
            kept_since: A key that first came before then is forgotten.

        Returns:
            What is kept under the key now; `holder` tells whether this call has it.
        """
        ...

    def store_response(self, key: str, holder: str, response: StoredResponse) -> None:
        """Keep what was answered; nothing happens if another call has taken the key since."""
        ...

    def release(self, key: str, holder: str) -> None:
        """Let the same request be made again at once: how far this call came is not known."""
        ...

    def delete(self, key: str, holder: str) -> None:
        """Let any request use the key: this call changed nothing."""
        ...

    def prune(self, *, kept_since: datetime) -> int:
        """Remove keys that first came before then; returns how many."""
        ...
