"""Save what a job measured in the metadata of the version that its event is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from upshot.domain.event import Event, EventKind
from upshot.domain.job import Job
from upshot.domain.reference import parse_reference
from upshot.errors import RegistryError
from upshot.jobs.events import job_origin
from upshot.ports.registry import RegistryChanges
from upshot.ports.run_in_thread import RunInThread


class VersionMetricsWriter:
    """
    Saves metrics under the job's name, where later steps and other automations can read them.

    Args:
        registry: The registry.
        run_in_thread: Runs its blocking calls.
    """

    def __init__(self, registry: RegistryChanges, run_in_thread: RunInThread) -> None:
        self._registry = registry
        self._run_in_thread = run_in_thread

    async def save(self, job: Job, event: Event) -> str | None:
        """Save the `metrics` of the job's outputs. Return why they cannot be saved, or None."""
        metrics = (job.outputs or {}).get("metrics")
        if not metrics:
            return "outputs.json holds no metrics to save"
        data: Mapping[str, Any] = event.data if event.kind is not EventKind.CUSTOM else {}
        version = data.get("version")
        if not isinstance(version, Mapping):
            return "the metrics were not saved: the event is not about a version"
        reference = parse_reference(version["reference"])
        update: Callable[..., object] = (
            self._registry.update_version if "registry" in data else self._registry.update_artifact_version
        )
        origin = job_origin(job, event)
        try:
            await self._run_in_thread(
                update,
                reference.scope,
                reference.name,
                reference.version,
                metadata={job.name: metrics},
                origin=origin,
            )
        except RegistryError as error:
            return f"the metrics were not saved: {error}"
        return None
