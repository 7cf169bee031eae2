"""
Translate a Job, its pod and their warnings into a `ContainerStatus`: pure functions over the API server's responses.

    suspended by Upshot and never started ─► CREATED
    no pod, no node or no image yet ─► PENDING, with the reason
    the command runs, or its outputs are being read ─► RUNNING
    exited, or unable to start, or stopped and its pod gone ─► EXITED
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from upshot.backends.kubernetes.manifests import INPUT, MAIN, STOPPED, Manifest
from upshot.backends.kubernetes.outputs_sidecar import SIDECAR
from upshot.backends.protocol import JOB_LABEL, ContainerStatus, Phase
from upshot.clock import parse_time
from upshot.domain.job import FailureKind
from upshot.ids import JobId

#: How long a container may fail to start before the attempt fails: an image registry may be down for a moment.
STARTUP_TOLERANCE = timedelta(minutes=2)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

#: Reasons of a waiting container that more waiting cannot resolve.
_FATAL_REASONS = {"InvalidImageName": FailureKind.IMAGE_MISSING, "ErrImageNeverPull": FailureKind.IMAGE_MISSING}
#: Reasons of a waiting container that may pass.
_TRANSIENT_REASONS = {
    "ErrImagePull": FailureKind.IMAGE_MISSING,
    "ImagePullBackOff": FailureKind.IMAGE_MISSING,
    "ImageInspectError": FailureKind.IMAGE_MISSING,
    "RegistryUnavailable": FailureKind.IMAGE_MISSING,
    "SignatureValidationFailed": FailureKind.IMAGE_MISSING,
    "CreateContainerConfigError": FailureKind.REFUSED,
    "CreateContainerError": FailureKind.REFUSED,
    "RunContainerError": FailureKind.REFUSED,
    "CrashLoopBackOff": FailureKind.REFUSED,  # of the sidecar: the helper image has no shell
}
_STARTUP_WARNINGS = {"Failed", "BackOff"}  #: reasons of the warnings about such a container
#: Reasons of a terminated container that say more than its exit code.
_TERMINATION_REASONS = {
    "OOMKilled": FailureKind.OUT_OF_MEMORY,
    "StartError": FailureKind.REFUSED,
    "ContainerCannotRun": FailureKind.REFUSED,
    "ContainerStatusUnknown": FailureKind.ENGINE_LOST,  # the node came back without the container
}
#: Messages of container runtimes about a command, with a shell's exit code for the same problem, and a note.
_COMMAND_ERRORS = (
    (re.compile(r"executable file not found|no such file or directory"), 127, "its command does not exist"),
    (re.compile(r"permission denied"), 126, "its command may not be executed"),
)
#: Reasons of a failed pod that come from its node: eviction, shutdown, and a node that has no capacity after all.
_EVICTION_REASONS = re.compile(
    r"Evicted|Preempt\w*|NodeLost|Node\w*Shutdown|Shutdown|Terminated|NodeAffinity|UnexpectedAdmissionError|OutOf\w+"
)
_DEADLINE = "DeadlineExceeded"


@dataclass(frozen=True, slots=True)
class WarningEvents:
    """Events of type Warning, by the UID of the object that they are about."""

    by_uid: Mapping[str, Sequence[Manifest]]

    @classmethod
    def of(cls, events: Iterable[Manifest]) -> WarningEvents:
        """Group events by the object that they are about."""
        by_uid: dict[str, list[Manifest]] = {}
        for event in events:
            by_uid.setdefault(event.get("involvedObject", {}).get("uid", ""), []).append(event)
        return cls(by_uid)

    def latest(self, item: Manifest) -> str | None:
        """Return the reason and message of the newest warning about an object."""
        # The pod's own status contains the scheduler's reason, and is more recent.
        events = [event for event in self.by_uid.get(uid_of(item), ()) if event.get("reason") != "FailedScheduling"]
        newest = max(events, key=lambda event: _event_times(event)[1] or "", default=None)
        return None if newest is None else f"{newest.get('reason')}: {newest.get('message')}"

    def failing_for(self, item: Manifest) -> timedelta:
        """Return for how long an object has failed to start, by the cluster's clock."""
        times = [
            _event_times(event)
            for event in self.by_uid.get(uid_of(item), ())
            if event.get("reason") in _STARTUP_WARNINGS
        ]
        firsts = [time for first, _ in times if (time := time_of(first))]
        lasts = [time for _, last in times if (time := time_of(last))]
        return max(lasts) - min(firsts) if firsts and lasts else timedelta()


def _event_times(event: Manifest) -> tuple[str | None, str | None]:
    """Return an event's first and last time. The events.k8s.io API stores them in other fields."""
    first = event.get("firstTimestamp") or event.get("eventTime")
    series = event.get("series") or {}
    return first, event.get("lastTimestamp") or series.get("lastObservedTime") or first


