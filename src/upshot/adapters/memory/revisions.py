"""Revisions of automations in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from typing_extensions import override

from upshot.domain.automation import ActiveRevision, ActiveWatch, Automation, FileFault, watches_of
from upshot.ids import RevisionId
from upshot.ports.executions import RevisionStore


class MemoryRevisions(RevisionStore):
    """`RevisionStore` in memory."""

    def __init__(self) -> None:
        self._revisions: dict[tuple[str, RevisionId], tuple[Mapping[str, Any], Mapping[str, str], str]] = {}
        self._active: tuple[ActiveRevision, ...] = ()
        self._watches: tuple[ActiveWatch, ...] = ()
        self._faults: list[FileFault] = []

    @override
    def save(self, automations: Iterable[Automation], now: datetime) -> None:
        for automation in automations:
            key = (automation.name, automation.revision_id)
            self._revisions.setdefault(key, (automation.source, automation.body_files, automation.path))

    @override
    def get(self, name: str, revision_id: RevisionId) -> tuple[Mapping[str, Any], Mapping[str, str], str] | None:
        return self._revisions.get((name, revision_id))

    @override
    def activate(self, automations: Iterable[Automation], faults: Iterable[FileFault], now: datetime) -> None:
        automations = list(automations)
        self.save(automations, now)
        active = (ActiveRevision(item.name, item.revision_id, item.path) for item in automations)
        self._active = tuple(sorted(active, key=lambda revision: revision.name))
        by_name = sorted(automations, key=lambda automation: automation.name)
        before = {(watch.automation, watch.watch): watch for watch in self._watches}
        found_watches = (watch for automation in by_name for watch in watches_of(automation, now))
        self._watches = tuple(
            replace(watch, since=before.get((watch.automation, watch.watch), watch).since) for watch in found_watches
        )
        found = {fault.content: fault for fault in faults}
        ended = [fault for fault in self._faults if fault.until is None and found.pop(fault.content, None) is None]
        self._faults = [replace(fault, until=now) if fault in ended else fault for fault in self._faults]
        self._faults += (replace(fault, since=now) for fault in found.values())

    @override
    def active(self) -> tuple[ActiveRevision, ...]:
        return self._active

    @override
    def watches(self) -> tuple[ActiveWatch, ...]:
        return self._watches

    @override
    def faults_at(self, time: datetime) -> tuple[FileFault, ...]:
        found = [fault for fault in self._faults if fault.since <= time and (fault.until is None or time < fault.until)]
        return tuple(sorted(found, key=lambda fault: fault.path))
