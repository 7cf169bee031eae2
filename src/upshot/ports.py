"""
What the stages ask of the world, as Protocols of a few verbs; `adapters` makes them real.

Store verbs are synchronous and each is one transaction; the engine calls them off its event loop.
Every one may raise `Unavailable`; none lets an error of the database or of Redis through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as AnyCollection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, Protocol, TypeVar

from upshot.domain.automation import Automation
from upshot.domain.event import Actor, Cause, Event
from upshot.domain.execution import Execution, ExecutionState, Receipt
from upshot.domain.registry import (
    Artifact,
    ArtifactVersion,
    Change,
    Collection,
    HistoryEntry,
    RegistrySettings,
    Version,
)

T = TypeVar("T")


class Offload(Protocol):
    """Runs a blocking call off the event loop; tests run it in place."""

    async def __call__(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """The call's result; its error comes through."""
        ...


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events to list; None means any."""

    kind: str | None = None
    subject: str | None = None  #: the whole subject, or its beginning up to a `:`
    name: str | None = None  #: of a custom event
    mutation_id: str | None = None
    after: str | None = None  #: an event's id: only later ones, and the page is then oldest first


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; newest first, unless the verb that gives it says otherwise."""

    items: tuple[T, ...]
    next: str | None  #: cursor of the page after this one; None when this is the last


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with what has become of it."""

    event: Event
    matched_at: datetime | None  #: when it was matched; None while it waits for a worker
    executions: tuple[str, ...] = ()  #: ids of the executions that answer it


class EventStore(Protocol):
    """Accepted events, kept in the database with the mutation that made them."""

    def get(self, ids: AnyCollection[str]) -> Mapping[str, Event]:
        """The events of these ids; those that do not exist are left out."""
        ...

    def find(self, event_id: str) -> StoredEvent | None:
        """One event with what has become of it."""
        ...

    def page(self, query: EventQuery, *, cursor: str | None, limit: int) -> Page[StoredEvent]:
        """
        Events, newest first (oldest first with `query.after`); `executions` is left empty in lists.

        Raises:
            InvalidInput: The cursor is not one that a page gave.
        """
        ...

    def take_unmatched(self, *, published_before: datetime, now: datetime, limit: int) -> tuple[Event, ...]:
        """Take for publishing again: unmatched events last published before then, oldest first; published now."""
        ...


# --- executions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admission:
    """What matching made of one event: its executions, leased by the worker that matched it, maybe none."""

    event: str
    executions: tuple[Execution, ...]
    events: tuple[Event, ...] = ()  #: accepted with those that failed from the start; each names its execution last


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution that this worker now holds, with a new fence."""

    execution: Execution
    lost_by: str | None  #: worker whose lease had run out; None when it was waiting


@dataclass(frozen=True, slots=True)
class Due:
    """An execution that somebody should see to."""

    id: str
    rung_before: bool  #: the doorbell was rung for it already, and nobody came


@dataclass(frozen=True, slots=True)
class Progress:
    """The new state of an execution and the receipts that prove it; written if the fence still holds."""

    execution: Execution
    receipts: tuple[Receipt, ...] = ()  #: kept in any case, for what was sent was sent
    events: tuple[Event, ...] = ()  #: accepted together with the state: what the execution's end gives rise to


@dataclass(frozen=True, slots=True)
class ExecutionQuery:
    """Which executions to list; None means any."""

    event: str | None = None
    automation: str | None = None
    state: ExecutionState | None = None


