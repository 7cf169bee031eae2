"""The storage of the fake API server: objects by kind and name, and the history of their changes for watches."""

from __future__ import annotations

import asyncio
import copy
import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Manifest = dict[str, Any]


def now() -> str:
    """Return the current time as the API writes it, in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Kind:
    """A kind of objects."""

    version: str  #: group and version
    kind: str
    plural: str

    @property
    def key(self) -> str:
        """Group, version and kind."""
        return f"{self.version}/{self.kind}"

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.version.rpartition("/")[0]


JOB = Kind("batch/v1", "Job", "jobs")
POD = Kind("v1", "Pod", "pods")
SECRET = Kind("v1", "Secret", "secrets")
EVENT = Kind("v1", "Event", "events")
BUILT_IN = (JOB, POD, SECRET, EVENT)


@dataclass(frozen=True)
class WatchEvent:
    """A change of an object."""

    version: int
    type: str  #: ADDED, MODIFIED, DELETED
    kind: Kind
    item: Manifest


@dataclass
class Store:
    """The objects of one namespace."""

    namespace: str
    items: dict[tuple[Kind, str], Manifest] = field(default_factory=dict)
    history: list[WatchEvent] = field(default_factory=list)
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    version: int = 1000
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def get(self, kind: Kind, name: str) -> Manifest | None:
        """Return an object."""
        return self.items.get((kind, name))

    def find(self, kind: Kind, condition: Callable[[Manifest], bool] = lambda _: True) -> list[Manifest]:
        """Return the objects of a kind that meet a condition."""
        return [item for (item_kind, _), item in self.items.items() if item_kind == kind and condition(item)]

    def create(self, kind: Kind, item: Manifest) -> Manifest:
        """Store a copy of an object, and return the copy."""
        item = copy.deepcopy(item)
        item |= {"apiVersion": kind.version, "kind": kind.kind}
        item["metadata"] |= {"namespace": self.namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        self.items[kind, item["metadata"]["name"]] = item
        self._record("ADDED", kind, item)
        return item

    def record_change(self, kind: Kind, item: Manifest) -> None:
        """Record that an object was modified in place."""
        if self.get(kind, item["metadata"]["name"]) is item:
            self._record("MODIFIED", kind, item)

    def delete(self, kind: Kind, item: Manifest) -> None:
        """Delete an object."""
        if self.get(kind, item["metadata"]["name"]) is item:
            del self.items[kind, item["metadata"]["name"]]
            self._record("DELETED", kind, item)

    def owned_by(self, uid: str) -> list[tuple[Kind, Manifest]]:
        """Return the objects that belong to another object."""
        return [
            (kind, item)
            for (kind, _), item in self.items.items()
            if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences") or ())
        ]

    async def wait_for_change(self) -> None:
        """Wait until any object changes."""
        await self._changed.wait()

    def _record(self, event_type: str, kind: Kind, item: Manifest) -> None:
        self.version = next(self._versions)
        item["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(WatchEvent(self.version, event_type, kind, copy.deepcopy(item)))
        self._changed.set()
        self._changed = asyncio.Event()


def matches_labels(selector: str, item: Manifest) -> bool:
    """Return whether a label selector, such as `a=b,c,!d`, matches an object."""
    labels = item["metadata"].get("labels") or {}
    for part in filter(None, selector.split(",")):
        key, equals, value = part.partition("=")
        if equals and labels.get(key) != value.lstrip("="):
            return False
        if not equals and (part.lstrip("!") in labels) == part.startswith("!"):
            return False
    return True


def matches_fields(selector: str, item: Manifest) -> bool:
    """Return whether a field selector, such as `type=Warning,involvedObject.uid=…`, matches an object."""
    for part in filter(None, selector.split(",")):
        path, _, expected = part.partition("=")
        value: Any = item
        for step in path.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value != expected:
            return False
    return True
