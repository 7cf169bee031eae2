"""What is made of what a cluster says of a Job and its pod: as its documentation and its code have it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.kubernetes.schemas import problems
from upshot.backends.kubernetes.status import PATIENCE, WarningEvents, pod_of, sight
from upshot.backends.protocol import Phase
from upshot.domain.job import FailureKind

DIGEST = "sha256:" + "ab" * 32
BEGUN, ENDED = "2026-01-01T12:00:00Z", "2026-01-01T12:05:00Z"


def job(*, suspend: bool = False, stopped: bool = False, condition: dict[str, str] | None = None) -> dict[str, Any]:
    metadata = {
        "name": "upshot-01-1",
        "uid": "u-1",
        "labels": {"upshot.job": "job_01"},
        "annotations": {"upshot.stopped": "true"} if stopped else {},
    }
    conditions = [{"status": "True", **condition}] if condition else []
    one = {
        "metadata": metadata,
        "spec": {"suspend": suspend, "template": {"spec": {"containers": []}}},
        "status": {"conditions": conditions},
    }
    assert not problems("batch/v1/Job", one)
    return one


def pod(main: dict[str, Any] | None = None, *, helper: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    def containers(name: str, state: dict[str, Any] | None, image_id: str) -> list[dict[str, Any]]:
        about = {"name": name, "ready": False, "restartCount": 0, "image": "x", "imageID": image_id}
        return [] if state is None else [{**about, "state": state}]

    one = {
        "metadata": {"name": "upshot-01-1-abcde", "uid": "p-1"},
        "spec": {"containers": []},
        "status": {
            "phase": "Running",
            "containerStatuses": containers("main", main, f"docker.io/library/x@{DIGEST}"),
            "initContainerStatuses": containers("upshot-outputs", helper, ""),
            **status,
        },
    }
    assert not problems("v1/Pod", one)
    return one


def running() -> dict[str, Any]:
    return {"running": {"startedAt": BEGUN}}


def terminated(code: int = 0, reason: str = "Completed", message: str | None = None) -> dict[str, Any]:
    end = {"exitCode": code, "reason": reason, "startedAt": BEGUN, "finishedAt": ENDED}
    return {"terminated": {**end, "message": message} if message else end}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def unscheduled(message: str) -> dict[str, Any]:
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}


DONE = terminated()
TOLD = terminated(143, "Error")
DISRUPTED = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "PreemptionByScheduler",
    "message": "preempted by a pod of more priority",
}


def test_a_pod_that_runs():
    """It runs from when its command began, in the image that its node has."""
    seen = sight(job(), pod(running(), helper=running()))

    assert (seen.phase, seen.name, seen.job_id, seen.handle) == (Phase.RUNNING, "upshot-01-1", "job_01", "u-1")
    assert seen.started_at == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert seen.image_digest == DIGEST


def test_a_pod_whose_outputs_are_being_told():
    """Its command has ended; it is not over before its outputs are told."""
    assert sight(job(), pod(DONE, helper=running())).phase is Phase.RUNNING
    assert sight(job(), pod(DONE, helper=terminated(143, "Error"))).phase is Phase.EXITED


def test_a_pod_that_has_ended():
    """Code and times are the container's."""
    seen = sight(job(), pod(terminated(3, "Error"), helper=DONE, phase="Failed"))

    assert (seen.phase, seen.exit_code, seen.failure) == (Phase.EXITED, 3, None)
    assert seen.finished_at == datetime(2026, 1, 1, 12, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("main", "status", "cause", "code", "note"),
    [
        pytest.param(terminated(137, "OOMKilled"), {}, FailureKind.OUT_OF_MEMORY, 137, "", id="out of memory"),
        pytest.param(terminated(7, "OOMKilled"), {}, FailureKind.OUT_OF_MEMORY, 7, "", id="a child out of memory"),
        pytest.param(terminated(0, "OOMKilled"), {}, None, 0, "", id="a child out of memory, coped with"),
        pytest.param(
            terminated(137, "Error"),
            {"reason": "Evicted", "message": "The node was low on resource: memory."},
            FailureKind.EVICTED,
            137,
            "low on resource",
            id="evicted",
        ),
        pytest.param(TOLD, {"conditions": [DISRUPTED]}, FailureKind.EVICTED, 143, "preempted", id="preempted"),
        pytest.param(running(), {"reason": "NodeLost"}, FailureKind.EVICTED, None, "NodeLost", id="node lost"),
        pytest.param(running(), {"conditions": [DISRUPTED]}, FailureKind.EVICTED, None, "preempted", id="node deleted"),
        pytest.param(None, {"reason": "NodeShutdown"}, FailureKind.EVICTED, None, "NodeShutdown", id="node shut down"),
        pytest.param(None, {"reason": "OutOfmemory", "message": "full"}, FailureKind.EVICTED, None, "full", id="no room"),
        pytest.param(
            terminated(137, "ContainerStatusUnknown"), {}, FailureKind.ENGINE_LOST, 137, "", id="node came back without it"
        ),
        pytest.param(TOLD, {"reason": "DeadlineExceeded"}, FailureKind.TIMED_OUT, 143, "", id="timed out"),
        pytest.param(DONE, {"reason": "DeadlineExceeded"}, FailureKind.TIMED_OUT, 0, "", id="timed out, and ended well"),
        pytest.param(DONE, {"conditions": [DISRUPTED]}, None, 0, "", id="ended before it was preempted"),
        pytest.param(
            terminated(128, "StartError", 'exec: "evil": executable file not found in $PATH'),
            {},
            None,
            127,
            "its command is not there: exec",
            id="no command",
        ),
        pytest.param(
            terminated(128, "StartError", "permission denied"), {}, None, 126, "may not be", id="no program"
        ),
        pytest.param(
            terminated(128, "StartError", "no GPU driver"), {}, FailureKind.REFUSED, 128, "no GPU driver", id="no start"
        ),
        pytest.param(None, {"reason": "Weird"}, None, None, "Weird", id="nobody knows"),
    ],
)  # fmt: skip
def test_how_a_pod_ended(main, status, cause, code, note):
    """Where the cluster knows more than the code, the cause is told, in its words."""
    seen = sight(job(), pod(main, helper=DONE, phase="Failed", **status))

    assert (seen.phase, seen.failure, seen.exit_code) == (Phase.EXITED, cause, code)
    assert note in (seen.note or "")


