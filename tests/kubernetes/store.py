"""What the stand-in's API server keeps: objects by their paths, and what happened to them, for watches."""

from __future__ import annotations

import asyncio
import copy
import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Thing = dict[str, Any]


def now() -> str:
    """As the API writes times: whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Kind:
    """A list of the API."""

    version: str  #: group and version
    kind: str
    plural: str

    @property
    def key(self) -> str:
        return f"{self.version}/{self.kind}"

    @property
    def group(self) -> str:
        return self.version.rpartition("/")[0]


JOB = Kind("batch/v1", "Job", "jobs")
POD = Kind("v1", "Pod", "pods")
SECRET = Kind("v1", "Secret", "secrets")
EVENT = Kind("v1", "Event", "events")
BUILT_IN = (JOB, POD, SECRET, EVENT)


@dataclass(frozen=True)
class Happening:
    """A change, as watches tell it."""

    version: int
    what: str  #: ADDED, MODIFIED, DELETED
    kind: Kind
    thing: Thing


@dataclass
class Store:
    """One namespace."""

    namespace: str
    things: dict[tuple[Kind, str], Thing] = field(default_factory=dict)
    history: list[Happening] = field(default_factory=list)
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    version: int = 1000
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def get(self, kind: Kind, name: str) -> Thing | None:
        return self.things.get((kind, name))

    def all(self, kind: Kind, wanted: Callable[[Thing], bool] = lambda _: True) -> list[Thing]:
        return [thing for (its, _), thing in self.things.items() if its == kind and wanted(thing)]

    def add(self, kind: Kind, thing: Thing) -> Thing:
        thing = copy.deepcopy(thing)
        thing |= {"apiVersion": kind.version, "kind": kind.kind}
        thing["metadata"] |= {"namespace": self.namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        self.things[kind, thing["metadata"]["name"]] = thing
        self._tell("ADDED", kind, thing)
        return thing

    def touch(self, kind: Kind, thing: Thing) -> None:
        """Say that it was changed."""
        if self.get(kind, thing["metadata"]["name"]) is thing:
            self._tell("MODIFIED", kind, thing)

    def drop(self, kind: Kind, thing: Thing) -> None:
        if self.get(kind, thing["metadata"]["name"]) is thing:
            del self.things[kind, thing["metadata"]["name"]]
            self._tell("DELETED", kind, thing)

    def owned_by(self, uid: str) -> list[tuple[Kind, Thing]]:
        return [
            (kind, thing)
            for (kind, _), thing in self.things.items()
            if any(owner["uid"] == uid for owner in thing["metadata"].get("ownerReferences") or ())
        ]

    def _tell(self, what: str, kind: Kind, thing: Thing) -> None:
        self.version = next(self._versions)
        thing["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Happening(self.version, what, kind, copy.deepcopy(thing)))
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Return when something happens."""
        await self._changed.wait()


def selects(selector: str, thing: Thing) -> bool:
    """Whether labels are as a selector wants them: `a=b,c,!d`."""
    labels = thing["metadata"].get("labels") or {}
    for part in filter(None, selector.split(",")):
        key, equals, value = part.partition("=")
        if equals and labels.get(key) != value.lstrip("="):
            return False
        if not equals and (part.lstrip("!") in labels) == part.startswith("!"):
            return False
    return True


def has_fields(selector: str, thing: Thing) -> bool:
    """Whether fields are as a selector wants them: `type=Warning,involvedObject.uid=…`."""
    for part in filter(None, selector.split(",")):
        path, _, value = part.partition("=")
        found: Any = thing
        for step in path.split("."):
            found = found.get(step) if isinstance(found, dict) else None
        if found != value:
            return False
    return True
