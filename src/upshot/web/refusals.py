"""Record who tried what they may not do: a line in the log, and for changes an entry in the history."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from upshot.clock import stopwatch
from upshot.domain.access import Caller
from upshot.errors import Unavailable
from upshot.web.dependencies import WebDependencies

MAX_PER_MINUTE = 60  #: entries in the history of one caller; the log has all of them
_MINUTE_SECONDS = 60.0
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_MAX_SUBJECT_CHARS = 300  # of the history
_MAX_NAME_CHARS = 128  # of the history

log = structlog.get_logger("upshot.web")


class Refusals:
    """
    Records refused requests. A caller cannot fill the history: see `MAX_PER_MINUTE`.

    Args:
        deps: Stores the history.
    """

    def __init__(self, deps: WebDependencies) -> None:
        self._deps = deps
        self._minute = 0.0
        self._counts: dict[str, int] = {}

    async def record(self, caller: Caller, scope: Scope, path: str, reason: str) -> None:
        """
        Record that a request was refused because of who made it.

        Args:
            caller: Who made the request.
            scope: The request.
            path: The template of its path.
            reason: Why it was refused, as the caller reads it.
        """
        method = scope["method"]
        reason = reason.removeprefix(f"{method} {path}: ")
        log.warning("access.refused", actor=caller.name, role=caller.role, request=f"{method} {path}", reason=reason)
        if method in _SAFE_METHODS or not self._has_room(caller.name):
            return
        try:
            await run_in_threadpool(self._store, caller, f"{method} {path}", scope.get("path_params", {}), reason)
        except Unavailable as error:  # the request is refused anyway, and the log has the line
            log.warning("access.refusal_not_stored", reason=str(error))

    def _has_room(self, name: str) -> bool:
        minute = stopwatch() // _MINUTE_SECONDS
        if minute != self._minute:
            self._minute, self._counts = minute, {}
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._counts[name] <= MAX_PER_MINUTE

    def _store(self, caller: Caller, request: str, parameters: Mapping[str, object], reason: str) -> None:
        names = [str(value) for value in parameters.values()]
        registry, collection = (_name(parameters.get(key)) for key in ("registry", "collection"))
        self._deps.registry.record_access(
            caller.actor,
            "refused",
            "/".join(names)[:_MAX_SUBJECT_CHARS] or request.partition(" ")[2],
            registry=registry,
            collection=collection if registry else None,
            after={"request": request, "role": caller.role.value, "reason": reason},
        )


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= _MAX_NAME_CHARS else None
