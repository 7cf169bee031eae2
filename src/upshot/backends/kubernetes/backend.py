"""Jobs as Kubernetes Jobs: each attempt is one Job with one pod."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from typing_extensions import override

from upshot.backends.kubernetes.api import MERGE_PATCH, KubernetesApiError, KubernetesClient, unless_missing
from upshot.backends.kubernetes.cluster import NamespaceClient
from upshot.backends.kubernetes.manifests import (
    MAIN,
    MIN_GRACE_SECONDS,
    STOPPED,
    Manifest,
    author_options,
    is_same_attempt,
    job_manifest,
)
from upshot.backends.kubernetes.options import KubernetesOptions
from upshot.backends.kubernetes.outputs_sidecar import MAX_LOG_BYTES, SIDECAR, parse_log
from upshot.backends.kubernetes.status import (
    condition,
    created_at,
    name_of,
    pod_of,
    pod_status,
    state_of,
    uid_of,
    was_stopped,
)
from upshot.backends.protocol import (
    CONTAINER_LABEL,
    INSTALLATION_LABEL,
    Backend,
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

_DEADLINE_NOW = 1  # the smallest activeDeadlineSeconds that Kubernetes accepts; it counts from the pod's start


class KubernetesBackend(Backend):
    """
    Run jobs as Kubernetes Jobs.

    Args:
        api: Client of the API server.
        options: The operator's options.
    """

    downloads_input = True

    def __init__(self, api: KubernetesClient, options: KubernetesOptions) -> None:
        self._cluster = NamespaceClient(api)
        self._api = api
        self._options = options
        #: Pods as of the last list, by the names of their Jobs, so that reading a log need not request its pod.
        self._pods: Mapping[str, Manifest] = {}

    @override
    async def engine_id(self) -> str:
        return await self._cluster.engine_id()

    @override
    async def close(self) -> None:
        await self._api.close()

    # --- start ------------------------------------------------------------------------------------

    @override
    async def start(self, request: ContainerRequest) -> StartedContainer:
        # Create a suspended Job, then the Secrets that belong to it, then resume the Job.
        job = await self._create(job_manifest(request, self._options, author_options(request)))
        if job["spec"].get("suspend") and not was_stopped(job):
            try:
                await self._cluster.apply_secrets(request, owner=job)
                job = await self._patch_job(request.name, {"spec": {"suspend": False}})
            except KubernetesApiError as error:
                await self.remove(request.name)
                raise error.as_start_refused() from error
        return StartedContainer(uid_of(job), note="its pod has not been created yet")

    async def _create(self, manifest: Manifest) -> Manifest:
        """Create the Job, or return the existing one if it belongs to the same attempt."""
        try:
            return dict(await self._api.request_json("POST", await self._job_path(), body=manifest))
        except KubernetesApiError as error:
            if not error.already_exists:
                raise error.as_start_refused() from error
        job = await self._job(name_of(manifest))
        if job is None:
            raise EngineUnavailable("Kubernetes: the Job existed a moment ago, and has been removed")
        if not is_same_attempt(job, manifest):
            raise StartRefused(
                FailureKind.REFUSED, f"the namespace has a Job {name_of(job)} that belongs to another job; remove it"
            )
        return job

    async def _patch_job(self, name: str, patch: Manifest) -> Manifest:
        return dict(
            await self._api.request_json("PATCH", await self._job_path(name), body=patch, content_type=MERGE_PATCH)
        )

    # --- read -------------------------------------------------------------------------------------

    @override
    async def list_containers(self, installation_id: str) -> Mapping[str, ContainerStatus]:
        selector = f"{INSTALLATION_LABEL}={installation_id}"
        # One after the other: a pod counts as missing only if it is missing after its Job was listed.
        jobs = await self._api.list_all(await self._job_path(), labelSelector=selector)
        pods = await self._cluster.pods(selector) if jobs else []
        pairs = [(job, pod_of(job, pods)) for job in jobs]
        self._pods = {name_of(job): pod for job, pod in pairs if pod is not None}
        statuses = [pod_status(job, pod) for job, pod in pairs]
        if any(status.phase is Phase.PENDING for status in statuses):
            warnings = await self._cluster.warnings()
            statuses = [pod_status(job, pod, warnings) for job, pod in pairs]
        return {status.name: status for status in statuses}

    @override
    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        pod = self._pods.get(name) or await self._pod(name)
        if pod is None:
            return LogRead(b"", position or "")
        return await self._cluster.read_log(pod, MAIN, position, limit_bytes=limit_bytes)

    @override
    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        pod = await self._pod(name)
        if pod is None:
            if await self._job(name) is None:
                return None
            raise OutputUnreadable(f"{OUTPUTS_FILE} is lost, because someone deleted its pod")
        log = await self._cluster.read_whole_log(pod, SIDECAR, limit_bytes=MAX_LOG_BYTES)
        return parse_log(log, limit_bytes=limit_bytes)

    # --- stop -------------------------------------------------------------------------------------

    @override
    async def stop(self, name: str, *, grace_seconds: float) -> None:
        # The kubelet sends the signal, waits for the grace period and kills. A deleted pod loses its log and its exit
        # code, so the pod's deadline is set to now instead, and both can still be read. The pod is deleted only if the
        # grace period must be shorter than the one it was created with, or if the deadline has been set before. A Job
        # that has not started is suspended, so that it creates no pod any more.
        job = await self._job(name)
        if job is None or condition(job, "Complete") or condition(job, "Failed"):
            return
        pod = await self._pod(name)
        if pod is not None and state_of(pod, MAIN, "terminated"):
            return
        is_running = pod is not None and state_of(pod, MAIN, "running") is not None
        patch: Manifest = {"metadata": {"annotations": {STOPPED: "true"}}}
        if not is_running:
            patch["spec"] = {"suspend": True}
        if not (is_running and was_stopped(job)):
            await unless_missing(self._patch_job(name, patch))
        if pod is not None and is_running:
            await self._stop_pod(pod, math.ceil(grace_seconds))

    async def _stop_pod(self, pod: Manifest, grace: int) -> None:
        path = await self._cluster.core_path("pods", name_of(pod))
        default_grace = pod["spec"].get("terminationGracePeriodSeconds", MIN_GRACE_SECONDS)
        has_deadline = pod["spec"].get("activeDeadlineSeconds") == _DEADLINE_NOW
        if pod["metadata"].get("deletionTimestamp"):
            if grace == 0:  # The pod has been deleted, and its node does not end it.
                await self._delete(path, gracePeriodSeconds=0)
        elif (grace < default_grace and default_grace > MIN_GRACE_SECONDS) or (grace == 0 and has_deadline):
            await self._delete(path, gracePeriodSeconds=max(grace, 1))
        elif not has_deadline:
            patch = {"spec": {"activeDeadlineSeconds": _DEADLINE_NOW}}
            await unless_missing(self._api.request_json("PATCH", path, body=patch, content_type=MERGE_PATCH))

    @override
    async def remove(self, name: str) -> None:
        # The cluster deletes the pod and the Secrets after their Job.
        self._pods = {key: pod for key, pod in self._pods.items() if key != name}
        await self._delete(await self._job_path(name), propagationPolicy="Background")

    async def _delete(self, path: str, **query: str | int) -> None:
        await unless_missing(self._api.request_json("DELETE", path, query=query))

    @override
    async def watch_events(self, installation_id: str) -> AsyncIterator[str]:
        paths = [await self._job_path(), await self._cluster.core_path("pods")]
        async with aclosing(self._cluster.watch(installation_id, paths)) as names:
            async for name in names:
                yield name

    # --- objects ----------------------------------------------------------------------------------

    async def _job_path(self, name: str = "") -> str:
        return await self._cluster.group_path("batch/v1", "jobs", name)

    async def _job(self, name: str) -> Manifest | None:
        return await unless_missing(self._api.request_json("GET", await self._job_path(name)))

    async def _pod(self, name: str) -> Manifest | None:
        """Return the newest pod of the name. A pod of an earlier Job of this name may still be stopping."""
        return max(await self._cluster.pods(f"{CONTAINER_LABEL}={name}"), key=created_at, default=None)