class ExecutionStore(Protocol):
    """Executions and their receipts."""

    def admit(self, admissions: Sequence[Admission], now: datetime) -> frozenset[str]:
        """
        Insert the executions of a batch and mark its events as matched, in one transaction.

        Returns:
            Ids of the executions that are new; the others existed (the event came twice) and stay as they are.
        """
        ...

    def claim(self, ids: AnyCollection[str], *, owner: str, now: datetime, until: datetime) -> tuple[Claim, ...]:
        """Lease those of the executions that are due or whose lease has run out; the others are left out."""
        ...

    def record(self, progress: Sequence[Progress]) -> frozenset[str]:
        """
        Write states and receipts of a batch, in one transaction.

        Returns:
            Ids whose state was refused, since another claim or a person came between; their receipts are kept.
        """
        ...

    def renew(self, ids: AnyCollection[str], *, owner: str, until: datetime) -> None:
        """Prolong the leases that the owner still holds."""
        ...

    def take_due(self, *, now: datetime, rung_before: datetime, limit: int) -> tuple[Due, ...]:
        """
        Take for ringing: executions that are due, or whose lease has run out; marked as rung now.

        Args:
            now: The present moment.
            rung_before: Leave out those that were rung since then.
            limit: At most so many, the longest due first.
        """
        ...


class ExecutionDesk(Protocol):
    """What people ask about executions and do to them."""

    def find(self, execution_id: str) -> tuple[Execution, tuple[Receipt, ...]] | None:
        """One execution with all its receipts, in the order of their start."""
        ...

    def page(self, query: ExecutionQuery, *, cursor: str | None, limit: int) -> Page[Execution]:
        """Executions, newest event first."""
        ...

    def amend(self, execution_id: str, change: Callable[[Execution], Execution]) -> Execution:
        """
        Change one execution in one transaction; its fence grows, so a worker that holds it is refused.

        Raises:
            NotFound: No such execution. What `change` raises comes through, and nothing is written.
        """
        ...

    def expire(self, owner: str, now: datetime) -> int:
        """End the leases of a worker that is known to be dead; returns how many."""
        ...

    def prune(self, *, receipts_before: datetime) -> int:
        """Remove receipts older than that of executions that are final; returns how many."""
        ...


class RevisionStore(Protocol):
    """Every revision of every automation that was ever loaded, so that an execution finishes with its own."""

    def save(self, automations: Iterable[Automation], now: datetime) -> None:
        """Keep the revisions that are not kept yet."""
        ...

    def get(self, name: str, revision: str) -> tuple[Mapping[str, Any], Mapping[str, str], str] | None:
        """The document as plain data, its body files and its path; None when it was never kept."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process that said it is alive."""

    id: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    in_hand: int  #: executions that it holds
    stream_read_at: datetime | None  #: when Redis last answered its read
    automations: int


class WorkerStore(Protocol):
    """Who is working."""

    def beat(self, worker: WorkerRecord) -> None:
        """Say that the worker is alive."""
        ...

    def leave(self, worker_id: str) -> None:
        """Say that the worker has stopped."""
        ...

    def list(self, *, seen_since: datetime) -> tuple[WorkerRecord, ...]:
        """Workers that were seen since then."""
        ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much is accepted and not finished; for health and metrics."""

    events: int  #: accepted in all
    unmatched_events: int
    oldest_unmatched_at: datetime | None
    executions: Mapping[str, int]  #: count by state
    due_executions: int  #: waiting and past their time
    oldest_due_at: datetime | None


class BacklogStore(Protocol):
    """Counts."""

    def measure(self, now: datetime) -> Backlog:
        """Count what stands."""
        ...


# --- wire -----------------------------------------------------------------------------------------


class EventPublisher(Protocol):
    """Puts committed events on the stream; never raises, for the relay publishes again."""

    def publish(self, events: Sequence[Event]) -> bool:
        """Tell whether the stream took them."""
        ...


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry as read by the consumer group; `event` is None when it cannot be read (it is then acknowledged)."""

    entry_id: str
    event: Event | None


class EventFeed(Protocol):
    """The consumer group's side of the stream; each may raise `Unavailable`."""

    async def read(self, *, limit: int, wait_seconds: float) -> tuple[StreamEntry, ...]:
        """The next entries for this consumer, waiting for the first; makes the group if it is gone."""
        ...

    async def take_over(self, *, idle_seconds: float, limit: int) -> tuple[StreamEntry, ...]:
        """Entries that another consumer read and did not acknowledge for so long."""
        ...

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        """Say that these are matched and committed; they are removed from the stream."""
        ...

    async def is_drained(self) -> bool:
        """Nothing waits unread: what is accepted and still unmatched must be published again."""
        ...

    async def close(self, *, leave: bool) -> None:
        """Let go; `leave` also takes this consumer out of the group if nothing of its is pending."""
        ...


