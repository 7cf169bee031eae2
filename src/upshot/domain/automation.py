"""Automations as data: what fires them and what they do, as read from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from upshot.domain.event import EventKind

DEFAULT_ATTEMPTS = 15  #: with the waits below, about three hours from the first to the last attempt
DEFAULT_FIRST_SECONDS = 1.0
DEFAULT_CAP_SECONDS = 3600.0
DEFAULT_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how far apart a step is tried; waits double from `first_seconds` up to `cap_seconds`."""

    attempts: int = DEFAULT_ATTEMPTS  #: tries in all, counted from 1; 1 means no retry
    first_seconds: float = DEFAULT_FIRST_SECONDS  #: wait before the second attempt, before jitter
    cap_seconds: float = DEFAULT_CAP_SECONDS  #: no wait of our own is longer; a receiver's wish may be


@dataclass(frozen=True, slots=True)
class Pattern:
    """One filter of a trigger: the value must match one of `any_of` and none of `none_of` (globs)."""

    any_of: tuple[str, ...] = ()  #: empty: anything
    none_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trigger:
    """One entry of `on`: a kind of event, narrowed by filters."""

    kind: EventKind
    filters: Mapping[str, Pattern] = field(default_factory=dict)  #: by field: registry, collection, alias, …
    line: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One item of `steps` or `on-failure`."""

    id: str  #: as written, or `step-N` counted from 1 (`on-failure-N` among on-failure steps)
    uses: str  #: name of an action in the catalog
    with_: Mapping[str, Any]  #: plain data; string leaves are templates
    condition: str | None = None  #: the `if` expression, without braces
    retry: RetryPolicy = RetryPolicy()
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS  #: for one attempt as a whole
    continue_on_error: bool = False
    line: int = 0  #: where the step begins in its file
    lines: Mapping[str, int] = field(default_factory=dict)  #: line of each leaf of `with`, by dotted path


@dataclass(frozen=True, slots=True)
class Automation:
    """One document of an automation file, checked; `revision` names exactly this text of it."""

    name: str
    revision: str  #: first 12 hex digits of the SHA-256 of the document's data
    path: str  #: file, as a path relative to the folder of automations
    line: int
    triggers: tuple[Trigger, ...]
    steps: tuple[Step, ...]
    on_failure: tuple[Step, ...] = ()
    description: str = ""
    condition: str | None = None  #: the `if` expression over the event
    vars: Mapping[str, Any] = field(default_factory=dict)
    enabled: bool = True
    source: Mapping[str, Any] = field(default_factory=dict)  #: the document as plain data; stored per revision
    body_files: Mapping[str, str] = field(default_factory=dict)  #: text of each `body-file`, by its path as written


class ActionSpec(Protocol):
    """What the loader must know of an action to check a `with` block, without running anything."""

    uses: str
    with_record: type[Any]  #: the pydantic record of its `with` block (kebab-case aliases, extra forbidden)
    expressions: frozenset[str]  #: top-level keys of `with` that are expressions (as `if` is), not templates

    def check(self, with_: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Findings beyond the record's: pairs of (dotted path in `with`, message); templates are still unrendered."""
        ...
