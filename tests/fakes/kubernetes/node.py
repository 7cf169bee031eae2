"""The controllers and the one node of the fake cluster: they create pods for Jobs, and run the pods' containers."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.fakes.kubernetes.containers import KILLED, CannotStart, FakeContainer, ProcessSpec
from tests.fakes.kubernetes.rules import merge
from tests.fakes.kubernetes.schemas import schema_errors
from tests.fakes.kubernetes.store import EVENT, JOB, POD, SECRET, Manifest, Store, now

NODE = "node-1"
DIGEST = "sha256:" + "0123456789abcdef" * 4
_POLL_SECONDS = 0.02
_UNITS = {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_EXPANSION = re.compile(r"\$\$|\$\(([^)]*)\)")


@dataclass
class Node:
    """
    The node's resources.

    Args:
        directory: For the volumes of its pods.
        images: Images on the node, with their entry points, by name.
        labels: Labels of the node.
        capacity: Amounts by resource.
    """

    directory: Path
    images: dict[str, tuple[str, ...]]
    labels: dict[str, str] = field(default_factory=dict)
    capacity: dict[str, float] = field(default_factory=lambda: {"cpu": 4, "memory": 8 * 2**30})


class FakePod:
    """One pod, from its creation to its end."""

    def __init__(self, controllers: Controllers, pod: Manifest) -> None:
        self.controllers = controllers
        self.store = controllers.store
        self.node = controllers.node
        self.pod = pod
        self.directory = self.node.directory / pod["metadata"]["uid"]
        self.containers: dict[str, FakeContainer] = {}
        self.stop_reason: tuple[str, str] | None = None  #: reason and message; set if the pod was stopped from outside
        self.stopping: asyncio.Event = asyncio.Event()
        self.grace: float = pod["spec"].get("terminationGracePeriodSeconds", 30)

    # --- lifecycle --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the pod to its end."""
        try:
            if await self._schedule() and await self._start_containers():
                await self._wait_for_main_container()
            await self._stop_sidecars()
            self._set_final_phase()
        finally:
            for container in self.containers.values():
                container.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    def stop(self, reason: str = "", message: str = "", *, grace: float | None = None) -> None:
        """Stop the pod because it was deleted or evicted, or because its deadline has passed."""
        if self.stop_reason is None:
            self.stop_reason = (reason, message)
        if grace is not None:
            self.grace = min(self.grace, grace)
            for container in self.containers.values() if grace <= 0 else ():
                container.kill()
        self.stopping.set()

    async def _sleep(self) -> bool:
        """Wait a moment. Return False if the pod is being stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), _POLL_SECONDS)
        return not self.stopping.is_set()

    async def _schedule(self) -> bool:
        while problem := self._scheduling_problem():
            self.set_condition("PodScheduled", "False", "Unschedulable", f"0/1 nodes are available: 1 {problem}.")
            if not await self._sleep():
                return False
        self.pod["spec"]["nodeName"] = NODE
        self.set_condition("PodScheduled", "True")
        self.pod["status"] |= {"startTime": now(), "hostIP": "10.0.0.1"}
        self.store.record_change(POD, self.pod)
        return not self.stopping.is_set()

    def _scheduling_problem(self) -> str | None:
        spec = self.pod["spec"]
        for key, value in (spec.get("nodeSelector") or {}).items():
            if self.node.labels.get(key) != value:
                return "node(s) didn't match Pod's node affinity/selector"
        for container in spec["containers"]:
            for name, amount in container["resources"].get("requests", {}).items():
                if parse_quantity(amount) > self.node.capacity.get(name, 0):
                    return f"Insufficient {name}"
        return None

    async def _start_containers(self) -> bool:
        """Pull, mount and start, init containers first. Return False if that stopped in between."""
        spec = self.pod["spec"]
        containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
        for container in containers:
            self._set_state(container["name"], {"waiting": {"reason": "PodInitializing"}})
        for container in containers:
            if not (await self._pull(container) and await self._mount() and await self._start(container)):
                return False
            if container not in spec["containers"] and not container.get("restartPolicy"):
                running = self.containers.pop(container["name"])
                await self._wait_or_stop(running)
                self._set_state(container["name"], {"terminated": terminated_state(running)})
                if running.exit_code != 0 or self.stopping.is_set():
                    return False
        self.pod["status"]["phase"] = "Running"
        self.store.record_change(POD, self.pod)
        return True

    async def _pull(self, container: Manifest) -> bool:
        image, name = container["image"], container["name"]
        is_first = True
        while image not in self.node.images:
            if not re.fullmatch(r"[\w./:@-]+", image):
                reason, message = "InvalidImageName", f"couldn't parse {image!r}"
            elif container["imagePullPolicy"] == "Never":
                reason = "ErrImageNeverPull"
                message = f'Container image "{image}" is not present with pull policy of Never'
            else:
                reason = "ErrImagePull" if is_first else "ImagePullBackOff"
                message = f'Failed to pull image "{image}": not found'
                if is_first:
                    self.controllers.warn(self.pod, "Failed", message)
            self._set_state(name, {"waiting": {"reason": reason, "message": message}})
            is_first = False
            if not await self._sleep():
                return False
        return True

    async def _mount(self) -> bool:
        """Create the volumes. Wait for a Secret that does not exist."""
        for volume in self.pod["spec"].get("volumes") or ():
            directory = self.directory / "volumes" / volume["name"]
            directory.mkdir(parents=True, exist_ok=True)
            if "secret" not in volume:
                directory.chmod(0o777)
                continue
            secret_name = volume["secret"]["secretName"]
            while (secret := self.store.get(SECRET, secret_name)) is None:
                self.controllers.warn(self.pod, "FailedMount", f'secret "{secret_name}" not found')
                if not await self._sleep():
                    return False
            for item in volume["secret"]["items"]:
                path = directory / item["path"]
                path.write_bytes(base64.b64decode(secret["data"][item["key"]]))
                path.chmod(volume["secret"]["defaultMode"])
        return True

    async def _start(self, container: Manifest) -> bool:
        name = container["name"]
        while (env := self._environment(container)) is None:
            message = "secret not found"
            self._set_state(name, {"waiting": {"reason": "CreateContainerConfigError", "message": message}})
            self.controllers.warn(self.pod, "Failed", message)
            if not await self._sleep():
                return False
        command = [*(container.get("command") or self.node.images[container["image"]]), *(container.get("args") or ())]
        mounts = {}
        for mount in container.get("volumeMounts") or ():
            directory = self.directory / "volumes" / mount["name"]
            mounts[mount["mountPath"]] = directory / mount["subPath"] if "subPath" in mount else directory
        memory = container["resources"].get("limits", {}).get("memory")
        spec = ProcessSpec(
            argv=[expand(word, env) for word in command],
            env=env,
            mounts=mounts,
            root=self.directory / "root" / name,
            workdir=container.get("workingDir"),
            memory_bytes=int(parse_quantity(memory)) if memory and not container.get("restartPolicy") else None,
        )
        running = FakeContainer(spec)
        try:
            await running.start()
        except CannotStart as error:
            terminated = {"exitCode": 128, "reason": "StartError", "message": str(error), "finishedAt": now()}
            self._set_state(name, {"terminated": {**terminated, "startedAt": "1970-01-01T00:00:00Z"}})
            return False
        self.containers[name] = running
        self._set_state(name, {"running": {"startedAt": running.started_at}})
        return True

    def _environment(self, container: Manifest) -> dict[str, str] | None:
        env: dict[str, str] = {}
        for source in container.get("envFrom") or ():
            secret = self.store.get(SECRET, source["secretRef"]["name"])
            if secret is None:
                return None
            env |= {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        return env | {variable["name"]: variable["value"] for variable in container.get("env") or ()}

    async def _wait_for_main_container(self) -> None:
        name = main_container_name(self.pod)
        await self._wait_or_stop(self.containers[name])
        self._set_state(name, {"terminated": terminated_state(self.containers[name])})

    async def _wait_or_stop(self, container: FakeContainer) -> None:
        """Wait until a container exits, the deadline passes, or the pod is stopped."""
        exited = asyncio.ensure_future(container.wait())
        while not exited.done() and not self.stopping.is_set():
            stopping = asyncio.ensure_future(self.stopping.wait())
            await asyncio.wait([exited, stopping], timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            deadline = self.pod["spec"].get("activeDeadlineSeconds")
            age = datetime.now(UTC) - datetime.fromisoformat(self.pod["status"]["startTime"])
            if deadline is not None and age > timedelta(seconds=deadline):
                self.stop("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        if not exited.done():
            await container.stop(self.grace)
        await exited

    async def _stop_sidecars(self) -> None:
        for container in self.pod["spec"].get("initContainers") or ():
            if (sidecar := self.containers.get(container["name"])) is not None:
                await sidecar.wait_for_signal_handler()
                await sidecar.stop(max(2.0, self.grace))
                self._set_state(container["name"], {"terminated": terminated_state(sidecar)})

    def _set_final_phase(self) -> None:
        status = self.pod["status"]
        container = _by_field(status.get("containerStatuses", ()), "name", main_container_name(self.pod)) or {}
        code = (container.get("state", {}).get("terminated") or {}).get("exitCode")
        reason, message = self.stop_reason or ("", "")
        status["phase"] = "Succeeded" if code == 0 and not reason else "Failed"
        if reason:
            status |= {"reason": reason, "message": message}
        self.store.record_change(POD, self.pod)
        assert not (errors := schema_errors("v1/Pod", self.pod)), errors

    # --- status -----------------------------------------------------------------------------------

    def _set_state(self, name: str, state: Manifest) -> None:
        """Write the state of a container into the pod's status, unless it is there already."""
        sidecars = self.pod["spec"].get("initContainers") or []
        container = _by_field([*sidecars, *self.pod["spec"]["containers"]], "name", name)
        image = container["image"]
        is_pulled = image in self.node.images and "waiting" not in state
        status = {
            "name": name,
            "state": state,
            "ready": "running" in state,
            "restartCount": 0,
            "image": image,
            "imageID": f"docker.io/library/{image}@{DIGEST}" if is_pulled else "",
        }
        field_name = "initContainerStatuses" if container in sidecars else "containerStatuses"
        statuses = self.pod["status"].setdefault(field_name, [])
        previous = _by_field(statuses, "name", name)
        if previous == status:
            return
        if previous is None:
            statuses.append(status)
        else:
            statuses[statuses.index(previous)] = status
        self.store.record_change(POD, self.pod)

    def set_condition(self, kind: str, status: str, reason: str = "", message: str = "") -> None:
        """Write a condition into the pod's status, unless it is there already."""
        condition = {"type": kind, "status": status, "reason": reason, "message": message}
        conditions = self.pod["status"].setdefault("conditions", [])
        previous = _by_field(conditions, "type", kind)
        if previous is not None and {key: previous[key] for key in condition} == condition:
            return
        if previous is not None:
            conditions.remove(previous)
        conditions.append({**condition, "lastTransitionTime": now()})
        self.store.record_change(POD, self.pod)