class Doorbell(Protocol):
    """Calls a worker to executions that are due; losing a ring loses nothing."""

    def ring(self, execution_ids: Sequence[str]) -> bool:
        """Tell whether the broker took it; False: the caller runs them itself."""
        ...


# --- requests that may come twice -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a mutation answered, as it is said again."""

    status: int
    headers: Mapping[str, str]  #: beyond the length
    body: bytes


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A mutation that came with an idempotency key."""

    key: str
    fingerprint: str  #: names method, address and body: the same key with another fingerprint is a mistake
    first_at: datetime  #: when the key first came; stays when the request is taken up again
    holder: str | None  #: names the call that works on it, or did when it was answered; None: given back
    answer: KeptAnswer | None  #: None while it is worked on


class IdempotencyStore(Protocol):
    """Which mutations came with a key, and what they answered."""

    def reserve(
        self, key: str, fingerprint: str, *, holder: str, now: datetime, stale_before: datetime, kept_since: datetime
    ) -> KeptRequest:
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

    def answer(self, key: str, holder: str, answer: KeptAnswer) -> None:
        """Keep what was answered; nothing happens if another call has taken the key since."""
        ...

    def give_back(self, key: str, holder: str) -> None:
        """Let the same request be made again at once: how far this call came is not known."""
        ...

    def forget(self, key: str, holder: str) -> None:
        """Let any request use the key: this call changed nothing."""
        ...

    def prune(self, *, kept_since: datetime) -> int:
        """Remove keys that first came before then; returns how many."""
        ...


# --- others ---------------------------------------------------------------------------------------


class SecretSource(Protocol):
    """Secrets by name."""

    def get(self, name: str) -> str | None:
        """The secret's value; None when there is none of this name."""
        ...

    def names(self) -> frozenset[str]:
        """The names that are known."""
        ...


class RegistryChanges(Protocol):
    """What actions may change in the registry, in the name of an automation; `registry.Registry` is one."""

    def add_alias(
        self, registry: str, collection: str, alias: str, version: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[Version]:
        """Give the alias to the version."""
        ...

    def add_tag(
        self,
        registry: str,
        collection: str,
        tag: str,
        version: str | None = None,
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Collection | Version]:
        """Tag the version, or the collection when version is None."""
        ...

    def emit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
        event_ids: Sequence[str] | None = None,
    ) -> tuple[Event, ...]:
        """
        Accept custom events.

        Args:
            events: Pairs of name and data.
            actor: Who emits.
            chain: What led here.
            event_ids: The events' ids, where the caller derives them; one that was accepted before is not
                accepted again.
        """
        ...


# --- registry -------------------------------------------------------------------------------------


NameKind = Literal["registry", "collection", "project", "artifact"]


