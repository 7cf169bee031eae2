"""Jobs as Jobs of a Kubernetes cluster: one Job, with one pod, for each try."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from upshot.backends.kubernetes.api import MERGE, KubernetesApiError, KubernetesClient, unless_missing
from upshot.backends.kubernetes.cluster import NamespaceClient
from upshot.backends.kubernetes.manifests import (
    CONTAINER,
    INSTALLATION,
    MAIN,
    SHORTEST_GRACE_SECONDS,
    STOPPED,
    Manifest,
    author_options,
    is_same_try,
    job_manifest,
)
from upshot.backends.kubernetes.options import Options
from upshot.backends.kubernetes.outputs_sidecar import COLLECTOR, MAX_SAID_BYTES, read_said
from upshot.backends.kubernetes.status import (
    condition,
    name_of,
    pod_of,
    sight,
    state_of,
    uid_of,
    was_stopped,
)
from upshot.backends.protocol import (
    ContainerRequest,
    ContainerStatus,
    EngineUnavailable,
    LogRead,
    OutputUnreadable,
    Phase,
    StartedContainer,
    StartRefused,
)
from upshot.domain.job import OUTPUTS_FILE, FailureKind

JOBS = "batch/v1"
_AT_ONCE = 1  # seconds that a pod may be active from its start on; the shortest that Kubernetes takes


class KubernetesBackend:
    """
    `Backend` whose engine is a cluster, and whose containers are Jobs.

    Args:
        api: The API server.
        options: What the operator chose.
    """

    def __init__(self, api: KubernetesClient, options: Options) -> None:
        self._cluster = NamespaceClient(api)
        self._api = api
        self._options = options
        #: As they were at the last look, so that not every log that is read asks for its pod; by their Jobs' names.
        self._pods: Mapping[str, Manifest] = {}

    async def engine_id(self) -> str:
        """The cluster and the namespace."""
        return await self._cluster.engine_id()

    async def close(self) -> None:
        """Hang up."""
        await self._api.close()

    # --- start ------------------------------------------------------------------------------------

    async def start(self, request: ContainerRequest) -> StartedContainer:
        """Make a suspended Job, then the Secrets that go with it, then let it begin."""
        manifest = job_manifest(request, self._options, author_options(request))
        job = await self._make(manifest)
        if _has_begun(job):
            return _started(job)
        try:
            await self._cluster.put_secrets(request, owner=job)
            job = await self._patch_job(request.name, {"spec": {"suspend": False}})
        except KubernetesApiError as error:
            await self.remove(request.name)
            raise error.as_refusal() from error
        return _started(job)

    async def _make(self, manifest: Manifest) -> Manifest:
        """Make the Job; the one that is there, if it is ours."""
        try:
            return dict(await self._api.call("POST", await self._jobs(), body=manifest))
        except KubernetesApiError as error:
            if not error.is_there_already:
                raise error.as_refusal() from error
        job = await self._job(name_of(manifest))
        if job is None:
            raise EngineUnavailable("Kubernetes: the Job was there a moment ago, and is not now")
        if not is_same_try(job, manifest):
            raise StartRefused(FailureKind.REFUSED, f"the namespace has a Job {name_of(job)} of somebody else's")
        return job

    async def _patch_job(self, name: str, patch: Manifest) -> Manifest:
        return dict(await self._api.call("PATCH", await self._jobs(name), body=patch, content_type=MERGE))

    # --- look -------------------------------------------------------------------------------------

    async def list_containers(self, installation: str) -> Mapping[str, ContainerStatus]:
        """All Jobs of the installation, each with its pod."""
        selector = f"{INSTALLATION}={installation}"
        # Not at once: a pod that is missing must be one that is missing after its Job was seen.
        jobs = await self._api.list_all(await self._jobs(), labelSelector=selector)
        pods = await self._cluster.pods(selector) if jobs else []
        pairs = [(job, pod_of(job, pods)) for job in jobs]
        self._pods = {name_of(job): pod for job, pod in pairs if pod is not None}
        seen = [sight(job, pod) for job, pod in pairs]
        if any(one.phase is Phase.PENDING for one in seen):
            warnings = await self._cluster.warnings()
            seen = [sight(job, pod, warnings) for job, pod in pairs]
        return {one.name: one for one in seen}

    # --- read -------------------------------------------------------------------------------------

    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        """What the job's own container has said."""
        pod = self._pods.get(name) or await self._pod(name)
        if pod is None:
            return LogRead(b"", position or "")
        return await self._cluster.read_log(pod, MAIN, position, limit_bytes=limit_bytes)

    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        """What the sidecar has said of the file."""
        pod = await self._pod(name)
        if pod is None:
            if await self._job(name) is None:
                return None
            raise OutputUnreadable(f"{OUTPUTS_FILE} went with its pod, which somebody has deleted")
        said = await self._cluster.whole_log(pod, COLLECTOR, limit_bytes=MAX_SAID_BYTES)
        return read_said(said, limit_bytes=limit_bytes)

    # --- stop -------------------------------------------------------------------------------------

    async def stop(self, name: str, *, grace_seconds: float) -> None:
        """
        Have its kubelet end it, which sends the signal, waits for the grace and kills.

        A pod that is deleted takes its log and its exit code with it. So its deadline is set to now:
        what ends then stays to be read. Only where the grace shall be shorter than the pod was made
        with, or that was tried already, is it deleted; and what has not begun is suspended, so that
        its Job makes no pod any more.
        """
        job = await self._job(name)
        if job is None or condition(job, "Complete") or condition(job, "Failed"):
            return
        pod = await self._pod(name)
        if pod is not None and state_of(pod, MAIN, "terminated"):
            return
        begun = pod is not None and state_of(pod, MAIN, "running") is not None
        patch: Manifest = {"metadata": {"annotations": {STOPPED: "true"}}}
        if not begun:
            patch["spec"] = {"suspend": True}
        if not (begun and was_stopped(job)):
            await unless_missing(self._patch_job(name, patch))
        if pod is not None and begun:
            await self._end(pod, grace_seconds)

    async def _end(self, pod: Manifest, grace_seconds: float) -> None:
        path = await self._cluster.core("pods", name_of(pod))
        grace = math.ceil(grace_seconds)
        usual = pod["spec"].get("terminationGracePeriodSeconds", SHORTEST_GRACE_SECONDS)
        is_told = pod["spec"].get("activeDeadlineSeconds") == _AT_ONCE
        if pod["metadata"].get("deletionTimestamp"):
            if grace == 0:  # it was deleted, and its node does not see to it
                await unless_missing(self._delete(path, gracePeriodSeconds=0))
        elif (grace < usual and usual > SHORTEST_GRACE_SECONDS) or (grace == 0 and is_told):
            await unless_missing(self._delete(path, gracePeriodSeconds=max(grace, 1)))
        elif not is_told:
            patch = {"spec": {"activeDeadlineSeconds": _AT_ONCE}}
            await unless_missing(self._api.call("PATCH", path, body=patch, content_type=MERGE))

    async def remove(self, name: str) -> None:
        """Delete the Job; the cluster deletes its pod and its Secrets after it."""
        self._pods = {key: pod for key, pod in self._pods.items() if key != name}
        await unless_missing(self._delete(await self._jobs(name), propagationPolicy="Background"))

    async def _delete(self, path: str, **query: str | int) -> None:
        await self._api.call("DELETE", path, query=query)

    # --- hints ------------------------------------------------------------------------------------

    async def watch_events(self, installation: str) -> AsyncIterator[str]:
        """What happens to Jobs and to pods."""
        paths = [await self._jobs(), await self._cluster.core("pods")]
        async with aclosing(self._cluster.watch(installation, paths)) as hints:
            async for hint in hints:
                yield hint

    # --- what is there ----------------------------------------------------------------------------

    async def _jobs(self, name: str = "") -> str:
        return await self._cluster.grouped(JOBS, "jobs", name)

    async def _job(self, name: str) -> Manifest | None:
        return await unless_missing(self._api.call("GET", await self._jobs(name)))

    async def _pod(self, name: str) -> Manifest | None:
        """The newest of the name; one from before the name was used again may still be ending."""
        pods = await self._cluster.pods(f"{CONTAINER}={name}")
        return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), default=None)


def _has_begun(job: Manifest) -> bool:
    return was_stopped(job) or not job["spec"].get("suspend")


def _started(job: Manifest) -> StartedContainer:
    return StartedContainer(uid_of(job), note="its pod is not made yet")
