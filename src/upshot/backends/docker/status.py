"""What an engine's words on a container mean."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from upshot.backends.docker.containers import CONTAINER, JOB
from upshot.backends.protocol import ContainerStatus, Phase
from upshot.clock import parse_time
from upshot.domain.job import FailureKind

#: Podman's words beside Docker's.
_CREATED = frozenset({"created", "configured", "initialized"})
_ENDED = frozenset({"exited", "dead", "stopped"})
_GOING = "removing"
_UNKNOWN = (
    255  # also what Docker writes of a container that did not survive its machine, with the time of its own return
)
_NEVER = datetime(1970, 1, 2, tzinfo=UTC)  # engines write a time long before for one that did not come
_HINTS: Mapping[int, str] = {
    125: "the engine could not run the command",
    126: "the command is there, and cannot be executed",
    127: "the command is not there: not in the image, or not on its PATH",
    255: "or the machine of the engine went down under it: Docker has no other code for that",
}


def phase(state: str) -> Phase | None:
    """Where a container stands, by the engine's word; None: it is being removed."""
    if state == _GOING:
        return None
    if state in _CREATED:
        return Phase.CREATED
    return Phase.EXITED if state in _ENDED else Phase.RUNNING


def sighting(container: Mapping[str, Any], image_digest: str | None) -> ContainerStatus | None:
    """
    Read what the engine says of a container; None for one that is being removed.

    Args:
        container: As the engine shows one container.
        image_digest: Of its image.
    """
    state, its_labels = container["State"], container["Config"]["Labels"]
    where = phase(state["Status"])
    if where is None:
        return None
    has_ended = where is Phase.EXITED
    code = int(state["ExitCode"]) if has_ended else None
    started_at = None if where is Phase.CREATED else _time(state.get("StartedAt"))
    finished_at = _time(state.get("FinishedAt")) if has_ended and code != _UNKNOWN else None
    if started_at is not None and finished_at is not None:
        finished_at = max(started_at, finished_at)  # Podman's two clerks do not wait for each other
    return ContainerStatus(
        name=its_labels[CONTAINER],
        job_id=its_labels.get(JOB, ""),
        phase=where,
        handle=container["Id"],
        image_digest=image_digest,
        started_at=started_at,
        finished_at=finished_at,
        exit_code=code,
        # A process of the job was killed for want of memory; a job that went on and ended well has coped.
        failure=FailureKind.OUT_OF_MEMORY if has_ended and state.get("OOMKilled") and code != 0 else None,
        note=_note(state, code),
    )


def may_have_run_out(container: Mapping[str, Any]) -> bool:
    """It failed under a limit on its memory, and the engine does not say that this is why."""
    state = container["State"]
    limit = container["HostConfig"].get("Memory")
    return bool(state["Status"] in _ENDED and limit and state["ExitCode"] and not state.get("OOMKilled"))


def _note(state: Mapping[str, Any], code: int | None) -> str | None:
    if error := state.get("Error"):
        return str(error)
    if state["Status"] == "paused":
        return "somebody has paused it"
    return None if code is None else _HINTS.get(code)


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    moment = parse_time(text)
    return moment if moment > _NEVER else None
