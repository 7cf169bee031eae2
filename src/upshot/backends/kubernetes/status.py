"""
What a Job, its pod and their warnings say of a try: pure functions over what the API server tells.

    suspended by us, never begun ─► CREATED
    no pod yet, no node yet, image pulled ─► PENDING, with the reason
    the command runs, or its outputs are being told ─► RUNNING
    ended, or cannot begin, or told to stop and gone ─► ENDED
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from upshot.backends.kubernetes.manifests import JOB, MAIN, STOPPED, Manifest
from upshot.backends.kubernetes.outputs_sidecar import COLLECTOR
from upshot.backends.protocol import ContainerStatus, Phase
from upshot.clock import parse_time
from upshot.domain.job import FailureKind

PATIENCE = timedelta(minutes=2)  # with an image that cannot be pulled: a registry may be away for a moment

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

#: Reasons of a waiting container that nobody needs to wait out, and those that may pass.
_HOPELESS = {"InvalidImageName": FailureKind.IMAGE_MISSING, "ErrImageNeverPull": FailureKind.IMAGE_MISSING}
_TROUBLE = {
    "ErrImagePull": FailureKind.IMAGE_MISSING,
    "ImagePullBackOff": FailureKind.IMAGE_MISSING,
    "ImageInspectError": FailureKind.IMAGE_MISSING,
    "RegistryUnavailable": FailureKind.IMAGE_MISSING,
    "SignatureValidationFailed": FailureKind.IMAGE_MISSING,
    "CreateContainerConfigError": FailureKind.REFUSED,
    "CreateContainerError": FailureKind.REFUSED,
    "RunContainerError": FailureKind.REFUSED,
    "CrashLoopBackOff": FailureKind.REFUSED,  # of the sidecar: the helper's image has no shell
}
_FAILURES = {"Failed", "BackOff"}  #: reasons of Warnings that go with them
#: Reasons of a terminated container that say more than its code.
_ENDS = {
    "OOMKilled": FailureKind.OUT_OF_MEMORY,
    "StartError": FailureKind.REFUSED,
    "ContainerCannotRun": FailureKind.REFUSED,
    "ContainerStatusUnknown": FailureKind.ENGINE_LOST,  # the node came back without it
}
#: What a container runtime says of a command, and what shells do: the code, and the finding.
_NO_COMMAND = (
    (re.compile(r"executable file not found|no such file or directory"), 127, "its command is not there"),
    (re.compile(r"permission denied"), 126, "its command may not be executed"),
)
#: Reasons of a failed pod that are its node's, not its own: eviction, shutdown, and a node that has no room after all.
_TAKEN_BACK = re.compile(
    r"Evicted|Preempt\w*|NodeLost|Node\w*Shutdown|Shutdown|Terminated|NodeAffinity|UnexpectedAdmissionError|OutOf\w+"
)
_DEADLINE = "DeadlineExceeded"


@dataclass(frozen=True, slots=True)
class WarningEvents:
    """Events of type Warning, by the UID of what they are about."""

    by_uid: Mapping[str, Sequence[Manifest]]

    @classmethod
    def of(cls, events: Iterable[Manifest]) -> WarningEvents:
        """Sort them."""
        by_uid: dict[str, list[Manifest]] = {}
        for event in events:
            by_uid.setdefault(event.get("involvedObject", {}).get("uid", ""), []).append(event)
        return cls(by_uid)

    def last_about(self, thing: Manifest) -> str | None:
        """The newest of them that can still hold, in the cluster's words."""
        # What the scheduler has to say stands in the pod's own status.
        events = [one for one in self.by_uid.get(uid_of(thing), ()) if one.get("reason") != "FailedScheduling"]
        newest = max(events, key=lambda event: _span(event)[1] or "", default=None)
        return None if newest is None else f"{newest.get('reason')}: {newest.get('message')}"

    def lasts(self, thing: Manifest) -> timedelta:
        """For how long something has failed about it, by the cluster's own clock."""
        spans = [_span(event) for event in self.by_uid.get(uid_of(thing), ()) if event.get("reason") in _FAILURES]
        firsts = [moment for first, _ in spans if (moment := moment_of(first))]
        lasts = [moment for _, last in spans if (moment := moment_of(last))]
        return max(lasts) - min(firsts) if firsts and lasts else timedelta()