NO_WARNINGS = WarningEvents({})


# --- reading --------------------------------------------------------------------------------------


def uid_of(item: Manifest) -> str:
    """Return an object's UID."""
    return str(item["metadata"].get("uid", ""))


def name_of(item: Manifest) -> str:
    """Return an object's name."""
    return str(item["metadata"]["name"])


def created_at(item: Manifest) -> str:
    """Return an object's creation time, for comparisons."""
    return str(item["metadata"].get("creationTimestamp") or "")


def time_of(text: Any) -> datetime | None:
    """Parse a time of the API; None if there is none."""
    return parse_time(text) if isinstance(text, str) else None


def condition(item: Manifest, kind: str) -> Manifest | None:
    """Return a condition of an object's status if it is true."""
    for candidate in item.get("status", {}).get("conditions") or ():
        if candidate.get("type") == kind and candidate.get("status") == "True":
            return dict(candidate)
    return None


def was_stopped(job: Manifest) -> bool:
    """Return whether Upshot has stopped the Job."""
    return STOPPED in (job["metadata"].get("annotations") or {})


def pod_of(job: Manifest, pods: Iterable[Manifest]) -> Manifest | None:
    """Return the Job's pod; the newest one if there are two."""
    owned = [
        pod
        for pod in pods
        if any(owner["uid"] == uid_of(job) for owner in pod["metadata"].get("ownerReferences") or ())
    ]
    return max(owned, key=created_at, default=None)


def container_of(pod: Manifest, container: str) -> Manifest | None:
    """Return the status of one of the pod's containers."""
    status = pod.get("status", {})
    for candidate in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if candidate.get("name") == container:
            return dict(candidate)
    return None


def state_of(pod: Manifest, container: str, state: str) -> Manifest | None:
    """Return details of a container's state `running`, `waiting` or `terminated`; None if it is in another state."""
    details = ((container_of(pod, container) or {}).get("state") or {}).get(state)
    return None if details is None else dict(details)


