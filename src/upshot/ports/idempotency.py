"""Idempotency keys: clients send them so that a repeated request is processed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The response to a request with an idempotency key. Repetitions of the request get the same response."""

    status: int
    headers: Mapping[str, str]  #: without Content-Length
    body: bytes


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """A request with an idempotency key."""

    key: str
    fingerprint: str  #: hash of method, address and body; requests with the same key must have the same fingerprint
    first_at: datetime  #: time of the first request with the key; a repetition does not change it
    call_id: str | None  #: call that processes or processed the request; None after `release`
    response: StoredResponse | None  #: None while a call processes the request


class IdempotencyStore(Protocol):
    """Stores idempotency keys and the responses to their requests."""

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
        """
        Reserve a key for a call, unless another call holds it.

        Args:
            key: As the client sent it.
            fingerprint: Fingerprint of the request.
            call_id: Id of the call.
            now: Current time.
            stale_before: A call that reserved the key before this time and has not responded is considered dead.
            expired_before: A key that was first used before this time is deleted.

        Returns:
            The record of the key. Its `call_id` tells whether this call reserved the key.
        """
        ...

    def store_response(self, key: str, call_id: str, response: StoredResponse) -> None:
        """Store the response. Do nothing if another call has reserved the key since."""
        ...

    def release(self, key: str, call_id: str) -> None:
        """Let the same request reserve the key at once, because the outcome of this call is unknown."""
        ...

    def delete(self, key: str, call_id: str) -> None:
        """Let any request reserve the key, because this call changed nothing."""
        ...

    def prune(self, *, expired_before: datetime) -> int:
        """Delete keys that were first used before the given time, and return their number."""
        ...