class RegistryView(Protocol):
    """Questions to the registry; all within one transaction, so they see one state."""

    def registry(self, name: str) -> RegistrySettings | None:
        """The registry and its rules; None when there is none of this name."""
        ...

    def registries(self) -> tuple[RegistrySettings, ...]:
        """All registries, by name."""
        ...

    def collection(self, registry: str, name: str) -> Collection | None:
        """The collection with all its aliases; None when there is none of this name."""
        ...

    def versions(self, collection: Collection, numbers: Iterable[int]) -> Mapping[int, Version]:
        """Those of the numbers that are linked; their aliases are read off the collection that is given."""
        ...

    def number_of(self, collection: Collection, artifact: ArtifactVersion) -> int | None:
        """Under which number the artifact version is linked; None when it is not."""
        ...

    def links_to(self, artifact: ArtifactVersion) -> tuple[tuple[str, str, int], ...]:
        """Where the artifact version is linked: registry, collection and number, sorted."""
        ...

    def artifact(self, project: str, name: str) -> Artifact | None:
        """The artifact with its aliases in the project; None when there is none of this name."""
        ...

    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        """Those of the numbers that exist, without manifests; aliases are read off the artifact that is given."""
        ...

    def manifest(self, artifact: ArtifactVersion) -> Mapping[str, str] | None:
        """Content digest by path; None when only a digest was given."""
        ...

    def names(self, kind: NameKind, within: str = "") -> tuple[str, ...]:
        """Names that exist, sorted, at most 1,000: all registries or projects, or what one of them holds."""
        ...

    def page_collections(self, registry: str, *, cursor: str | None, limit: int) -> Page[Collection]:
        """Collections, by name; `InvalidInput` for a cursor that no page gave, here and below."""
        ...

    def page_versions(self, collection: Collection, *, cursor: str | None, limit: int) -> Page[Version]:
        """Versions, the highest number first."""
        ...

    def page_artifacts(self, project: str, *, cursor: str | None, limit: int) -> Page[Artifact]:
        """Artifacts of a project, by name."""
        ...

    def page_artifact_versions(self, artifact: Artifact, *, cursor: str | None, limit: int) -> Page[ArtifactVersion]:
        """Artifact versions without manifests, the highest number first."""
        ...

    def page_history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]:
        """What was done, newest first; None means any."""
        ...


class RegistryTransaction(RegistryView, Protocol):
    """The view, and what one mutation writes."""

    def lock(self, keys: Iterable[str]) -> None:
        """Wait for these keys too, and hold them to the end; what was read before may have changed since."""
        ...

    def save_registry(self, registry: RegistrySettings) -> None:
        """Make the registry, or change its rules."""
        ...

    def save_collection(self, collection: Collection) -> None:
        """Make the collection, or change its description and tags; aliases have their own verbs."""
        ...

    def remove_collection(self, collection: Collection) -> None:
        """Remove the collection with its versions and aliases; a later one of its name counts on from its numbers."""
        ...

    def next_number(self, of: Collection | Artifact) -> int:
        """Take the number of the next version; it is given once, whatever becomes of the version."""
        ...

    def add_version(self, version: Version) -> None:
        """Link; aliases have their own verbs."""
        ...

    def remove_version(self, version: Version) -> None:
        """Unlink, and remove its aliases."""
        ...

    def move_aliases(self, of: Collection | Artifact, moves: Mapping[str, int]) -> None:
        """Give each alias to the version of that number, whoever held it."""
        ...

    def remove_alias(self, of: Collection | Artifact, alias: str) -> None:
        """Take the alias from its holder."""
        ...

    def save_artifact(self, artifact: Artifact) -> None:
        """Make the artifact, and its project if it is the first there."""
        ...

    def add_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Keep a logged version with its manifest; aliases have their own verbs."""
        ...

    def change_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Change metadata, description and tags."""
        ...

    def remove_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Remove the version, which is linked nowhere, and its aliases."""
        ...

    def accepted(self, event_ids: Iterable[str]) -> frozenset[str]:
        """Those of the ids under which an event was accepted."""
        ...

    def add_events(self, events: Sequence[Event], now: datetime) -> None:
        """Accept events; one whose id exists is left as it is."""
        ...

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Say what was done."""
        ...


class RegistryStore(Protocol):
    """
    The registry's state, with its events and history.

    `work` does nothing but talk to what it is given: it may run more than once, and an error that
    it raises comes through, with nothing written.
    """

    def read(self, work: Callable[[RegistryView], T]) -> T:
        """Run the work on one state."""
        ...

    def transact(self, work: Callable[[RegistryTransaction], T], *, locks: Iterable[str]) -> T:
        """
        Run the work in one transaction.

        Args:
            work: The mutation.
            locks: Keys that are held by one transaction at a time, the others wait; taken in sorted order.
        """
        ...
