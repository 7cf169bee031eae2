"""
What the triggers of `on` can filter by: the filters of each kind of event, and how patterns match.

A pattern is a name, or a glob over the whole value: `*`, `?` and `[abc]`. Case matters, and both Unicode forms of a
name are equal. A filter never matches a
value that the event does not have (an event in a project has no registry). The registry moves `latest`
by itself when a version is linked. Only a filter that names `latest` exactly answers such a move. A glob
does not, and neither does a trigger without an alias filter, because every link would then trigger twice.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any

from upshot.domain.automation import Pattern, Trigger
from upshot.domain.event import Event, EventKind
from upshot.domain.reference import LATEST
from upshot.unicode_text import to_nfc

#: What a filter compares: a value, all tags of a run, or None if the event has no such value.
Values = str | tuple[str, ...] | None


def _name_of(resource: str) -> Callable[[Event], str | None]:
    def find(event: Event) -> str | None:
        value = event.data.get(resource)
        return value.get("name") if isinstance(value, Mapping) else None

    return find


def _artifact_type(event: Event) -> str | None:
    resource = event.data.get("artifact") or event.data.get("collection")
    return resource.get("artifact_type") if isinstance(resource, Mapping) else None


def _string_at(key: str) -> Callable[[Event], str | None]:
    def find(event: Event) -> str | None:
        value: Any = event.data.get(key)
        return value if isinstance(value, str) else None

    return find


def _mentions(event: Event) -> Values:
    mentions = event.data.get("mentions")
    return tuple(map(str, mentions)) if isinstance(mentions, list) else None


def _stage_at(key: str) -> Callable[[Event], str | None]:
    def find(event: Event) -> str | None:
        stage = event.data.get("stage")
        value = stage.get(key) if isinstance(stage, Mapping) else None
        return value if isinstance(value, str) else None

    return find


def _job_type(event: Event) -> str | None:
    run = event.data.get("run")
    value = run.get("job_type") if isinstance(run, Mapping) else None
    return value if isinstance(value, str) else None


def _tags(event: Event) -> Values:
    if event.kind not in RUN_KINDS:
        return _string_at("tag")(event)
    run = event.data.get("run")
    tags = run.get("tags") if isinstance(run, Mapping) else None
    return tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list | tuple) else None


#: Kinds of event about runs.
RUN_KINDS = frozenset({EventKind.RUN_STARTED, EventKind.RUN_FINISHED, EventKind.RUN_FAILED, EventKind.RUN_METRIC})

#: How to find the value of each filter in an event.
FILTER_VALUES: Mapping[str, Callable[[Event], Values]] = {
    "registry": _name_of("registry"),
    "collection": _name_of("collection"),
    "artifact-type": _artifact_type,
    "project": _name_of("project"),
    "artifact": _name_of("artifact"),
    "alias": _string_at("alias"),
    "tag": _tags,
    "on": _string_at("on"),
    "mention": _mentions,
    "from": _stage_at("from"),
    "to": _stage_at("to"),
    "automation": _string_at("automation"),
    "job": _name_of("job"),
    "queue": _string_at("queue"),
    "destination": _name_of("destination"),
    "name": lambda event: event.name if event.kind not in RUN_KINDS else _name_of("run")(event),
    "job-type": _job_type,
    "actor": lambda event: event.actor.name,
}

STAGE_FILTERS = frozenset({"from", "to"})  #: their patterns are names of stages

_COLLECTION_FILTERS = ("registry", "collection", "artifact-type", "actor")
_VERSION_FILTERS = ("registry", "collection", "artifact-type", "project", "artifact", "actor")
_RUN_FILTERS = ("project", "job-type", "name", "tag", "actor")
_JOB_FILTERS = ("job", "automation", "queue", *_VERSION_FILTERS)

FILTERS_BY_KIND: Mapping[EventKind, tuple[str, ...]] = {
    EventKind.COLLECTION_CREATED: _COLLECTION_FILTERS,
    EventKind.COLLECTION_UPDATED: _COLLECTION_FILTERS,
    EventKind.COLLECTION_DELETED: _COLLECTION_FILTERS,
    EventKind.VERSION_LINKED: _VERSION_FILTERS,
    EventKind.VERSION_UNLINKED: _VERSION_FILTERS,
    EventKind.VERSION_UPDATED: _VERSION_FILTERS,
    EventKind.ALIAS_ADDED: ("alias", *_VERSION_FILTERS),
    EventKind.ALIAS_REMOVED: ("alias", *_VERSION_FILTERS),
    EventKind.TAG_ADDED: ("tag", "on", *_VERSION_FILTERS),
    EventKind.TAG_REMOVED: ("tag", "on", *_VERSION_FILTERS),
    EventKind.STAGE_CHANGED: ("from", "to", *_VERSION_FILTERS),
    EventKind.COMMENT_ADDED: ("mention", "on", *_VERSION_FILTERS),
    EventKind.ARTIFACT_CREATED: ("artifact", "project", "artifact-type", "actor"),
    EventKind.ARTIFACT_DELETED: ("artifact", "project", "artifact-type", "actor"),
    EventKind.EXECUTION_FAILED: ("automation", "actor"),
    EventKind.JOB_STARTED: _JOB_FILTERS,
    EventKind.JOB_SUCCEEDED: _JOB_FILTERS,
    EventKind.JOB_FAILED: _JOB_FILTERS,
    EventKind.RUN_STARTED: _RUN_FILTERS,
    EventKind.RUN_FINISHED: _RUN_FILTERS,
    EventKind.RUN_FAILED: _RUN_FILTERS,
    EventKind.RUN_METRIC: _RUN_FILTERS,
    EventKind.DESTINATION_DOWN: ("destination",),
    EventKind.DESTINATION_UP: ("destination",),
    EventKind.CUSTOM: ("name", "actor"),
}

#: Kinds of event that a later release supports.
PLANNED_KINDS = frozenset(
    {
        "approval-requested",
        "approval-granted",
        "approval-rejected",
    }
)


_WILDCARD = re.compile(r"[*?\[]")


def is_glob(text: str) -> bool:
    """Return whether a pattern contains wildcards."""
    return _WILDCARD.search(text) is not None


class Filter:
    """The compiled pattern of one filter."""

    __slots__ = ("_any_exact", "_any_globs", "_none_exact", "_none_globs", "name", "pattern")

    def __init__(self, name: str, pattern: Pattern) -> None:
        self.name = name
        self.pattern = pattern
        self._any_exact, self._any_globs = _compile(pattern.any_of)
        self._none_exact, self._none_globs = _compile(pattern.none_of)

    def accepts(self, value: Values, *, exactly: bool = False) -> bool:
        """
        Return whether a value passes. Of several values, one must be accepted and none excluded.

        Args:
            value: From the event; None if it has no such value.
            exactly: Ignore globs, because the event is an automatic move of `latest`.
        """
        if value is None:
            return False
        if isinstance(value, tuple):
            names = [to_nfc(name) for name in value]
            return not any(map(self._excludes, names)) and (not self.pattern.any_of or any(map(self._includes, names)))
        value = to_nfc(value)
        if exactly:
            return value in self._any_exact
        return not self._excludes(value) and (not self.pattern.any_of or self._includes(value))

    def _includes(self, value: str) -> bool:
        return value in self._any_exact or any(glob(value) for glob in self._any_globs)

    def _excludes(self, value: str) -> bool:
        return value in self._none_exact or any(glob(value) for glob in self._none_globs)

    def describe(self) -> str:
        """Return what the filter accepts, for messages: `'staging' or 's-*', not 's-old'`."""
        accepted = " or ".join(map(repr, self.pattern.any_of))
        excluded = " nor ".join(map(repr, self.pattern.none_of))
        return ", ".join(filter(None, (accepted, excluded and f"not {excluded}")))


def _compile(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[Callable[[str], object], ...]]:
    """Return the patterns as names, because a name such as `bert[base]` matches itself, and compile the globs."""
    names = tuple(map(to_nfc, patterns))
    return frozenset(names), tuple(re.compile(fnmatch.translate(name)).match for name in names if is_glob(name))


def is_automatic(event: Event) -> bool:
    """Return whether the registry moved `latest` by itself."""
    return (
        event.kind in (EventKind.ALIAS_ADDED, EventKind.ALIAS_REMOVED)
        and event.data.get("automatic") is True
        and event.data.get("alias") == LATEST
    )


def is_for_watch(event: Event, automation_name: str, trigger: Trigger) -> bool:
    """Return whether a run-metric event is about the condition of this trigger: each has events of its own."""
    metric = event.data.get("metric")
    return (
        trigger.watch is not None
        and event.data.get("automation") == automation_name
        and isinstance(metric, Mapping)
        and metric.get("condition_id") == trigger.watch.key
    )
