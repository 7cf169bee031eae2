"""The status of a Job and its pod, for states that the documentation and the code of Kubernetes describe."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.fakes.kubernetes.schemas import schema_errors
from upshot.backends.kubernetes.status import STARTUP_TOLERANCE, WarningEvents, pod_of, pod_status
from upshot.backends.protocol import Phase
from upshot.domain.job import FailureKind

DIGEST = "sha256:" + "ab" * 32
STARTED, FINISHED = "2026-01-01T12:00:00Z", "2026-01-01T12:05:00Z"


def make_job(
    *, suspend: bool = False, stopped: bool = False, condition: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return a Job."""
    metadata = {
        "name": "upshot-01-1",
        "uid": "u-1",
        "labels": {"upshot.job": "job_01"},
        "annotations": {"upshot.stopped": "true"} if stopped else {},
    }
    job = {
        "metadata": metadata,
        "spec": {"suspend": suspend, "template": {"spec": {"containers": []}}},
        "status": {"conditions": [{"status": "True", **condition}] if condition else []},
    }
    assert not schema_errors("batch/v1/Job", job)
    return job


def make_pod(
    main: dict[str, Any] | None = None, *, sidecar: dict[str, Any] | None = None, **status: Any
) -> dict[str, Any]:
    """Return a pod with the given states of its containers."""

    def statuses(name: str, state: dict[str, Any] | None, image_id: str) -> list[dict[str, Any]]:
        details = {"name": name, "ready": False, "restartCount": 0, "image": "x", "imageID": image_id}
        return [] if state is None else [{**details, "state": state}]

    pod = {
        "metadata": {"name": "upshot-01-1-abcde", "uid": "p-1"},
        "spec": {"containers": []},
        "status": {
            "phase": "Running",
            "containerStatuses": statuses("main", main, f"docker.io/library/x@{DIGEST}"),
            "initContainerStatuses": statuses("upshot-outputs", sidecar, ""),
            **status,
        },
    }
    assert not schema_errors("v1/Pod", pod)
    return pod


def terminated(code: int = 0, reason: str = "Completed", message: str | None = None) -> dict[str, Any]:
    """Return the state of a terminated container."""
    details = {"exitCode": code, "reason": reason, "startedAt": STARTED, "finishedAt": FINISHED}
    return {"terminated": {**details, "message": message} if message else details}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """Return the state of a waiting container."""
    return {"waiting": {"reason": reason, "message": message}}


RUNNING = {"running": {"startedAt": STARTED}}
SUCCEEDED = terminated()
TERMINATED = terminated(143, "Error")
DISRUPTED = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "PreemptionByScheduler",
    "message": "preempted by a pod of more priority",
}
NO_COMMAND = 'exec: "evil": executable file not found in $PATH'


def test_running_pod():
    """A running job has the time when its command started, and the digest of its image on the node."""
    status = pod_status(make_job(), make_pod(RUNNING, sidecar=RUNNING))

    assert (status.phase, status.name, status.job_id) == (Phase.RUNNING, "upshot-01-1", "job_01")
    assert status.handle == "u-1"
    assert status.started_at == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert status.image_digest == DIGEST


def test_pod_whose_outputs_are_being_read():
    """A job counts as running until the sidecar has written the outputs to its log."""
    assert pod_status(make_job(), make_pod(SUCCEEDED, sidecar=RUNNING)).phase is Phase.RUNNING
    assert pod_status(make_job(), make_pod(SUCCEEDED, sidecar=TERMINATED)).phase is Phase.EXITED