class Controllers:
    """The Job controller, the garbage collector, and the kubelet's pods."""

    def __init__(self, store: Store, node: Node) -> None:
        self.store = store
        self.node = node
        self.pods: dict[str, FakePod] = {}  #: by UID
        self.creates_pods = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)

    # --- jobs -------------------------------------------------------------------------------------

    def reconcile(self, job: Manifest) -> None:
        """Create or delete the pod of a Job that was created or changed."""
        pods = [item for kind, item in self.store.owned_by(job["metadata"]["uid"]) if kind == POD]
        conditions = job.setdefault("status", {}).get("conditions") or ()
        if any(condition["type"] in {"Complete", "Failed"} for condition in conditions):
            return
        if job["spec"].get("suspend"):
            for pod in pods:
                if not is_finished(pod):
                    self.delete_pod(pod, None)
        elif not pods and self.creates_pods:
            self._create_pod_for(job)

    def _create_pod_for(self, job: Manifest) -> None:
        name, template = job["metadata"]["name"], job["spec"]["template"]
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": name,
            "uid": job["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        metadata = {
            "name": f"{name}-{next(self._numbers):05x}",
            "labels": {**template["metadata"].get("labels", {}), "batch.kubernetes.io/job-name": name},
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [owner],
        }
        self.create_pod({"metadata": metadata, "spec": merge({}, template["spec"]), "status": {"phase": "Pending"}})
        job["status"] |= {"startTime": now(), "active": 1}
        self.store.record_change(JOB, job)

    def create_pod(self, pod: Manifest) -> Manifest:
        """Create a pod and run it."""
        pod = self.store.create(POD, pod)
        assert not (errors := schema_errors("v1/Pod", pod)), errors
        fake_pod = self.pods[pod["metadata"]["uid"]] = FakePod(self, pod)
        task = asyncio.get_running_loop().create_task(self._run_pod(fake_pod))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return pod

    async def _run_pod(self, fake_pod: FakePod) -> None:
        await fake_pod.run()
        pod = fake_pod.pod
        is_deleted = "deletionTimestamp" in pod["metadata"]
        for owner in pod["metadata"].get("ownerReferences") or ():
            job = self.store.get(JOB, owner["name"])
            if job is not None and job["metadata"]["uid"] == owner["uid"]:
                self._update_job(job, pod)
        if is_deleted:
            self.store.delete(POD, pod)

    def _update_job(self, job: Manifest, pod: Manifest) -> None:
        job["status"].pop("active", None)
        if not job["spec"].get("suspend"):
            kind, reason, message = "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
            if pod["status"]["phase"] == "Succeeded":
                kind, reason = "Complete", "CompletionsReached"
                message = "Reached expected number of succeeded pods"
            job["status"].setdefault("conditions", []).append(
                {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
            )
            assert not (errors := schema_errors("batch/v1/Job", job)), errors
        self.store.record_change(JOB, job)

    # --- deletion ---------------------------------------------------------------------------------

    def delete_pod(self, pod: Manifest, grace: float | None) -> None:
        """Delete a pod. It exists until its containers have ended, unless the grace period is 0."""
        fake_pod = self.pods.get(pod["metadata"]["uid"])
        seconds = pod["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
        if is_finished(pod) or fake_pod is None or seconds == 0:
            if fake_pod is not None:
                fake_pod.stop(grace=0)
            self.store.delete(POD, pod)
            return
        deleted_at = datetime.now(UTC) + timedelta(seconds=seconds)
        pod["metadata"] |= {
            "deletionTimestamp": deleted_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "deletionGracePeriodSeconds": int(seconds),
        }
        self.store.record_change(POD, pod)
        fake_pod.stop(grace=seconds)

    def collect_garbage(self, uid: str) -> None:
        """Delete the objects that belonged to a deleted object."""
        for kind, item in self.store.owned_by(uid):
            if kind == POD:
                self.delete_pod(item, None)
            else:
                self.store.delete(kind, item)

    # --- events -----------------------------------------------------------------------------------

    def warn(self, item: Manifest, reason: str, message: str, *, minutes: float = 0) -> None:
        """Record an event of type Warning about an object, which first happened some minutes ago."""
        first = datetime.now(UTC) - timedelta(minutes=minutes)
        name = f"{item['metadata']['name']}.{abs(hash((reason, message))):x}"
        if (previous := self.store.get(EVENT, name)) is not None:
            previous |= {"lastTimestamp": now(), "count": previous["count"] + 1}
            self.store.record_change(EVENT, previous)
            return
        about = {"kind": item["kind"], "name": item["metadata"]["name"], "uid": item["metadata"]["uid"]}
        event = {
            "metadata": {"name": name},
            "involvedObject": {**about, "namespace": self.store.namespace},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": first.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lastTimestamp": now(),
        }
        created = self.store.create(EVENT, event)
        assert not (errors := schema_errors("v1/Event", created)), errors

    async def close(self) -> None:
        """Kill all pods."""
        for fake_pod in self.pods.values():
            fake_pod.stop(grace=0)
        for task in list(self._tasks):
            with suppress(asyncio.CancelledError):
                await task


def main_container_name(pod: Manifest) -> str:
    """Return the name of the pod's main container."""
    return str(pod["spec"]["containers"][0]["name"])


def is_finished(pod: Manifest) -> bool:
    """Return whether the pod's phase is final."""
    return pod["status"]["phase"] in {"Succeeded", "Failed"}


def terminated_state(container: FakeContainer) -> Manifest:
    """Return the state `terminated` of an exited container."""
    return {
        "exitCode": KILLED if container.exit_code is None else container.exit_code,
        "reason": container.reason or "Error",
        "startedAt": container.started_at,
        "finishedAt": container.finished_at,
    }


def parse_quantity(text: str) -> float:
    """Parse 1500m, 64Mi or 2."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert found, text
    return float(found[1]) * _UNITS[found[2]]


def expand(word: str, env: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value, and `$$` by a dollar sign, as Kubernetes does in commands."""
    return _EXPANSION.sub(lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]), word)


def _by_field(items: Any, name: str, value: str) -> Any:
    return next((item for item in items if item[name] == value), None)
