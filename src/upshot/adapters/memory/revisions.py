"""Revisions of automations in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from typing_extensions import override

from upshot.domain.automation import Automation
from upshot.ids import RevisionId
from upshot.ports.executions import RevisionStore


class MemoryRevisions(RevisionStore):
    """`RevisionStore` in memory."""

    def __init__(self) -> None:
        self._revisions: dict[tuple[str, RevisionId], tuple[Mapping[str, Any], Mapping[str, str], str]] = {}

    @override
    def save(self, automations: Iterable[Automation], now: datetime) -> None:
        for automation in automations:
            key = (automation.name, automation.revision_id)
            self._revisions.setdefault(key, (automation.source, automation.body_files, automation.path))

    @override
    def get(self, name: str, revision_id: RevisionId) -> tuple[Mapping[str, Any], Mapping[str, str], str] | None:
        return self._revisions.get((name, revision_id))