def test_exited_pod():
    """The exit code and the times are those of the main container."""
    status = pod_status(make_job(), make_pod(terminated(3, "Error"), sidecar=SUCCEEDED, phase="Failed"))

    assert (status.phase, status.exit_code, status.failure) == (Phase.EXITED, 3, None)
    assert status.finished_at == datetime(2026, 1, 1, 12, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("main", "pod_fields", "failure", "code", "note"),
    [
        pytest.param(terminated(137, "OOMKilled"), {}, FailureKind.OUT_OF_MEMORY, 137, "", id="out of memory"),
        pytest.param(terminated(7, "OOMKilled"), {}, FailureKind.OUT_OF_MEMORY, 7, "", id="child out of memory"),
        pytest.param(terminated(0, "OOMKilled"), {}, None, 0, "", id="child out of memory, and success"),
        pytest.param(
            terminated(137, "Error"),
            {"reason": "Evicted", "message": "The node was low on resource: memory."},
            FailureKind.EVICTED,
            137,
            "low on resource",
            id="evicted",
        ),
        pytest.param(TERMINATED, {"conditions": [DISRUPTED]}, FailureKind.EVICTED, 143, "preempted", id="preempted"),
        pytest.param(RUNNING, {"reason": "NodeLost"}, FailureKind.EVICTED, None, "NodeLost", id="node lost"),
        pytest.param(RUNNING, {"conditions": [DISRUPTED]}, FailureKind.EVICTED, None, "preempted", id="node deleted"),
        pytest.param(None, {"reason": "NodeShutdown"}, FailureKind.EVICTED, None, "NodeShutdown", id="node shut down"),
        pytest.param(
            None, {"reason": "OutOfmemory", "message": "full"}, FailureKind.EVICTED, None, "full", id="no capacity"
        ),
        pytest.param(
            terminated(137, "ContainerStatusUnknown"),
            {},
            FailureKind.ENGINE_LOST,
            137,
            "",
            id="node came back without the container",
        ),
        pytest.param(TERMINATED, {"reason": "DeadlineExceeded"}, FailureKind.TIMED_OUT, 143, "", id="timed out"),
        pytest.param(
            SUCCEEDED, {"reason": "DeadlineExceeded"}, FailureKind.TIMED_OUT, 0, "", id="timed out, exit code 0"
        ),
        pytest.param(SUCCEEDED, {"conditions": [DISRUPTED]}, None, 0, "", id="succeeded before it was preempted"),
        pytest.param(
            terminated(128, "StartError", NO_COMMAND), {}, None, 127, "command does not exist: exec", id="no command"
        ),
        pytest.param(
            terminated(128, "StartError", "permission denied"), {}, None, 126, "may not be", id="not executable"
        ),
        pytest.param(
            terminated(128, "StartError", "no GPU driver"),
            {},
            FailureKind.REFUSED,
            128,
            "no GPU driver",
            id="cannot start",
        ),
        pytest.param(None, {"reason": "Weird"}, None, None, "Weird", id="unknown reason"),
    ],
)
def test_reason_of_an_exit(main, pod_fields, failure, code, note):
    """If the cluster knows more than the exit code, the status has the failure and the cluster's message."""
    status = pod_status(make_job(), make_pod(main, sidecar=SUCCEEDED, phase="Failed", **pod_fields))

    assert (status.phase, status.failure, status.exit_code) == (Phase.EXITED, failure, code)
    assert note in (status.note or "")


def test_failed_pod_whose_container_still_runs():
    """A running container has not exited, even if an old kubelet has already set the pod's phase to Failed."""
    pod = make_pod(RUNNING, phase="Failed", reason="DeadlineExceeded")

    assert pod_status(make_job(), pod).phase is Phase.RUNNING


@pytest.mark.parametrize("pod_fields", [{"reason": "DeadlineExceeded"}, {"conditions": [DISRUPTED]}])
def test_stopped_pod(pod_fields):
    """A job that Upshot has stopped has neither timed out nor been evicted."""
    pod = make_pod(TERMINATED, sidecar=SUCCEEDED, phase="Failed", **pod_fields)

    status = pod_status(make_job(stopped=True), pod)

    assert (status.phase, status.failure, status.exit_code) == (Phase.EXITED, None, 143)


@pytest.mark.parametrize(
    ("job", "phase", "failure", "code"),
    [
        pytest.param(make_job(suspend=True), Phase.CREATED, None, None, id="never started"),
        pytest.param(make_job(), Phase.PENDING, None, None, id="not created yet"),
        pytest.param(
            make_job(suspend=True, stopped=True),
            Phase.EXITED,
            FailureKind.CANCELLED,
            None,
            id="stopped before the start",
        ),
        pytest.param(make_job(stopped=True), Phase.EXITED, FailureKind.CANCELLED, None, id="stopped"),
        pytest.param(make_job(condition={"type": "Complete"}), Phase.EXITED, None, 0, id="deleted after success"),
        pytest.param(
            make_job(condition={"type": "Failed", "reason": "BackoffLimitExceeded", "message": "…"}),
            Phase.EXITED,
            FailureKind.EVICTED,
            None,
            id="deleted by a person",
        ),
        pytest.param(
            make_job(condition={"type": "Failed", "reason": "DeadlineExceeded", "message": "…"}),
            Phase.EXITED,
            FailureKind.TIMED_OUT,
            None,
            id="deleted after the Job's deadline",
        ),
    ],
)
def test_job_without_a_pod(job, phase, failure, code):
    """Without a pod, the Job's own status decides."""
    status = pod_status(job, None)

    assert (status.phase, status.failure, status.exit_code) == (phase, failure, code)


# --- pending --------------------------------------------------------------------------------------


def warnings_about(
    item: dict[str, Any], *, minutes: float = 0, reason: str = "Failed", message: str = "pull: 403"
) -> WarningEvents:
    """Return a warning about an object that has been repeated for some minutes."""
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"uid": item["metadata"]["uid"]},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "firstTimestamp": "2026-01-01T12:00:00Z",
        "lastTimestamp": f"2026-01-01T12:{int(minutes):02d}:{round(minutes % 1 * 60):02d}Z",
    }
    assert not schema_errors("v1/Event", event)
    return WarningEvents.of([event])


