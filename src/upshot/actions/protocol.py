"""What an action is: one thing done to the outside world, once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from upshot.domain.automation import RetryPolicy
from upshot.domain.event import Actor, Cause, Event
from upshot.domain.job import Job
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.ports.jobs import JobAdmin
from upshot.ports.registry import RegistryChanges


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What a receiver answered."""

    status: int
    headers: Mapping[str, str]  #: names in lower case
    body: bytes  #: first 16 KB
    body_bytes: int  #: length as received, up to the cap
    truncated: bool
    request: Mapping[str, Any]  #: as sent, for the receipt: method, url, headers, body, body_bytes
    timings: Mapping[str, float]  #: seconds: connect (with name look-up and TLS), answer

    @property
    def text(self) -> str:
        """The body as text, undecodable bytes replaced."""
        return self.body.decode("utf-8", "replace")

    def as_response(self) -> dict[str, Any]:
        """The form that receipts keep."""
        return {
            "status": self.status,
            "headers": dict(self.headers),
            "body": self.text,
            "body_bytes": self.body_bytes,
            "truncated": self.truncated,
        }


class Egress(Protocol):
    """The one guarded door to other machines."""

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_seconds: float,
        follow_redirects: bool = False,
    ) -> HttpResponse:
        """
        Send one request and read the answer, whatever its status.

        Args:
            method: HTTP method.
            url: http or https, with a host.
            headers: As sent; a User-Agent is added where there is none.
            body: As sent.
            timeout_seconds: For the whole exchange.
            follow_redirects: To the same host only, keeping method and body, three at most (GitHub's renamed
                repositories).

        Raises:
            Blocked: Our rule forbids the destination.
            Unreachable: The request cannot have been read: no address, no connection, no TLS.
            Ambiguous: Sent, and no whole answer came.
            Refused: Not a usable URL, or the answer breaks HTTP's rules.
            DestinationBusy: The destination has its share in flight; nothing was sent.
        """
        ...


@dataclass(frozen=True, slots=True)
class ActionCall:
    """One attempt of one step, rendered and ready to be performed."""

    with_: Mapping[str, Any]  #: rendered, plain data, secrets filled in; of an expression, its value
    event: Event
    automation: str
    execution: str
    execution_created_at: datetime
    step: str
    attempt: int  #: counted from 1
    delivery_id: str  #: the same over all retries
    now: datetime
    timeout_seconds: float
    actor: Actor  #: in whose name the registry is changed: the automation
    chain: tuple[Cause, ...]  #: what led here, this execution included
    event_source: str  #: CloudEvents `source` of our events
    body: bytes | None = None  #: the rendered `body-file`, if the step has one
    retry: RetryPolicy = field(default_factory=RetryPolicy)  #: the step's
    job: str | None = None  #: id of the job that the step waits for; None at the step's first turn
    marks: SecretPlaceholders | None = None  #: what stands for secrets, of an action that defers them


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a successful attempt gave."""

    outputs: Mapping[str, Any] = field(default_factory=dict)  #: plain data that later steps can read
    request: Mapping[str, Any] | None = None
    response: Mapping[str, Any] | None = None
    timings: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """
    The step goes on outside, and the execution waits, held by no worker, until the job's end wakes it.

    It then has its turn again, with `Call.job` set. The job is kept in the same transaction that
    lets the execution wait.
    """

    reason: str  #: what it waits for, for people
    job: Job | None = None  #: a new one; None: it goes on waiting for the job that it has


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What actions act with."""

    egress: Egress
    registry: RegistryChanges
    github_api_url: str
    slack_api_url: str
    jobs: JobAdmin


class Action(Protocol):
    """
    Do one thing to the outside world, once.

    An action does not retry, schedule or store: it returns an Outcome, or raises an ActionError
    whose class decides what happens next, or TemplateInvalid where a rendered value cannot be used.

    One that has something done which outlasts any attempt returns Held. It may then say
    `defers_secrets = True`: its templates give marks (`Call.marks`) in place of secrets; and
    `has_own_time = True`: its `with` block says how long that may take, and its step does not.
    """

    uses: str  #: its name in YAML
    with_record: type[Any]  #: pydantic record of its `with` block
    expressions: frozenset[str]  #: top-level keys of `with` that are expressions (as `if` is), not templates

    def check(self, with_: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Findings at load time beyond the record's: pairs of (dotted path in `with`, message)."""
        ...

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome | Deferred:
        """Do it, or have it done."""
        ...