def is_finished(pod: Manifest) -> bool:
    """Return whether the pod's phase is final, so that nothing in it runs any more."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def is_evicted(pod: Manifest) -> bool:
    """Return whether the node or the cluster has ended the pod to get its capacity back."""
    reason = pod.get("status", {}).get("reason") or ""
    return condition(pod, "DisruptionTarget") is not None or _EVICTION_REASONS.fullmatch(reason) is not None


# --- status ---------------------------------------------------------------------------------------


def pod_status(job: Manifest, pod: Manifest | None, warnings: WarningEvents = NO_WARNINGS) -> ContainerStatus:
    """Return the status of an attempt."""
    status = ContainerStatus(
        name=name_of(job),
        job_id=JobId(job["metadata"].get("labels", {}).get(JOB_LABEL, "")),
        phase=Phase.PENDING,
        handle=uid_of(job),
    )
    if pod is None:
        return _status_without_pod(status, job, warnings)
    terminated = state_of(pod, MAIN, "terminated")
    running = state_of(pod, MAIN, "running")
    digest = _DIGEST.search((container_of(pod, MAIN) or {}).get("imageID") or "")
    status = replace(
        status,
        image_digest=digest.group() if digest else None,
        started_at=time_of((terminated or running or {}).get("startedAt")),
        finished_at=time_of((terminated or {}).get("finishedAt")),
    )
    if (input_failure := _input_failure(pod)) is not None and not was_stopped(job):
        failure, note = input_failure
        return replace(status, phase=Phase.EXITED, failure=failure, note=note)
    if _has_exited(pod):
        return _terminated(status, job, pod)
    if running is not None or terminated is not None:
        return replace(status, phase=Phase.RUNNING)
    if (problem := _startup_failure(pod, warnings)) is not None:
        failure, note = problem
        return replace(status, phase=Phase.EXITED, failure=failure, note=note)
    return replace(status, note=_pending_reason(pod, warnings))


def _status_without_pod(status: ContainerStatus, job: Manifest, warnings: WarningEvents) -> ContainerStatus:
    """Return the status of a Job whose pod has not been created yet, or has been deleted."""
    if condition(job, "Complete"):
        return replace(status, phase=Phase.EXITED, exit_code=0)
    if was_stopped(job):
        return replace(
            status, phase=Phase.EXITED, failure=FailureKind.CANCELLED, note="it was stopped, and its pod is gone"
        )
    if failed := condition(job, "Failed"):
        failure = FailureKind.TIMED_OUT if failed.get("reason") == _DEADLINE else FailureKind.EVICTED
        return replace(status, phase=Phase.EXITED, failure=failure, note=f"its pod is gone: {failed.get('message')}")
    if job["spec"].get("suspend"):
        return replace(status, phase=Phase.CREATED)
    return replace(status, note=warnings.latest(job) or "its pod has not been created yet")


def _has_exited(pod: Manifest) -> bool:
    """Return whether the command has exited and the sidecar has written the outputs to its log."""
    if state_of(pod, MAIN, "terminated"):
        return (
            is_finished(pod) or state_of(pod, SIDECAR, "terminated") is not None or container_of(pod, SIDECAR) is None
        )
    # Old kubelets set the phase Failed while the containers still stop. The pod of a lost node is never updated again.
    return is_finished(pod) and (state_of(pod, MAIN, "running") is None or is_evicted(pod))


def _terminated(status: ContainerStatus, job: Manifest, pod: Manifest) -> ContainerStatus:
    terminated = state_of(pod, MAIN, "terminated") or {}
    code, reason = terminated.get("exitCode"), terminated.get("reason")
    status = replace(status, phase=Phase.EXITED, exit_code=code, note=terminated.get("message"))
    details = pod.get("status", {})
    is_late = details.get("reason") == _DEADLINE
    if code == 0 and not is_late:
        return status  # whatever happened to its pod afterwards
    if is_evicted(pod) and not was_stopped(job):
        return replace(status, failure=FailureKind.EVICTED, note=_eviction_reason(pod))
    if is_late and not was_stopped(job):
        return replace(status, failure=FailureKind.TIMED_OUT, note=details.get("message"))
    if reason in _TERMINATION_REASONS:
        for pattern, shell_code, note in _COMMAND_ERRORS:
            if status.note and pattern.search(status.note):
                return replace(status, exit_code=shell_code, note=f"{note}: {status.note}")
        return replace(status, failure=_TERMINATION_REASONS[reason])
    if code is None:
        failure = FailureKind.CANCELLED if was_stopped(job) else None
        return replace(status, failure=failure, note=details.get("message") or details.get("reason"))
    return status


def _eviction_reason(pod: Manifest) -> str:
    disruption = condition(pod, "DisruptionTarget") or {}
    status = pod["status"]
    return str(status.get("message") or disruption.get("message") or status.get("reason") or disruption.get("reason"))


def _input_failure(pod: Manifest) -> tuple[FailureKind, str] | None:
    """Return failure and note if the container that downloads the input has failed."""
    terminated = state_of(pod, INPUT, "terminated")
    is_late = pod.get("status", {}).get("reason") == _DEADLINE
    if terminated is None or terminated.get("exitCode") == 0 or is_late or is_evicted(pod):
        return None
    if terminated.get("reason") in ("StartError", "ContainerCannotRun"):
        message = terminated.get("message") or "its command does not exist"
        remedy = "install `upshot` in the image of the job, or name an image that has it with `input-image`"
        return FailureKind.REFUSED, f"the container that downloads the input cannot start: {message}; {remedy}"
    found = f"exit code {terminated.get('exitCode')}, {terminated.get('reason')}"
    name = name_of(pod)
    return (
        FailureKind.INPUT_UNAVAILABLE,
        f"the input could not be downloaded ({found}); see `kubectl logs {name} -c {INPUT}`",
    )


def _startup_failure(pod: Manifest, warnings: WarningEvents) -> tuple[FailureKind, str] | None:
    """Return failure and note if one of the containers will probably never start."""
    for container in (INPUT, SIDECAR, MAIN):
        reason = (state_of(pod, container, "waiting") or {}).get("reason") or ""
        failure = _FATAL_REASONS.get(reason)
        if failure is None and warnings.failing_for(pod) > STARTUP_TOLERANCE:
            failure = _TRANSIENT_REASONS.get(reason)
        if failure is not None:
            return failure, _waiting_note(pod, container, warnings)
    return None


def _pending_reason(pod: Manifest, warnings: WarningEvents) -> str:
    for candidate in pod.get("status", {}).get("conditions") or ():
        if candidate.get("type") == "PodScheduled" and candidate.get("status") == "False":
            return f"waits for a node: {candidate.get('message') or candidate.get('reason')}"
    if state_of(pod, INPUT, "running") is not None:
        return "its input is being downloaded"
    for container in (INPUT, SIDECAR, MAIN):
        if (state_of(pod, container, "waiting") or {}).get("reason") in _TRANSIENT_REASONS:
            return _waiting_note(pod, container, warnings)
    return warnings.latest(pod) or "its image is being pulled, or its volumes are being attached"


def _waiting_note(pod: Manifest, container: str, warnings: WarningEvents) -> str:
    waiting = state_of(pod, container, "waiting") or {}
    note = f"{waiting['reason']}: {waiting.get('message') or warnings.latest(pod)}"
    places = {
        SIDECAR: "the container that reads the outputs (option `helper-image`): ",
        INPUT: "the container that downloads the input (option `input-image`): ",
    }
    return f"{places.get(container, '')}{note}"
