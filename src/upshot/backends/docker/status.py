"""Translate what an engine reports about a container into a `ContainerStatus`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from upshot.backends.protocol import CONTAINER_LABEL, JOB_LABEL, ContainerStatus, Phase
from upshot.clock import parse_time
from upshot.domain.job import FailureKind
from upshot.ids import JobId

# Docker's states and Podman's.
_CREATED = frozenset({"created", "configured", "initialized"})
_EXITED = frozenset({"exited", "dead", "stopped"})
_REMOVING = "removing"
#: Docker also writes this code, with the time when the engine came back, for a container whose machine went down.
_UNKNOWN_EXIT = 255
_ZERO_TIME = datetime(1970, 1, 2, tzinfo=UTC)  # engines write an earlier time for an event that never happened
_EXIT_NOTES: Mapping[int, str] = {
    125: "the engine could not run the command",
    126: "the command exists and cannot be executed",
    127: "the command does not exist: it is not in the image, or not on its PATH",
    255: "the command exited with this code, or the engine's machine went down: Docker has no other code for that",
}


def phase_of(state: str) -> Phase | None:
    """Return the phase for an engine's state; None if the container is being removed."""
    if state == _REMOVING:
        return None
    if state in _CREATED:
        return Phase.CREATED
    return Phase.EXITED if state in _EXITED else Phase.RUNNING


def container_status(container: Mapping[str, Any], image_digest: str | None) -> ContainerStatus | None:
    """
    Return the status of a container; None if it is being removed.

    Args:
        container: The engine's response to inspecting the container.
        image_digest: Digest of its image.
    """
    state, labels = container["State"], container["Config"]["Labels"]
    phase = phase_of(state["Status"])
    if phase is None:
        return None
    has_exited = phase is Phase.EXITED
    code = int(state["ExitCode"]) if has_exited else None
    started_at = None if phase is Phase.CREATED else _parse_time(state.get("StartedAt"))
    finished_at = _parse_time(state.get("FinishedAt")) if has_exited and code != _UNKNOWN_EXIT else None
    if started_at is not None and finished_at is not None:
        finished_at = max(started_at, finished_at)  # Podman can report an exit before the start
    note = state.get("Error") or None
    if note is None and state["Status"] == "paused":
        note = "someone paused the container"
    if note is None and code is not None:
        note = _EXIT_NOTES.get(code)
    return ContainerStatus(
        name=labels[CONTAINER_LABEL],
        job_id=JobId(labels.get(JOB_LABEL, "")),
        phase=phase,
        handle=container["Id"],
        image_digest=image_digest,
        started_at=started_at,
        finished_at=finished_at,
        exit_code=code,
        # The kernel killed a process of the job. A job that exits with 0 all the same has recovered from it.
        failure=FailureKind.OUT_OF_MEMORY if has_exited and state.get("OOMKilled") and code != 0 else None,
        note=note,
    )


def may_be_out_of_memory(container: Mapping[str, Any]) -> bool:
    """Return whether a container failed under a memory limit without the engine naming memory as the reason."""
    state = container["State"]
    limit = container["HostConfig"].get("Memory")
    return bool(state["Status"] in _EXITED and limit and state["ExitCode"] and not state.get("OOMKilled"))


def _parse_time(text: str | None) -> datetime | None:
    time = parse_time(text) if text else None
    return time if time is not None and time > _ZERO_TIME else None
