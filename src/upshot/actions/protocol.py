"""The protocol of actions, and what they work with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from typing_extensions import override

from upshot.domain.automation import RetryPolicy
from upshot.domain.event import Event, Origin
from upshot.domain.job import Job
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.ids import DeliveryId, ExecutionId, JobId
from upshot.ports.jobs import JobAdmin
from upshot.ports.registry import RegistryChanges
from upshot.schema.action_inputs import ActionSpec, InputProblem

STORED_BODY_BYTES = 16 * 1024  #: of the body of a request or response, for the receipt
STORED_HEADER_BYTES = 64 * 1024  #: of the headers of a response, for the receipt


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The response of a receiver, and the request that it answers."""

    status: int
    headers: Mapping[str, str]  #: names in lower case
    body: bytes  #: decompressed; at most 1 MB if it can be JSON, otherwise 16 KB
    body_bytes: int  #: length as received, up to the limit
    truncated: bool  #: whether `body` is only the beginning
    request: Mapping[str, Any]  #: as sent, for the receipt: method, url, headers, body, body_bytes
    timings: Mapping[str, float]  #: seconds: connect (including name lookup and TLS), answer
    stopped: str | None = None  #: why reading stopped before the end of the response; None if it is complete

    @property
    def text(self) -> str:
        """The first 16 KB of the body as text. Bytes that are not UTF-8 are replaced."""
        return self.body[:STORED_BODY_BYTES].decode("utf-8", "replace")

    @property
    def is_text_cut(self) -> bool:
        """Whether `text` is only the beginning of the body."""
        return self.truncated or len(self.body) > STORED_BODY_BYTES

    def receipt_json(self) -> dict[str, Any]:
        """Return the JSON object that receipts store."""
        headers: dict[str, str] = {}
        header_bytes = 0
        for name, value in self.headers.items():
            if header_bytes + len(name) + len(value) <= STORED_HEADER_BYTES:
                headers[name] = value
                header_bytes += len(name) + len(value)
        receipt: dict[str, Any] = {
            "status": self.status,
            "headers": headers,
            "body": self.text,
            "body_bytes": self.body_bytes,
            "truncated": self.is_text_cut,
        }
        if left_out := len(self.headers) - len(headers):
            receipt["headers_left_out"] = left_out
        if self.stopped is not None:
            receipt["stopped"] = self.stopped
        return receipt


class Egress(Protocol):
    """Sends HTTP requests to other machines, within the egress rules."""

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
        Send one request and return the response, whatever its status.

        A response counts from its status line on. What followed is returned as far as it came, and
        `HttpResponse.stopped` says why it ends there.

        Args:
            method: HTTP method.
            url: http or https, with a host. It is sent as written, except that characters beyond ASCII are encoded.
            headers: As sent. A User-Agent is added if there is none.
            body: As sent.
            timeout_seconds: For the whole exchange.
            follow_redirects: Follow at most three redirects to the same host, with the same method and body
                (renamed repositories on GitHub).

        Raises:
            Blocked: The egress rules forbid the destination.
            Unreachable: The receiver cannot have read the request: no address, no connection, no TLS.
            Ambiguous: The request was sent, and no status line came.
            Refused: The URL is not usable, or what came does not begin with a status line.
            Busy: The destination has its maximum of attempts in progress. Nothing was sent. Pass it on.
        """
        ...


@dataclass(frozen=True, slots=True)
class ActionCall:
    """One attempt of one step, rendered."""

    with_: Mapping[str, Any]  #: rendered plain data, including secrets; an expression is replaced by its value
    event: Event
    automation: str
    execution_id: ExecutionId
    execution_created_at: datetime
    step_id: str
    attempt: int  #: counted from 1
    delivery_id: DeliveryId  #: the same for all attempts of the step
    now: datetime
    timeout_seconds: float
    origin: Origin  #: the automation, and the executions that led here, including this one
    event_source: str  #: `source` of Upshot's CloudEvents
    body: bytes | None = None  #: the rendered `body-file`; None if the step has none
    retry: RetryPolicy = field(default_factory=RetryPolicy)  #: of the step
    job_id: JobId | None = None  #: the job that the step waits for; None in the first call
    placeholders: SecretPlaceholders | None = None  #: stand for secrets in `with_`, if the action defers them


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a successful attempt."""

    outputs: Mapping[str, Any] = field(default_factory=dict)  #: plain data that later steps can read
    request: Mapping[str, Any] | None = None
    response: Mapping[str, Any] | None = None
    timings: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """
    The result of an attempt whose work continues in a job.

    The execution waits without occupying a worker until the job ends. Then the step is called again with
    `ActionCall.job_id`. The job is stored in the same transaction that makes the execution wait.
    """

    reason: str  #: what the execution waits for, for people
    job: Job | None = None  #: a new job; None to keep waiting for the job that the step has


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What actions act with."""

    egress: Egress
    registry: RegistryChanges
    github_api_url: str
    slack_api_url: str
    jobs: JobAdmin


class Action(ActionSpec, Protocol):
    """
    Does one thing outside of Upshot, once.

    An action does not retry, schedule or store. `perform` returns an Outcome, or raises an ActionError, whose
    class decides what happens next, or TemplateInvalid if a rendered value cannot be used.

    `sends = False` means that it sends nothing to a receiver. Its inputs end up where everyone who reads events or the
    registry can see them, so a file that gives it a secret is invalid.

    `sends_when_overtaken = True` makes `overtaken: send` the default of its steps. `program_keys` are the inputs that
    a program reads, such as a command: a `${NAME}` in them can be a variable of that program.

    An action whose work outlasts an attempt returns Deferred. It can set two more attributes:
    `defers_secrets = True` makes templates produce placeholders (`ActionCall.placeholders`) instead of secrets;
    `has_own_timeout = True` means that its `with` block has a timeout and its step must not have one.
    """

    expressions: frozenset[str] = frozenset()
    url_keys: tuple[str, ...] = ()  #: inputs that are URLs; `upshot doctor` checks them against the egress rules

    @override
    def check(self, with_: Mapping[str, Any]) -> Iterable[InputProblem]:
        return ()

    @abstractmethod
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome | Deferred:
        """Perform one attempt."""
        ...
