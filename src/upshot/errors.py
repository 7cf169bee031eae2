"""
Every error of Upshot. The class decides what happens next, never the text.

    UpshotError
    ├── ConfigError            somebody must edit YAML or settings; never retried
    │   ├── AutomationInvalid      .path .line .reason
    │   └── TemplateInvalid        .path .line .reason
    ├── RegistryError          the registry cannot do what the request asks for
    │   ├── InvalidInput
    │   ├── NotFound
    │   ├── AlreadyExists
    │   ├── Forbidden
    │   └── Conflict
    │       └── BudgetExhausted    automations have made too many events because of one event
    ├── ActionError            an attempt failed
    │   ├── Refused                the receiver rejected the request       → give up
    │   │   ├── Unmet                  the condition of a `require` is false   → give up
    │   │   └── JobFailed              the job did not succeed                 → give up
    │   ├── Unreachable            timeout, reset                          → retry
    │   │   └── TryLater               the receiver answered 5xx or 429        → retry, no sooner than requested
    │   ├── Ambiguous              sent, but no response was read          → retry with the same delivery id
    │   └── Blocked                an egress rule rejected the destination → give up
    ├── Busy                   not an attempt: destination or automation has its maximum in progress → wait
    └── Unavailable            a store or the stream does not answer; nothing accepted is lost
        ├── BlobsUnavailable       it is the store of blobs
        └── NoSpace                the disk of a store is full
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import override


class UpshotError(Exception):
    """The base class. The text has place, finding and remedy."""


class ConfigError(UpshotError):
    """YAML or settings are invalid. Somebody must edit them; a retry cannot help."""


class _LocatedError(ConfigError):
    def __init__(self, path: str, line: int | None, reason: str) -> None:
        self.path = path  #: file as the user named it, relative if the user gave a relative path
        self.line = line  #: counted from 1; None for the whole file
        self.reason = reason  #: finding and remedy, without the place
        place = path if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {reason}" if place else reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.line, self.reason)


class AutomationInvalid(_LocatedError):
    """The automation file is invalid."""


class TemplateInvalid(_LocatedError):
    """A template cannot be compiled, is not allowed, or fails with the data of the event."""


class RegistryError(UpshotError):
    """The registry cannot do what the request asks for."""


class InvalidInput(RegistryError):
    """A name, a reference, a size or another input is invalid."""


class NotFound(RegistryError):
    """The named object does not exist."""


class AlreadyExists(RegistryError):
    """An object with this name exists."""


class Forbidden(RegistryError):
    """The actor may not do this."""


class Conflict(RegistryError):
    """The current state does not allow this, such as another artifact type or a final execution."""


class BudgetExhausted(Conflict):
    """
    The change would add more events than one event may lead to.

    Args:
        root_event_id: The event that the automations' work began with.
        limit: Maximum number of events.
    """

    def __init__(self, root_event_id: str, limit: int) -> None:
        super().__init__(
            f"event {root_event_id} has led to {limit} events of automations and jobs, the maximum, so nothing was "
            "changed; see what makes them with `upshot events list`, or raise UPSHOT_ROOT_EVENTS"
        )
        self.root_event_id = root_event_id
        self.limit = limit

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root_event_id, self.limit)


class ActionError(UpshotError):
    """
    An attempt failed.

    Args:
        message: Finding and remedy. The executor masks secrets in it.
        request: The request, if one was built (see `domain.execution.Receipt`).
        response: The response, if there was one.
        retry_after_seconds: The receiver asked for a delay of at least this length.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        request: Mapping[str, Any] | None = None,
        response: Mapping[str, Any] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.request = request
        self.response = response
        self.retry_after_seconds = retry_after_seconds


class Refused(ActionError):
    """The receiver rejected the request. Sending it again would not help."""


class Unmet(Refused):
    """The condition of a `require` step is false. The author of the automation wrote the message."""


class JobFailed(Refused):
    """The job did not succeed, and has no attempts left."""


class Unreachable(ActionError):
    """The request was not delivered. The receiver did not process it."""

    retryable = True


class TryLater(Unreachable):
    """The receiver answered that it does not process the request now (5xx, 429)."""


class Ambiguous(ActionError):
    """The request was sent, but no response was read. The receiver may have processed it."""

    retryable = True


class Blocked(ActionError):
    """An egress rule rejected the destination. The settings must allow it first."""


class Busy(UpshotError):
    """
    The destination or the automation has its maximum of attempts in progress. This is not an attempt.

    Args:
        waits_for: The destination or automation, as `Execution.waits_for` stores it.
        message: The reason why the execution waits.
    """

    def __init__(self, waits_for: str, message: str) -> None:
        super().__init__(message)
        self.waits_for = waits_for


class Unavailable(UpshotError):
    """A store or the stream does not answer. Try again; nothing accepted is lost."""


class BlobsUnavailable(Unavailable):
    """The store of blobs does not answer, or cannot be used now."""


class NoSpace(Unavailable):
    """The disk of a store is full. Nothing of the change was stored."""


def missing_server(what: str, error: ModuleNotFoundError) -> str:
    """Return the message for something that needs a library of the server, which is not installed."""
    return f'{what} needs the server: pip install "upshot[server]" (the module {error.name} is not installed)'