def test_an_old_kubelet_calls_a_pod_failed_while_it_ends():
    """What runs has not ended, whatever its phase says."""
    assert sight(job(), pod(running(), phase="Failed", reason="DeadlineExceeded")).phase is Phase.RUNNING


@pytest.mark.parametrize("status", [{"reason": "DeadlineExceeded"}, {"conditions": [DISRUPTED]}])
def test_a_pod_that_we_stopped(status):
    """Its end is ours, not its deadline's, nor the cluster's."""
    seen = sight(job(stopped=True), pod(terminated(143, "Error"), helper=DONE, phase="Failed", **status))

    assert (seen.phase, seen.failure, seen.exit_code) == (Phase.EXITED, None, 143)


@pytest.mark.parametrize(
    ("given", "phase", "cause", "code"),
    [
        pytest.param(job(suspend=True), Phase.CREATED, None, None, id="never begun"),
        pytest.param(job(), Phase.PENDING, None, None, id="not made yet"),
        pytest.param(job(suspend=True, stopped=True), Phase.EXITED, FailureKind.CANCELLED, None, id="stopped before"),
        pytest.param(job(stopped=True), Phase.EXITED, FailureKind.CANCELLED, None, id="stopped"),
        pytest.param(job(condition={"type": "Complete"}), Phase.EXITED, None, 0, id="deleted after its end"),
        pytest.param(
            job(condition={"type": "Failed", "reason": "BackoffLimitExceeded", "message": "…"}),
            Phase.EXITED,
            FailureKind.EVICTED,
            None,
            id="deleted by somebody",
        ),
        pytest.param(
            job(condition={"type": "Failed", "reason": "DeadlineExceeded", "message": "…"}),
            Phase.EXITED,
            FailureKind.TIMED_OUT,
            None,
            id="deleted by a deadline of the Job's",
        ),
    ],
)
def test_a_job_without_a_pod(given, phase, cause, code):
    """Whether it never had one, or has it no more, the Job tells."""
    seen = sight(given, None)

    assert (seen.phase, seen.failure, seen.exit_code) == (phase, cause, code)


# --- waiting --------------------------------------------------------------------------------------


def warnings(
    thing: dict[str, Any], *, minutes: float = 0, reason: str = "Failed", message: str = "pull: 403"
) -> WarningEvents:
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"uid": thing["metadata"]["uid"]},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "firstTimestamp": "2026-01-01T12:00:00Z",
        "lastTimestamp": f"2026-01-01T12:{int(minutes):02d}:{round(minutes % 1 * 60):02d}Z",
    }
    assert not problems("v1/Event", event)
    return WarningEvents.of([event])


