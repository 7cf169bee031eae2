"""
Every error of Upshot; the class decides what happens next, never the text.

    UpshotError
    ├── ConfigError            a person must edit YAML or settings; never retried
    │   ├── AutomationInvalid      .path .line .reason
    │   └── TemplateInvalid        .path .line .reason
    ├── RegistryError
    │   ├── InvalidInput · NotFound · AlreadyExists · Forbidden · Conflict
    ├── ActionError            one attempt failed
    │   ├── Refused                the receiver said no            → give up
    │   │   ├── Unmet                  a `require` did not hold        → give up
    │   │   └── JobFailed              its job ended without success   → give up
    │   ├── Unreachable            timeout, reset, 5xx, 429        → retry, no sooner than it asked
    │   ├── Ambiguous              sent, and no answer was read    → retry, same delivery id
    │   └── Blocked                our own egress rule said no     → give up
    ├── DestinationBusy        not an attempt: the destination has its share in flight → later
    └── Unavailable            a store or the stream does not answer; what was accepted is kept
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class UpshotError(Exception):
    """The family; its text gives place, finding and remedy."""


class ConfigError(UpshotError):
    """A person must edit YAML or settings; never retried."""


class _Located(ConfigError):
    def __init__(self, path: str, line: int | None, reason: str) -> None:
        self.path = path  #: file as the user named it, relative where that was given
        self.line = line  #: counted from 1; None where the whole file is meant
        self.reason = reason  #: finding and remedy, without the place
        place = path if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {reason}" if place else reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.line, self.reason)


class AutomationInvalid(_Located):
    """An automation file says something that cannot be meant."""


class TemplateInvalid(_Located):
    """A template cannot be compiled, is not allowed, or failed on the data it was given."""


class RegistryError(UpshotError):
    """A mutation or a question that the registry cannot answer as asked."""


class InvalidInput(RegistryError):
    """The input breaks a rule of REST or registry: a name, a reference, a size."""


class NotFound(RegistryError):
    """The thing that was named does not exist."""


class AlreadyExists(RegistryError):
    """Something of this name exists already."""


class Forbidden(RegistryError):
    """The actor may not do this."""


class Conflict(RegistryError):
    """The present state does not allow this: another artifact type, a final execution."""


class ActionError(UpshotError):
    """
    One attempt failed.

    Args:
        message: Finding and remedy, for a person; secrets are masked by the executor.
        request: What was sent, as far as it came to that (see `domain.execution.Receipt`).
        response: What came back, if anything did.
        retry_after_seconds: The receiver asked not to be called again sooner.
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
    """The receiver said no; saying it again would not help."""


class Unmet(Refused):
    """What a `require` step asks for does not hold; the message is the author's own."""


class JobFailed(Refused):
    """The job ended without success; whatever was worth another try has had it."""


class Unreachable(ActionError):
    """Not delivered for now: no connection, 5xx, 429; the receiver did not take it."""

    retryable = True


class Ambiguous(ActionError):
    """Sent, and no answer was read; the receiver may have acted. Sent again with the same delivery id."""

    retryable = True


class Blocked(ActionError):
    """Our own egress rule said no; the settings must allow the destination first."""


class DestinationBusy(UpshotError):
    """The destination has its share of requests in flight; not an attempt, come again later."""

    def __init__(self, destination: str) -> None:
        super().__init__(f"{destination} already has its share of requests in flight")
        self.destination = destination


class Unavailable(UpshotError):
    """A store or the stream does not answer; try again, nothing accepted is lost."""
