"""
`Idempotency-Key`: a mutation that is sent again gets the first response again and is not repeated.

A key is reserved before the mutation, and the response is stored after it, each in its own transaction. If a process
dies between the two, the key stays reserved. Once the reservation is stale, the same request may run again. It is
then safe for other reasons: links, aliases and tags end up the same, artifacts are recognised by their digest, and
ids of custom events are derived from the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from upshot.domain.access import Caller
from upshot.errors import RegistryError, Unavailable
from upshot.ids import EventId, derive_event_id, new_id
from upshot.ports.idempotency import IdempotencyRecord, StoredResponse
from upshot.web.dependencies import WebDependencies
from upshot.web.permissions import ACTOR_HEADER
from upshot.web.problems import RETRY_AFTER_SECONDS, Problem

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
MAX_KEY_CHARS = 200
STALE_SECONDS = 60.0  #: a call without a response for this long counts as dead
RETENTION_HOURS = 24

log = structlog.get_logger("upshot.web")

_UNCHANGED = (RegistryError, RequestValidationError, HTTPException)  # errors of requests that changed nothing


@dataclass(frozen=True, slots=True)
class ReservedKey:
    """The idempotency key that this call has reserved."""

    key: str
    first_at: datetime  #: when the key first came; the same at every repetition

    def event_ids(self, count: int) -> list[EventId]:
        """Return ids for the events of this request; they are the same at every repetition."""
        return [derive_event_id(f"key:{self.key}", str(number), self.first_at) for number in range(count)]


async def run_idempotently(
    deps: WebDependencies, client_key: str, request: Request, handle: Callable[[Request], Awaitable[Response]]
) -> Response:
    """
    Return the stored response for this key; if there is none, handle the request and store its response.

    Raises:
        Problem: 409 while the first request is in progress; 422 if the key came with another request.
    """
    if not 0 < len(client_key) <= MAX_KEY_CHARS or not client_key.isascii() or not client_key.isprintable():
        raise Problem(
            422,
            "invalid-input",
            f"header.idempotency-key: the key must be 1 to {MAX_KEY_CHARS} visible ASCII characters, such as a UUID",
        )
    key = _stored_key(client_key, request)
    fingerprint = await _fingerprint(request)
    now = deps.clock.now()
    call_id = new_id("call", now)
    record = await run_in_threadpool(
        deps.idempotency.reserve,
        key,
        fingerprint,
        call_id=call_id,
        now=now,
        stale_before=now - timedelta(seconds=STALE_SECONDS),
        expired_before=now - timedelta(hours=RETENTION_HOURS),
    )
    if record.call_id != call_id:
        return _replay(record, fingerprint, client_key)
    request.state.reserved_key = ReservedKey(key, record.first_at)
    try:
        response = await handle(request)
    except Exception as error:
        end_reservation = deps.idempotency.delete if isinstance(error, _UNCHANGED) else deps.idempotency.release
        with suppress(Unavailable):  # the reservation is stale in a minute
            await run_in_threadpool(end_reservation, key, call_id)
        raise
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    stored = StoredResponse(response.status_code, headers, bytes(response.body))
    try:
        await run_in_threadpool(deps.idempotency.store_response, key, call_id, stored)
    except Unavailable as error:
        # The change is made, so this client must get the response, although a repetition cannot get it again.
        log.warning("idempotency.response_not_stored", key=key, reason=str(error))
    return response


def _replay(record: IdempotencyRecord, fingerprint: str, client_key: str) -> Response:
    """Return the response that another call has stored under the key."""
    if record.fingerprint != fingerprint:
        raise Problem(
            422,
            "idempotency-key-reused",
            f"header.idempotency-key: {client_key!r} came with another request before; use a new key for a new request",
        )
    if record.response is None:
        raise Problem(
            409,
            "in-progress",
            f"header.idempotency-key: the request with {client_key!r} is still in progress; ask again",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    headers = {**record.response.headers, REPLAYED_HEADER: "true"}
    return Response(record.response.body, status_code=record.response.status, headers=headers)


def _stored_key(client_key: str, request: Request) -> str:
    """Return the key for the store. Keys of a job or a named token have a line break, so no two callers share a key."""
    caller: Caller = request.state.caller
    owner = caller.job.id if caller.job else caller.token_id
    return client_key if owner is None else f"{owner}\n{hashlib.sha256(client_key.encode()).hexdigest()}"


async def _fingerprint(request: Request) -> str:
    """Return a hash of method, path, query, actor and body."""
    path = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    actor = request.headers.get(ACTOR_HEADER, "")
    digest = hashlib.sha256(f"{request.method} {path}?{query}\n{actor}\n".encode())
    digest.update(await request.body())
    return digest.hexdigest()