def test_a_pod_that_waits_for_a_node():
    """The scheduler says why."""
    seen = sight(job(), pod(phase="Pending", conditions=[unscheduled("0/3 nodes: 3 Insufficient nvidia.com/gpu.")]))

    assert seen.phase is Phase.PENDING
    assert seen.note == "waits for a node: 0/3 nodes: 3 Insufficient nvidia.com/gpu."


def test_an_image_that_cannot_be_pulled_for_a_moment():
    """A registry may be away for a minute: the job waits, and says what for."""
    one = pod(waiting("ImagePullBackOff", "Back-off pulling"), phase="Pending")
    seen = sight(job(), one, warnings(one, minutes=1.9))

    assert (seen.phase, seen.note) == (Phase.PENDING, "ImagePullBackOff: Back-off pulling")


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_an_image_that_cannot_be_pulled(reason):
    """After two minutes by the cluster's clock, it is missing."""
    one = pod(waiting(reason, "not found"), phase="Pending")
    seen = sight(job(), one, warnings(one, minutes=PATIENCE.total_seconds() / 60 + 0.1))

    assert (seen.phase, seen.failure, seen.note) == (Phase.EXITED, FailureKind.IMAGE_MISSING, f"{reason}: not found")


@pytest.mark.parametrize("reason", ["ErrImageNeverPull", "InvalidImageName"])
def test_an_image_that_nobody_needs_to_wait_for(reason):
    """It is missing at once."""
    seen = sight(job(), pod(waiting(reason, "why"), phase="Pending"))

    assert (seen.phase, seen.failure, seen.note) == (Phase.EXITED, FailureKind.IMAGE_MISSING, f"{reason}: why")


def test_a_helper_image_that_cannot_be_pulled():
    """Whose image it is, and which option names it, is said."""
    one = pod(waiting("PodInitializing"), helper=waiting("ErrImagePull", "not found"), phase="Pending")
    seen = sight(job(), one, warnings(one, minutes=3))

    assert seen.failure is FailureKind.IMAGE_MISSING
    assert "`helper-image`" in seen.note


def test_a_helper_image_without_a_shell():
    """The container that tells the outputs comes back again and again: the job is refused for it."""
    one = pod(waiting("PodInitializing"), helper=waiting("CrashLoopBackOff", "back-off 1m"), phase="Pending")

    assert sight(job(), one, warnings(one, minutes=1, reason="BackOff")).phase is Phase.PENDING
    assert sight(job(), one, warnings(one, minutes=3, reason="BackOff")).failure is FailureKind.REFUSED


def test_a_container_that_cannot_be_made():
    """What is wrong with it for two minutes is wrong."""
    one = pod(waiting("CreateContainerConfigError", "image has non-numeric user"), phase="Pending")

    assert sight(job(), one, warnings(one, minutes=1)).phase is Phase.PENDING
    assert sight(job(), one, warnings(one, minutes=3)).failure is FailureKind.REFUSED


def test_a_volume_that_does_not_come():
    """What the kubelet complains of is said."""
    one = pod(waiting("ContainerCreating"), phase="Pending")
    seen = sight(job(), one, warnings(one, minutes=30, reason="FailedMount", message="no such claim"))

    assert (seen.phase, seen.note) == (Phase.PENDING, "FailedMount: no such claim")


def test_a_job_whose_pod_cannot_be_made():
    """What the Job controller complains of is said."""
    one = job()

    assert "exceeded quota" in sight(one, None, warnings(one, reason="FailedCreate", message="exceeded quota")).note


def test_events_of_the_newer_kind():
    """Their times are elsewhere."""
    one = pod(waiting("ErrImagePull", "not found"), phase="Pending")
    event = {
        "involvedObject": {"uid": "p-1"},
        "reason": "Failed",
        "message": "x",
        "firstTimestamp": None,
        "lastTimestamp": None,
        "eventTime": "2026-01-01T12:00:00.000000Z",
        "series": {"count": 9, "lastObservedTime": "2026-01-01T12:03:00.000000Z"},
    }

    assert sight(job(), one, WarningEvents.of([event])).phase is Phase.EXITED


def test_the_pod_of_a_job():
    """A pod of an earlier Job of that name is not taken for it."""
    own = {**pod(), "metadata": {"name": "a", "ownerReferences": [{"uid": "u-1"}]}}
    other = {**pod(), "metadata": {"name": "b", "ownerReferences": [{"uid": "u-0"}]}}

    assert pod_of(job(), [other, own]) is own
    assert pod_of(job(), [other]) is None
