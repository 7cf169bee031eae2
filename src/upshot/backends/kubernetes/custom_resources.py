"""Jobs as custom resources of a cluster: one object of an operator's kind for each try."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

from upshot.backends.kubernetes.api import KubernetesApiError, KubernetesClient, unless_missing
from upshot.backends.kubernetes.cluster import NamespaceClient
from upshot.backends.kubernetes.manifests import (
    INSTALLATION,
    JOB,
    Manifest,
    SecretNames,
    author_options,
    is_same_try,
    labels_of,
)
from upshot.backends.kubernetes.options import ConditionMatch, Options
from upshot.backends.kubernetes.status import moment_of, name_of, uid_of
from upshot.backends.kubernetes.template import Template, fill_names
from upshot.backends.protocol import (
    ContainerRequest,
    ContainerStatus,
    EngineUnavailable,
    LogRead,
    Phase,
    StartedContainer,
    StartRefused,
)
from upshot.domain.job import FailureKind


class CustomResourceBackend:
    """
    `Backend` whose engine is a cluster, and whose containers are objects that others run.

    What they run in, and whether a job's limits hold, is the template's to say. They have no
    outputs but what they write by the REST API, and are stopped by being deleted.

    Args:
        api: The API server.
        options: What the operator chose.
        template: Of the objects.
    """

    def __init__(self, api: KubernetesClient, options: Options, template: Template) -> None:
        self._cluster = NamespaceClient(api)
        self._api = api
        self._options = options
        self._template = template
        self._plural: str | None = None

    async def engine_id(self) -> str:
        """The cluster, the namespace and the kind."""
        group, _, _ = self._template.api_version.partition("/")
        return f"{await self._cluster.engine_id()}/{self._template.kind}.{group}"

    async def close(self) -> None:
        """Hang up."""
        await self._api.close()

    # --- start ------------------------------------------------------------------------------------

    async def start(self, request: ContainerRequest) -> StartedContainer:
        """
        Make the Secrets, then the object, then give it the Secrets.

        Nothing can be said to an object of an unknown kind so that it waits for its Secrets; so
        they come first, and are found by their names again if nobody gets further.
        """
        labels = labels_of(request, self._options, author_options(request))
        manifest = self._template.fill(request, await self._api.namespace())
        metadata = manifest.setdefault("metadata", {})
        metadata |= {"name": request.name, "labels": {**(metadata.get("labels") or {}), **labels}}
        metadata.pop("namespace", None)
        try:
            await self._cluster.put_secrets(request, owner=None)
            made = await self._make(manifest)
            await self._cluster.put_secrets(request, owner=made)
        except KubernetesApiError as error:
            await self.remove(request.name)
            raise error.as_refusal() from error
        return StartedContainer(uid_of(made))

    async def _make(self, manifest: Manifest) -> Manifest:
        """Make it; the one that is there, if it is ours."""
        try:
            return dict(await self._api.call("POST", await self._objects(), body=manifest))
        except KubernetesApiError as error:
            if not error.is_there_already:
                raise
        found = await self._object(name_of(manifest))
        if found is None:
            raise EngineUnavailable("Kubernetes: the object was there a moment ago, and is not now")
        if not is_same_try(found, manifest):
            kind = self._template.kind
            raise StartRefused(FailureKind.REFUSED, f"the namespace has a {kind} {name_of(found)} of somebody else's")
        return found

    # --- look, read, stop -------------------------------------------------------------------------

    async def list_containers(self, installation: str) -> Mapping[str, ContainerStatus]:
        """All objects of the installation."""
        found = await self._api.list_all(await self._objects(), labelSelector=f"{INSTALLATION}={installation}")
        return {name_of(one): sight_object(one, self._options) for one in found}

    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        """What the pod says that the operator's selector means."""
        selector = fill_names(self._options.log_selector, name)
        pods = (
            await self._cluster.pods(",".join(f"{key}={value}" for key, value in selector.items())) if selector else []
        )
        if not pods:
            return LogRead(b"", position or "")
        pod = min(pods, key=lambda one: (str(one["metadata"].get("creationTimestamp")), name_of(one)))
        container = self._options.log_container or pod["spec"]["containers"][0]["name"]
        return await self._cluster.read_log(pod, container, position, limit_bytes=limit_bytes)

    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        """None: nobody knows where an object of an unknown kind would have them."""
        return None

    async def stop(self, name: str, *, grace_seconds: float) -> None:
        """Delete it, after all that it has made; it is seen for so long."""
        await self._delete(name, "Foreground")

    async def remove(self, name: str) -> None:
        """Delete it and its Secrets."""
        await self._delete(name, "Background")
        for secret in asdict(SecretNames.of(name)).values():
            await unless_missing(self._api.call("DELETE", await self._cluster.core("secrets", secret)))

    async def _delete(self, name: str, propagation: str) -> None:
        path = await self._objects(name)
        await unless_missing(self._api.call("DELETE", path, query={"propagationPolicy": propagation}))

    async def watch_events(self, installation: str) -> AsyncIterator[str]:
        """What happens to the objects."""
        async with aclosing(self._cluster.watch(installation, [await self._objects()])) as hints:
            async for hint in hints:
                yield hint

    # --- what is there ----------------------------------------------------------------------------

    async def _object(self, name: str) -> Manifest | None:
        return await unless_missing(self._api.call("GET", await self._objects(name)))

    async def _objects(self, name: str = "") -> str:
        """Path of them, or of one; how the API calls many of them is asked once."""
        if self._plural is None:
            self._plural = await self._ask_plural()
        return await self._cluster.grouped(self._template.api_version, self._plural, name)

    async def _ask_plural(self) -> str:
        version, kind = self._template.api_version, self._template.kind
        served = await unless_missing(self._api.call("GET", f"/apis/{version}")) or {}
        for one in served.get("resources") or ():
            if one.get("kind") == kind and "/" not in one["name"] and one.get("namespaced"):
                return str(one["name"])
        raise EngineUnavailable(
            f"Kubernetes: the cluster has no {kind} of {version} in namespaces; install its operator"
        )