def _span(event: Manifest) -> tuple[str | None, str | None]:
    """First and last time; an event of the newer kind has them elsewhere."""
    first = event.get("firstTimestamp") or event.get("eventTime")
    series = event.get("series") or {}
    return first, event.get("lastTimestamp") or series.get("lastObservedTime") or first


NO_WARNINGS = WarningEvents({})


# --- reading --------------------------------------------------------------------------------------


def uid_of(thing: Manifest) -> str:
    """The cluster's own id of it."""
    return str(thing["metadata"].get("uid", ""))


def name_of(thing: Manifest) -> str:
    """Its name."""
    return str(thing["metadata"]["name"])


def moment_of(text: Any) -> datetime | None:
    """A time of the API's."""
    return parse_time(text) if isinstance(text, str) else None


def condition(thing: Manifest, kind: str) -> Manifest | None:
    """A condition of its status, if it is true."""
    for one in thing.get("status", {}).get("conditions") or ():
        if one.get("type") == kind and one.get("status") == "True":
            return dict(one)
    return None


def was_stopped(job: Manifest) -> bool:
    """We told it to end."""
    return STOPPED in (job["metadata"].get("annotations") or {})


def pod_of(job: Manifest, pods: Iterable[Manifest]) -> Manifest | None:
    """The Job's pod; the newest, should there be two."""
    own = [pod for pod in pods if any(owner["uid"] == uid_of(job) for owner in _owners(pod))]
    return max(own, key=lambda pod: pod["metadata"].get("creationTimestamp") or "", default=None)


def _owners(thing: Manifest) -> Sequence[Manifest]:
    return thing["metadata"].get("ownerReferences") or ()


def status_of(pod: Manifest, container: str) -> Manifest | None:
    """What the pod says of one of its containers."""
    status = pod.get("status", {})
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if one.get("name") == container:
            return dict(one)
    return None


def state_of(pod: Manifest, container: str, state: str) -> Manifest | None:
    """`running`, `waiting` or `terminated` of one of its containers, if that is its state."""
    found = ((status_of(pod, container) or {}).get("state") or {}).get(state)
    return None if found is None else dict(found)


