"""Jobs as custom resources of a cluster: each attempt is one object of a kind that the operator chooses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

from typing_extensions import override

from upshot.backends.kubernetes.api import KubernetesApiError, KubernetesClient, unless_missing
from upshot.backends.kubernetes.cluster import NamespaceClient
from upshot.backends.kubernetes.manifests import Manifest, SecretNames, author_options, is_same_attempt, labels_of
from upshot.backends.kubernetes.options import ConditionMatch, KubernetesOptions
from upshot.backends.kubernetes.status import created_at, name_of, time_of, uid_of
from upshot.backends.kubernetes.template import Template, fill_selector
from upshot.backends.protocol import (
    INSTALLATION_LABEL,
    JOB_LABEL,
    Backend,
    ContainerRequest,
    ContainerStatus,
    EngineUnavailable,
    LogRead,
    Phase,
    StartedContainer,
    StartRefused,
)
from upshot.domain.job import FailureKind, InputFiles
from upshot.ids import JobId


class CustomResourceBackend(Backend):
    """
    Run jobs as custom resources, which another controller runs.

    The template decides what they run in, and whether a job's limits apply. They have no outputs except those that
    they write with the REST API. They are stopped by deleting them.

    Args:
        api: Client of the API server.
        options: The operator's options.
        template: Template of the objects.
    """

    downloads_input = True  # or rather its command does

    def __init__(self, api: KubernetesClient, options: KubernetesOptions, template: Template) -> None:
        self._cluster = NamespaceClient(api)
        self._api = api
        self._options = options
        self._template = template
        self._plural: str | None = None

    @override
    async def engine_id(self) -> str:
        group, _, _ = self._template.api_version.partition("/")
        return f"{await self._cluster.engine_id()}/{self._template.kind}.{group}"

    @override
    async def close(self) -> None:
        await self._api.close()

    @override
    async def start(self, request: ContainerRequest) -> StartedContainer:
        if request.spec.input is InputFiles.REQUIRED:
            raise StartRefused(
                FailureKind.REFUSED,
                "input: a custom resource gets none; leave `input: required` out, and let its command download the "
                "files with `upshot download`",
            )
        # An object of an unknown kind cannot wait for its Secrets. So create the Secrets, then the object, then make
        # the object their owner. If this stops in between, the Secrets are found again by their names.
        labels = labels_of(request, self._options, author_options(request))
        manifest = self._template.fill(request, await self._api.namespace())
        metadata = manifest.setdefault("metadata", {})
        metadata |= {"name": request.name, "labels": {**(metadata.get("labels") or {}), **labels}}
        metadata.pop("namespace", None)
        try:
            await self._cluster.apply_secrets(request, owner=None)
            created = await self._create(manifest)
            await self._cluster.apply_secrets(request, owner=created)
        except KubernetesApiError as error:
            await self.remove(request.name)
            raise error.as_start_refused() from error
        return StartedContainer(uid_of(created))

    async def _create(self, manifest: Manifest) -> Manifest:
        """Create the object, or return the existing one if it belongs to the same attempt."""
        try:
            return dict(await self._api.request_json("POST", await self._path(), body=manifest))
        except KubernetesApiError as error:
            if not error.already_exists:
                raise
        path = await self._path(name_of(manifest))
        existing: Manifest | None = await unless_missing(self._api.request_json("GET", path))
        if existing is None:
            raise EngineUnavailable("Kubernetes: the object existed a moment ago, and has been removed")
        if not is_same_attempt(existing, manifest):
            found = f"{self._template.kind} {name_of(existing)}"
            raise StartRefused(
                FailureKind.REFUSED, f"the namespace has a {found} that belongs to another job; remove it"
            )
        return existing

    @override
    async def list_containers(self, installation_id: str) -> Mapping[str, ContainerStatus]:
        items = await self._api.list_all(await self._path(), labelSelector=f"{INSTALLATION_LABEL}={installation_id}")
        return {name_of(item): object_status(item, self._options) for item in items}

    @override
    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        selector = fill_selector(self._options.log_selector, name)
        pods = await self._cluster.pods(selector) if selector else []
        if not pods:
            return LogRead(b"", position or "")
        pod = min(pods, key=lambda candidate: (created_at(candidate), name_of(candidate)))
        container = self._options.log_container or pod["spec"]["containers"][0]["name"]
        return await self._cluster.read_log(pod, container, position, limit_bytes=limit_bytes)

    @override
    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        return None  # Upshot does not know where an object of an unknown kind has its outputs.

    @override
    async def stop(self, name: str, *, grace_seconds: float) -> None:
        await self._delete(name, "Foreground")  # The object stays until all that it created has been deleted.

    @override
    async def remove(self, name: str) -> None:
        await self._delete(name, "Background")
        for secret in asdict(SecretNames.of(name)).values():
            path = await self._cluster.core_path("secrets", secret)
            await unless_missing(self._api.request_json("DELETE", path))

    async def _delete(self, name: str, propagation: str) -> None:
        path = await self._path(name)
        await unless_missing(self._api.request_json("DELETE", path, query={"propagationPolicy": propagation}))

    @override
    async def watch_events(self, installation_id: str) -> AsyncIterator[str]:
        async with aclosing(self._cluster.watch(installation_id, [await self._path()])) as names:
            async for name in names:
                yield name

    async def _path(self, name: str = "") -> str:
        """Return the path of all objects, or of one. The plural name of their kind is requested once."""
        version, kind = self._template.api_version, self._template.kind
        if self._plural is None:
            served = await unless_missing(self._api.request_json("GET", f"/apis/{version}")) or {}
            plurals = [
                str(resource["name"])
                for resource in served.get("resources") or ()
                if resource.get("kind") == kind and "/" not in resource["name"] and resource.get("namespaced")
            ]
            if not plurals:
                raise EngineUnavailable(
                    f"Kubernetes: the cluster has no {kind} of {version} in namespaces; install its operator"
                )
            self._plural = plurals[0]
        return await self._cluster.group_path(version, self._plural, name)


# --- status ---------------------------------------------------------------------------------------


def object_status(item: Manifest, options: KubernetesOptions) -> ContainerStatus:
    """Return the status of an attempt, by the conditions in the operator's options."""
    metadata = item["metadata"]
    running = _first_match(item, options.running_when)
    started_at = (
        (running or {}).get("lastTransitionTime")
        or (item.get("status") or {}).get("startTime")
        or metadata.get("creationTimestamp")
    )
    status = ContainerStatus(
        name=name_of(item),
        job_id=JobId((metadata.get("labels") or {}).get(JOB_LABEL, "")),
        phase=Phase.PENDING,
        handle=uid_of(item),
        started_at=time_of(started_at),
    )
    if (failed := _first_match(item, options.failed_when)) is not None:
        return replace(_exited(status, failed), failure=FailureKind.EXITED)
    if (succeeded := _first_match(item, options.succeeded_when)) is not None:
        return replace(_exited(status, succeeded), exit_code=0)
    if metadata.get("deletionTimestamp"):
        return replace(status, phase=Phase.RUNNING, note="it is being deleted")
    if running is not None or not options.running_when:
        return replace(status, phase=Phase.RUNNING)
    newest = max(_conditions(item), key=lambda condition: str(condition.get("lastTransitionTime")), default=None)
    note = None if newest is None else f"{newest.get('type')}: {newest.get('message') or newest.get('reason')}"
    return replace(status, started_at=None, note=note)


def _exited(status: ContainerStatus, condition: Manifest) -> ContainerStatus:
    return replace(
        status,
        phase=Phase.EXITED,
        finished_at=time_of(condition.get("lastTransitionTime")),
        note=": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key)) or None,
    )


def _first_match(item: Manifest, matches: Iterable[ConditionMatch]) -> Manifest | None:
    """Return the object's condition that matches first; an empty mapping if a field matches first."""
    for match in matches:
        if match.type is not None:
            for condition in _conditions(item):
                if condition.get("type") == match.type and condition.get("status") == match.status:
                    return condition
        elif _field_matches(item, match):
            return {}
    return None


def _field_matches(item: Manifest, match: ConditionMatch) -> bool:
    value: Any = item
    for step in (match.field or "").split("."):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, Mapping):
            value = value.get(step)
        else:
            return False
    return bool(value) if match.value is None else value == match.value


def _conditions(item: Manifest) -> list[Manifest]:
    conditions = (item.get("status") or {}).get("conditions") or ()
    return [condition for condition in conditions if isinstance(condition, dict)]
