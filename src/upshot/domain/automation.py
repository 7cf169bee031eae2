"""Automations as data: what triggers them and what they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from upshot.domain.event import EventKind
from upshot.domain.metric_watch import MetricWatch
from upshot.ids import RevisionId

DEFAULT_ATTEMPTS = 15  #: with the waits below, about three hours from the first to the last attempt
DEFAULT_FIRST_SECONDS = 1.0
DEFAULT_CAP_SECONDS = 3600.0
DEFAULT_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a step is attempted. The waits in between double from `first_seconds` up to `cap_seconds`."""

    max_attempts: int = DEFAULT_ATTEMPTS  #: including the first; 1 means no retry
    first_seconds: float = DEFAULT_FIRST_SECONDS  #: wait before the second attempt, before jitter
    cap_seconds: float = DEFAULT_CAP_SECONDS  #: longest wait, unless the receiver asks for a longer one


@dataclass(frozen=True, slots=True)
class Pattern:
    """The globs of one filter: a value passes if it matches one of `any_of` and none of `none_of`."""

    any_of: tuple[str, ...] = ()  #: empty accepts anything
    none_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trigger:
    """One entry of `on`: a kind of event, narrowed by filters."""

    kind: EventKind
    filters: Mapping[str, Pattern] = field(default_factory=dict)  #: by name: registry, collection, alias, …
    line: int = 0
    watch: MetricWatch | None = None  #: of a run-metric trigger; None for other kinds


@dataclass(frozen=True, slots=True)
class Step:
    """One item of `steps` or `on-failure`."""

    id: str  #: from the file, otherwise `step-N` counted from 1 (`on-failure-N` for on-failure steps)
    uses: str  #: name of an action in the catalog
    with_: Mapping[str, Any]  #: plain data whose strings can be templates
    name: str = ""  #: for people; empty if the author gave none
    condition: str | None = None  #: the `if` expression, without braces
    retry: RetryPolicy = RetryPolicy()
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS  #: for a whole attempt
    continue_on_error: bool = False
    ignores_overtaking: bool = False  #: `overtaken: send`
    line: int = 0  #: first line of the step in its file; 0 if unknown
    lines: Mapping[str, int] = field(default_factory=dict)  #: line of each leaf of `with`, by dotted path


@dataclass(frozen=True, slots=True)
class AutomationNames:
    """Names of automations, divided into enabled and disabled."""

    enabled: frozenset[str] = frozenset()
    disabled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Automation:
    """One valid document of an automation file."""

    name: str
    revision_id: RevisionId  #: identifies this exact content: 12 hex digits of the SHA-256 of the document's data
    path: str  #: of the file, relative to the folder of automations
    line: int
    triggers: tuple[Trigger, ...]
    steps: tuple[Step, ...]
    on_failure: tuple[Step, ...] = ()
    description: str = ""
    condition: str | None = None  #: the `if` expression over the event
    vars: Mapping[str, Any] = field(default_factory=dict)
    enabled: bool = True
    source: Mapping[str, Any] = field(default_factory=dict)  #: the document as plain data, stored for each revision
    body_files: Mapping[str, str] = field(default_factory=dict)  #: content of each `body-file`, by the path in the file


@dataclass(frozen=True, slots=True)
class ActiveWatch:
    """What an automation in force watches a metric of runs for."""

    automation: str
    filters: Mapping[str, Pattern]  #: of the trigger; they apply to the run
    watch: MetricWatch
    since: datetime | None = None  #: when the automation came into force


def watches_of(automation: Automation, since: datetime) -> tuple[ActiveWatch, ...]:
    """Return what an automation watches that comes into force. A disabled automation watches nothing."""
    return tuple(
        ActiveWatch(automation.name, trigger.filters, trigger.watch, since)
        for trigger in automation.triggers
        if automation.enabled and trigger.watch is not None
    )


@dataclass(frozen=True, slots=True)
class ActiveRevision:
    """The revision of an automation that answers events."""

    name: str
    revision_id: RevisionId
    path: str  #: path of its file, relative to the folder of automations


@dataclass(frozen=True, slots=True)
class FileFault:
    """An automation file that had errors during a period."""

    path: str  #: path as workers report it
    line: int | None  #: line of the first error; None if it concerns the whole file
    reason: str  #: of the first error
    error_count: int
    kept: tuple[str, ...]  #: names of its automations whose last sound revision was in force
    since: datetime
    until: datetime | None = None  #: None if the file still has errors

    @property
    def content(self) -> tuple[object, ...]:
        """Everything except the period."""
        return self.path, self.line, self.reason, self.error_count, self.kept