def is_over(pod: Manifest) -> bool:
    """Nothing of it runs any more, and its phase is final."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def is_taken_back(pod: Manifest) -> bool:
    """Its node, or the cluster, wants the place back."""
    reason = pod.get("status", {}).get("reason") or ""
    return condition(pod, "DisruptionTarget") is not None or _TAKEN_BACK.fullmatch(reason) is not None


# --- judging --------------------------------------------------------------------------------------


def sight(job: Manifest, pod: Manifest | None, warnings: WarningEvents = NO_WARNINGS) -> ContainerStatus:
    """Say where a try stands."""
    bare = ContainerStatus(
        name=name_of(job),
        job_id=job["metadata"].get("labels", {}).get(JOB, ""),
        phase=Phase.PENDING,
        handle=uid_of(job),
    )
    if pod is None:
        return _without_pod(bare, job, warnings)
    seen = _with_times(bare, pod)
    if _has_ended(pod):
        return _ended(seen, job, pod)
    if state_of(pod, MAIN, "running") or state_of(pod, MAIN, "terminated"):
        return replace(seen, phase=Phase.RUNNING)
    if trouble := _cannot_begin(pod, warnings):
        return replace(seen, phase=Phase.EXITED, failure=trouble[0], note=trouble[1])
    return replace(seen, note=_why_pending(pod, warnings))


def _without_pod(seen: ContainerStatus, job: Manifest, warnings: WarningEvents) -> ContainerStatus:
    """The pod is not made yet, or was deleted, by us or not."""
    if condition(job, "Complete"):
        return replace(seen, phase=Phase.EXITED, exit_code=0)
    if was_stopped(job):
        return replace(seen, phase=Phase.EXITED, failure=FailureKind.CANCELLED, note="stopped, and its pod is gone")
    if failed := condition(job, "Failed"):
        is_late = failed.get("reason") == _DEADLINE
        cause = FailureKind.TIMED_OUT if is_late else FailureKind.EVICTED
        return replace(seen, phase=Phase.EXITED, failure=cause, note=f"its pod is gone: {failed.get('message')}")
    if job["spec"].get("suspend"):
        return replace(seen, phase=Phase.CREATED)
    return replace(seen, note=warnings.last_about(job) or "its pod is not made yet")


def _with_times(seen: ContainerStatus, pod: Manifest) -> ContainerStatus:
    terminated = state_of(pod, MAIN, "terminated") or {}
    running = state_of(pod, MAIN, "running") or {}
    digest = _DIGEST.search((status_of(pod, MAIN) or {}).get("imageID") or "")
    return replace(
        seen,
        image_digest=digest.group() if digest else None,
        started_at=moment_of(terminated.get("startedAt") or running.get("startedAt")),
        finished_at=moment_of(terminated.get("finishedAt")),
    )


def _has_ended(pod: Manifest) -> bool:
    """The command has, and the outputs were told: nothing more comes."""
    if state_of(pod, MAIN, "terminated"):
        return is_over(pod) or state_of(pod, COLLECTOR, "terminated") is not None or status_of(pod, COLLECTOR) is None
    # Old kubelets call a pod failed while its containers still end; a lost node's pod never says more.
    return is_over(pod) and (state_of(pod, MAIN, "running") is None or is_taken_back(pod))


def _ended(seen: ContainerStatus, job: Manifest, pod: Manifest) -> ContainerStatus:
    terminated = state_of(pod, MAIN, "terminated") or {}
    code, reason = terminated.get("exitCode"), terminated.get("reason")
    ended = replace(seen, phase=Phase.EXITED, exit_code=code, note=terminated.get("message"))
    status = pod.get("status", {})
    if code == 0 and status.get("reason") != _DEADLINE:
        return ended  # whatever came over its pod afterwards
    if is_taken_back(pod) and not was_stopped(job):
        return replace(ended, failure=FailureKind.EVICTED, note=_why_taken_back(pod))
    if status.get("reason") == _DEADLINE and not was_stopped(job):
        return replace(ended, failure=FailureKind.TIMED_OUT, note=status.get("message"))
    if reason in _ENDS:
        return _without_command(ended) or replace(ended, failure=_ENDS[reason])
    if code is None:
        cause = FailureKind.CANCELLED if was_stopped(job) else None
        return replace(ended, failure=cause, note=status.get("message") or status.get("reason"))
    return ended


def _without_command(ended: ContainerStatus) -> ContainerStatus | None:
    """The end of a job whose command could not be begun, in the words of shells; None of any other."""
    for pattern, code, finding in _NO_COMMAND:
        if ended.note and pattern.search(ended.note):
            return replace(ended, exit_code=code, note=f"{finding}: {ended.note}")
    return None


def _why_taken_back(pod: Manifest) -> str:
    disruption = condition(pod, "DisruptionTarget") or {}
    status = pod["status"]
    return str(status.get("message") or disruption.get("message") or status.get("reason") or disruption.get("reason"))


def _cannot_begin(pod: Manifest, warnings: WarningEvents) -> tuple[FailureKind, str] | None:
    """A container waits for what will not come, by the look of it."""
    for container in (COLLECTOR, MAIN):
        waiting = state_of(pod, container, "waiting") or {}
        reason = waiting.get("reason")
        cause = _HOPELESS.get(reason or "")
        if cause is None and warnings.lasts(pod) > PATIENCE:
            cause = _TROUBLE.get(reason or "")
        if cause is not None:
            return cause, f"{_whose(container)}{reason}: {waiting.get('message') or warnings.last_about(pod)}"
    return None


def _whose(container: str) -> str:
    return "" if container == MAIN else "of the container that tells the outputs (option `helper-image`): "


def _why_pending(pod: Manifest, warnings: WarningEvents) -> str:
    for one in pod.get("status", {}).get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return f"waits for a node: {one.get('message') or one.get('reason')}"
    for container in (COLLECTOR, MAIN):
        waiting = state_of(pod, container, "waiting") or {}
        if waiting.get("reason") in _TROUBLE:
            return f"{_whose(container)}{waiting['reason']}: {waiting.get('message') or warnings.last_about(pod)}"
    return warnings.last_about(pod) or "its image is pulled, or its volumes are being attached"
