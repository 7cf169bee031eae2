"""Container requests for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upshot.backends.protocol import ContainerRequest
from upshot.domain.job import JobSpec
from upshot.ids import JobId

NAME = "upshot-01-1"
INSTALLATION_ID = "inst"
EVENT = b'{"kind": "alias-added"}'


def container_request(
    script: str = "true",
    *,
    name: str = NAME,
    installation_id: str = INSTALLATION_ID,
    env: Mapping[str, str] | None = None,
    event: bytes = EVENT,
    **spec: Any,
) -> ContainerRequest:
    """
    Return a request that runs a shell script.

    Args:
        script: Runs in /bin/sh.
        name: Name of the container.
        installation_id: Id of the installation that the job belongs to.
        env: Environment variables.
        event: Content of the event file.
        spec: Other fields of the job's spec.
    """
    job_id = JobId(f"job_{name}")
    return ContainerRequest(
        name=name,
        installation_id=installation_id,
        job_id=job_id,
        spec=JobSpec(**{"command": ("/bin/sh", "-c", script), **spec}),
        env=env or {},
        event=event,
        context={"job": {"id": job_id, "name": "evaluate", "container": name, "outputs": None}},
    )
