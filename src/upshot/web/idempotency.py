"""
`Idempotency-Key`: a mutation that is sent again is answered again, not done again.

A key is taken before the mutation and its answer kept after it, each in a transaction of its own.
A process that dies between the two leaves the key taken; the same request may be made again when
that is stale, and is then safe in its own way: links, aliases and tags end as they would have,
artifacts are known by their digest, custom events get ids that are derived from the key.
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

from upshot.domain.job import Job
from upshot.errors import RegistryError, Unavailable
from upshot.ids import derived_event_id, new_id
from upshot.ports.idempotency import IdempotencyRecord, StoredResponse
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import RETRY_AFTER_SECONDS, Problem

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
MAX_KEY_CHARS = 200
STALE_SECONDS = 60.0  #: a call that has not answered for so long is taken for dead
KEPT_HOURS = 24

log = structlog.get_logger("upshot.web")

_CHANGED_NOTHING = (RegistryError, RequestValidationError, HTTPException)


@dataclass(frozen=True, slots=True)
class ReservedKey:
    """The key that this call holds."""

    key: str
    first_at: datetime  #: when the key first came; the same at every repetition

    def event_ids(self, count: int) -> list[str]:
        """Ids for the events of this request: the same at every repetition."""
        return [derived_event_id(f"key:{self.key}", str(number), self.first_at) for number in range(count)]


async def answer_once(
    house: WebDependencies, given: str, request: Request, handle: Callable[[Request], Awaitable[Response]]
) -> Response:
    """
    Answer as the first request with this key was answered, or do it and keep the answer.

    Raises:
        Problem: 409 while the first is worked on; 422 for another request under the same key.
    """
    _check_key(given)
    key = _kept_key(given, request)
    now = house.clock.now()
    holder = new_id("call", now)
    kept = await run_in_threadpool(
        house.idempotency.reserve,
        key,
        await _fingerprint(request),
        holder=holder,
        now=now,
        stale_before=now - timedelta(seconds=STALE_SECONDS),
        kept_since=now - timedelta(hours=KEPT_HOURS),
    )
    if kept.holder != holder:
        return _of_another(kept, await _fingerprint(request), given)
    request.state.taken_key = ReservedKey(key, kept.first_at)
    try:
        response = await handle(request)
    except Exception as error:
        let_go = house.idempotency.forget if isinstance(error, _CHANGED_NOTHING) else house.idempotency.give_back
        with suppress(Unavailable):  # the key is stale in a minute
            await run_in_threadpool(let_go, key, holder)
        raise
    await _keep(house, key, holder, response)
    return response


async def _keep(house: WebDependencies, key: str, holder: str, response: Response) -> None:
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    answer = StoredResponse(response.status_code, headers, bytes(response.body))
    try:
        await run_in_threadpool(house.idempotency.answer, key, holder, answer)
    except Unavailable as error:
        log.warning("request.answer-not-kept", key=key, reason=str(error))  # it is done, and that must be said


def _of_another(kept: IdempotencyRecord, fingerprint: str, given: str) -> Response:
    if kept.fingerprint != fingerprint:
        raise Problem(
            422,
            "idempotency-key-reused",
            f"header.idempotency-key: {given!r} came with another request before; take a new key for a new request",
        )
    if kept.answer is None:
        raise Problem(
            409,
            "in-progress",
            f"header.idempotency-key: the request that came with {given!r} is being worked on; ask again",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    headers = {**kept.answer.headers, REPLAYED_HEADER: "true"}
    return Response(kept.answer.body, status_code=kept.answer.status, headers=headers)


def _check_key(key: str) -> None:
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise Problem(
            422,
            "invalid-input",
            f"header.idempotency-key: 1 to {MAX_KEY_CHARS} visible ASCII characters are needed, such as a UUID",
        )


def _kept_key(given: str, request: Request) -> str:
    """Under what a key is kept: a job's are its own, told from all others by a character that none can have."""
    job: Job | None = getattr(request.state, "job", None)
    return given if job is None else f"{job.id}\n{hashlib.sha256(given.encode()).hexdigest()}"


async def _fingerprint(request: Request) -> str:
    """Names method, address, actor and body."""
    scope = request.scope
    actor = request.headers.get("x-upshot-actor", "")
    address = f"{request.method} {scope['raw_path'].decode('latin-1')}?{scope['query_string'].decode('latin-1')}"
    told = hashlib.sha256(f"{address}\n{actor}\n".encode())
    told.update(await request.body())
    return told.hexdigest()
