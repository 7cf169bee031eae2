"""
What `on` can ask of an event: the filter fields of each kind, where their values are, and how patterns match.

A pattern is a glob over the whole value, case and all: `*`, `?` and `[abc]`. A field that an event
does not have (what happens in a project has no registry) matches no filter. A move of `latest`
that the registry made by itself is answered only by a filter that names `latest` exactly, neither
by a glob nor by a trigger without an alias filter; otherwise every link would fire twice.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any

from upshot.domain.automation import Pattern
from upshot.domain.event import Event, EventKind
from upshot.domain.reference import LATEST


def _name_of(holder: str) -> Callable[[Event], str | None]:
    def find(event: Event) -> str | None:
        held = event.data.get(holder)
        return held.get("name") if isinstance(held, Mapping) else None

    return find


def _artifact_type(event: Event) -> str | None:
    held = event.data.get("artifact") or event.data.get("collection")
    return held.get("type") if isinstance(held, Mapping) else None


def _word(name: str) -> Callable[[Event], str | None]:
    def find(event: Event) -> str | None:
        word: Any = event.data.get(name)
        return word if isinstance(word, str) else None

    return find


#: Where the value of each filter field is.
FIELDS: Mapping[str, Callable[[Event], str | None]] = {
    "registry": _name_of("registry"),
    "collection": _name_of("collection"),
    "artifact-type": _artifact_type,
    "project": _name_of("project"),
    "artifact": _name_of("artifact"),
    "alias": _word("alias"),
    "tag": _word("tag"),
    "on": _word("on"),
    "automation": _word("automation"),
    "job": _name_of("job"),
    "queue": _word("queue"),
    "name": lambda event: event.name,
    "actor": lambda event: event.actor.name,
}

_OF_COLLECTION = ("registry", "collection", "artifact-type", "actor")
_OF_VERSION = ("registry", "collection", "artifact-type", "project", "artifact", "actor")

_OF_JOB = ("job", "automation", "queue", *_OF_VERSION)

#: The filter fields of each kind.
FIELDS_OF_KIND: Mapping[EventKind, tuple[str, ...]] = {
    EventKind.COLLECTION_CREATED: _OF_COLLECTION,
    EventKind.COLLECTION_UPDATED: _OF_COLLECTION,
    EventKind.COLLECTION_DELETED: _OF_COLLECTION,
    EventKind.VERSION_LINKED: _OF_VERSION,
    EventKind.VERSION_UNLINKED: _OF_VERSION,
    EventKind.VERSION_UPDATED: _OF_VERSION,
    EventKind.ALIAS_ADDED: ("alias", *_OF_VERSION),
    EventKind.ALIAS_REMOVED: ("alias", *_OF_VERSION),
    EventKind.TAG_ADDED: ("tag", "on", *_OF_VERSION),
    EventKind.TAG_REMOVED: ("tag", "on", *_OF_VERSION),
    EventKind.ARTIFACT_CREATED: ("artifact", "project", "artifact-type", "actor"),
    EventKind.EXECUTION_FAILED: ("automation", "actor"),
    **dict.fromkeys((EventKind.JOB_STARTED, EventKind.JOB_SUCCEEDED, EventKind.JOB_FAILED), _OF_JOB),
    EventKind.CUSTOM: ("name", "actor"),
}

#: Kinds of event that a later release makes.
LATER_KINDS = frozenset(
    {
        *("stage-changed", "run-started", "run-finished", "run-failed", "run-metric"),
        *("approval-requested", "approval-granted", "approval-rejected"),
    }
)


_WILDCARD = re.compile(r"[*?\[]")


def is_glob(text: str) -> bool:
    """Tell whether a pattern is more than the one name that it spells."""
    return _WILDCARD.search(text) is not None


class Filter:
    """One field's pattern, ready to be asked."""

    __slots__ = ("_any_exact", "_any_globs", "_none_exact", "_none_globs", "field", "pattern")

    def __init__(self, field: str, pattern: Pattern) -> None:
        self.field = field
        self.pattern = pattern
        self._any_exact, self._any_globs = _split(pattern.any_of)
        self._none_exact, self._none_globs = _split(pattern.none_of)

    def accepts(self, value: str | None, *, exactly: bool = False) -> bool:
        """
        Tell whether a value passes.

        Args:
            value: The event's; None when it has none.
            exactly: Globs do not count, for the event is an automatic move.
        """
        if value is None:
            return False
        if exactly:
            return value in self._any_exact
        if value in self._none_exact or any(glob(value) for glob in self._none_globs):
            return False
        wanted = self.pattern.any_of
        return not wanted or value in self._any_exact or any(glob(value) for glob in self._any_globs)

    def describe(self) -> str:
        """What it wants, in the words of the file."""
        wanted = " or ".join(map(repr, self.pattern.any_of))
        unwanted = " nor ".join(map(repr, self.pattern.none_of))
        return ", ".join(part for part in (wanted, unwanted and f"not {unwanted}") if part)


def _split(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[Callable[[str], object], ...]]:
    globs = [pattern for pattern in patterns if is_glob(pattern)]
    compiled = tuple(re.compile(fnmatch.translate(glob)).match for glob in globs)
    return frozenset(patterns).difference(globs), compiled


def is_automatic(event: Event) -> bool:
    """Tell whether the registry moved `latest` by itself."""
    return (
        event.kind in (EventKind.ALIAS_ADDED, EventKind.ALIAS_REMOVED)
        and event.data.get("automatic") is True
        and event.data.get("alias") == LATEST
    )