def pending_pod(main: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Return a pod that has not started."""
    return make_pod(main, phase="Pending", **options)


def test_pod_waits_for_a_node():
    """The note contains the scheduler's reason."""
    message = "0/3 nodes: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}

    status = pod_status(make_job(), pending_pod(conditions=[condition]))

    assert (status.phase, status.note) == (Phase.PENDING, f"waits for a node: {message}")


def test_image_cannot_be_pulled_for_a_short_time():
    """A job stays pending with a note while its image registry is down for less than two minutes."""
    pod = pending_pod(waiting("ImagePullBackOff", "Back-off pulling"))

    status = pod_status(make_job(), pod, warnings_about(pod, minutes=1.9))

    assert (status.phase, status.note) == (Phase.PENDING, "ImagePullBackOff: Back-off pulling")


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_image_cannot_be_pulled(reason):
    """An image that cannot be pulled for two minutes by the cluster's clock is missing."""
    pod = pending_pod(waiting(reason, "not found"))

    status = pod_status(make_job(), pod, warnings_about(pod, minutes=STARTUP_TOLERANCE.total_seconds() / 60 + 0.1))

    assert (status.phase, status.failure) == (Phase.EXITED, FailureKind.IMAGE_MISSING)
    assert status.note == f"{reason}: not found"


@pytest.mark.parametrize("reason", ["ErrImageNeverPull", "InvalidImageName"])
def test_image_can_never_be_pulled(reason):
    """An image that can never be pulled is missing at once."""
    status = pod_status(make_job(), pending_pod(waiting(reason, "why")))

    assert (status.phase, status.failure) == (Phase.EXITED, FailureKind.IMAGE_MISSING)
    assert status.note == f"{reason}: why"


def test_helper_image_cannot_be_pulled():
    """If the sidecar's image cannot be pulled, the note names the option for it."""
    pod = pending_pod(waiting("PodInitializing"), sidecar=waiting("ErrImagePull", "not found"))

    status = pod_status(make_job(), pod, warnings_about(pod, minutes=3))

    assert status.failure is FailureKind.IMAGE_MISSING
    assert "`helper-image`" in status.note


def test_helper_image_without_a_shell():
    """If the sidecar crashes again and again for two minutes, the job is refused."""
    pod = pending_pod(waiting("PodInitializing"), sidecar=waiting("CrashLoopBackOff", "back-off 1m"))

    assert pod_status(make_job(), pod, warnings_about(pod, minutes=1, reason="BackOff")).phase is Phase.PENDING
    assert pod_status(make_job(), pod, warnings_about(pod, minutes=3, reason="BackOff")).failure is FailureKind.REFUSED


def test_container_cannot_be_created():
    """If the container cannot be created for two minutes, the job is refused."""
    pod = pending_pod(waiting("CreateContainerConfigError", "image has non-numeric user"))

    assert pod_status(make_job(), pod, warnings_about(pod, minutes=1)).phase is Phase.PENDING
    assert pod_status(make_job(), pod, warnings_about(pod, minutes=3)).failure is FailureKind.REFUSED


def test_volume_cannot_be_mounted():
    """The note contains the kubelet's warning about a volume."""
    pod = pending_pod(waiting("ContainerCreating"))

    status = pod_status(make_job(), pod, warnings_about(pod, minutes=30, reason="FailedMount", message="no such claim"))

    assert (status.phase, status.note) == (Phase.PENDING, "FailedMount: no such claim")


def test_pod_cannot_be_created():
    """The note contains the Job controller's warning."""
    job = make_job()

    status = pod_status(job, None, warnings_about(job, reason="FailedCreate", message="exceeded quota"))

    assert "exceeded quota" in status.note


def test_events_of_the_newer_api():
    """Events of the events.k8s.io API have their times in other fields."""
    pod = pending_pod(waiting("ErrImagePull", "not found"))
    event = {
        "involvedObject": {"uid": "p-1"},
        "reason": "Failed",
        "message": "x",
        "firstTimestamp": None,
        "lastTimestamp": None,
        "eventTime": "2026-01-01T12:00:00.000000Z",
        "series": {"count": 9, "lastObservedTime": "2026-01-01T12:03:00.000000Z"},
    }

    assert pod_status(make_job(), pod, WarningEvents.of([event])).phase is Phase.EXITED


def test_pod_of_a_job():
    """A pod of an earlier Job of the same name does not belong to the Job."""
    own = {**make_pod(), "metadata": {"name": "a", "ownerReferences": [{"uid": "u-1"}]}}
    other = {**make_pod(), "metadata": {"name": "b", "ownerReferences": [{"uid": "u-0"}]}}

    assert pod_of(make_job(), [other, own]) is own
    assert pod_of(make_job(), [other]) is None