# --- judging --------------------------------------------------------------------------------------


def sight_object(thing: Manifest, options: Options) -> ContainerStatus:
    """Say where a try stands, by the conditions of the operator's options."""
    seen = ContainerStatus(
        name=name_of(thing),
        job_id=_label(thing, JOB),
        phase=Phase.PENDING,
        handle=uid_of(thing),
        started_at=moment_of(_started_at(thing, options.running_when)),
    )
    if (failed := _first(thing, options.failed_when)) is not None:
        return replace(_ended(seen, failed), failure=FailureKind.EXITED)
    if (succeeded := _first(thing, options.succeeded_when)) is not None:
        return replace(_ended(seen, succeeded), exit_code=0)
    if thing["metadata"].get("deletionTimestamp"):
        return replace(seen, phase=Phase.RUNNING, note="it is being deleted")
    if not options.running_when or _first(thing, options.running_when) is not None:
        return replace(seen, phase=Phase.RUNNING)
    return replace(seen, started_at=None, note=_latest_word(thing))


def _ended(seen: ContainerStatus, met: Manifest) -> ContainerStatus:
    words = [str(met[key]) for key in ("reason", "message") if met.get(key)]
    return replace(
        seen,
        phase=Phase.EXITED,
        finished_at=moment_of(met.get("lastTransitionTime")),
        note=": ".join(words) or None,
    )


def _first(thing: Manifest, whens: Iterable[ConditionMatch]) -> Manifest | None:
    """The first condition that is met, as the object has it; a field that is met has no more to say."""
    for when in whens:
        if when.type is not None:
            for one in _conditions(thing):
                if one.get("type") == when.type and one.get("status") == when.status:
                    return one
        elif _is_met(thing, when):
            return {}
    return None


def _is_met(thing: Manifest, when: ConditionMatch) -> bool:
    value: Any = thing
    for step in (when.field or "").split("."):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, Mapping):
            value = value.get(step)
        else:
            return False
    return bool(value) if when.value is None else value == when.value


def _started_at(thing: Manifest, running_when: Iterable[ConditionMatch]) -> Any:
    met = _first(thing, running_when) or {}
    status = thing.get("status") or {}
    return met.get("lastTransitionTime") or status.get("startTime") or thing["metadata"].get("creationTimestamp")


def _latest_word(thing: Manifest) -> str | None:
    newest = max(_conditions(thing), key=lambda one: str(one.get("lastTransitionTime")), default=None)
    return None if newest is None else f"{newest.get('type')}: {newest.get('message') or newest.get('reason')}"


def _conditions(thing: Manifest) -> list[Manifest]:
    return [one for one in (thing.get("status") or {}).get("conditions") or () if isinstance(one, dict)]


def _label(thing: Manifest, name: str) -> str:
    return str((thing["metadata"].get("labels") or {}).get(name, ""))
