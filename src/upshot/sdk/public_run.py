"""Runs as the server describes them, for programs that look at them later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from upshot.client.addresses import api_path
from upshot.sdk.connection import client

if TYPE_CHECKING:
    from upshot.sdk.artifact import Artifact


class PublicRun:
    """A run that a server has recorded."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        self._json = run
        self.id = str(run["id"])
        self.name = str(run["name"])
        self.project = str(run["project"])
        self.job_type: str | None = run["job_type"]
        self.state = str(run["state"])
        self.config: dict[str, Any] = dict(run["config"] or {})
        self.summary: dict[str, Any] = dict(run["summary"] or {})
        self.tags: list[str] = list(run["tags"] or [])
        self.group: str | None = run["group"]
        self.notes: str | None = run["notes"] or None
        self.created_at = str(run["created_at"])
        self.url: str | None = run["url"]

    def __repr__(self) -> str:
        return f"<Run {self.project}/{self.id} ({self.state})>"

    @property
    def path(self) -> list[str]:
        """Project and id."""
        return [self.project, self.id]

    def used_artifacts(self) -> list[Artifact]:
        """Return the artifacts that the run used, named by their source."""
        return self._artifacts("inputs")

    def logged_artifacts(self) -> list[Artifact]:
        """Return the artifacts that the run logged."""
        return self._artifacts("outputs")

    def _artifacts(self, direction: str) -> list[Artifact]:
        from upshot.sdk.artifact import Artifact

        found = client().get(api_path("projects", self.project, "runs", self.id, direction))
        return [Artifact.from_version(version) for version in found["items"]]
