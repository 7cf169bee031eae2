"""The stand-in's controllers and its one node: Jobs make pods, pods get a place, images, volumes, containers."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.kubernetes.containers import KILLED, CannotStart, Container, Plan
from tests.kubernetes.rules import merge
from tests.kubernetes.schemas import problems
from tests.kubernetes.store import EVENT, JOB, POD, SECRET, Store, Thing, now

NODE = "node-1"
DIGEST = "sha256:" + "0123456789abcdef" * 4
_UNITS = {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass
class Node:
    """
    What the node has.

    Args:
        folder: For the pods' volumes.
        images: Commands of images that are there, by name.
        labels: Of the node.
        room: How much of what can be asked for it has.
    """

    folder: Path
    images: dict[str, tuple[str, ...]]
    labels: dict[str, str] = field(default_factory=dict)
    room: dict[str, float] = field(default_factory=lambda: {"cpu": 4, "memory": 8 * 2**30})


class PodLife:
    """One pod, from its making to its end."""

    def __init__(self, cluster: Controllers, pod: Thing) -> None:
        self.cluster = cluster
        self.pod = pod
        self.folder = cluster.node.folder / pod["metadata"]["uid"]
        self.containers: dict[str, Container] = {}
        self.end: tuple[str, str] | None = None  #: reason and message, where something else than its command ends it
        self.ending: asyncio.Event = asyncio.Event()
        self.grace: float = pod["spec"].get("terminationGracePeriodSeconds", 30)

    # --- the life ---------------------------------------------------------------------------------

    async def live(self) -> None:
        try:
            if await self._schedule() and await self._begin():
                await self._until_end()
            await self._end_sidecars()
            self._settle()
        finally:
            for container in self.containers.values():
                container.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self, reason: str = "", message: str = "", *, grace: float | None = None) -> None:
        """End it: deleted, late, evicted."""
        if self.end is None:
            self.end = (reason, message)
        if grace is not None:
            self.grace = min(self.grace, grace)
            for container in self.containers.values() if grace <= 0 else ():
                container.kill()
        self.ending.set()

    async def _pause(self, seconds: float = 0.02) -> bool:
        """Wait a moment; False when it is to end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)
        return not self.ending.is_set()

    async def _schedule(self) -> bool:
        while obstacle := self._obstacle():
            self.condition("PodScheduled", "False", "Unschedulable", f"0/1 nodes are available: 1 {obstacle}.")
            if not await self._pause():
                return False
        self.pod["spec"]["nodeName"] = NODE
        self.condition("PodScheduled", "True")
        self.pod["status"] |= {"startTime": now(), "hostIP": "10.0.0.1"}
        self.cluster.store.touch(POD, self.pod)
        return not self.ending.is_set()

    def _obstacle(self) -> str | None:
        spec, node = self.pod["spec"], self.cluster.node
        for key, value in (spec.get("nodeSelector") or {}).items():
            if node.labels.get(key) != value:
                return "node(s) didn't match Pod's node affinity/selector"
        for container in spec["containers"]:
            for name, amount in container["resources"].get("requests", {}).items():
                if quantity(amount) > node.room.get(name, 0):
                    return f"Insufficient {name}"
        return None

    async def _begin(self) -> bool:
        """Pull, mount and start: sidecars first."""
        spec = self.pod["spec"]
        everyone = [*(spec.get("initContainers") or ()), *spec["containers"]]
        for container in everyone:
            self._state(container["name"], {"waiting": {"reason": "PodInitializing"}})
        for container in everyone:
            if not (await self._pull(container) and await self._mount() and await self._start(container)):
                return False
        self.pod["status"]["phase"] = "Running"
        self.cluster.store.touch(POD, self.pod)
        return True

    async def _pull(self, container: Thing) -> bool:
        image, name = container["image"], container["name"]
        first = True
        while image not in self.cluster.node.images:
            if not re.fullmatch(r"[\w./:@-]+", image):
                self._state(name, {"waiting": {"reason": "InvalidImageName", "message": f"couldn't parse {image!r}"}})
            elif container["imagePullPolicy"] == "Never":
                message = f'Container image "{image}" is not present with pull policy of Never'
                self._state(name, {"waiting": {"reason": "ErrImageNeverPull", "message": message}})
            else:
                message = f'Failed to pull image "{image}": not found'
                reason = "ErrImagePull" if first else "ImagePullBackOff"
                self._state(name, {"waiting": {"reason": reason, "message": message}})
                if first:
                    self.cluster.warn(self.pod, "Failed", message)
            first = False
            if not await self._pause():
                return False
        return True

    async def _mount(self) -> bool:
        """Make the volumes; a Secret that is not there is waited for."""
        for volume in self.pod["spec"].get("volumes") or ():
            folder = self.folder / "volumes" / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
            if "secret" not in volume:
                folder.chmod(0o777)
                continue
            while (secret := self.cluster.store.get(SECRET, volume["secret"]["secretName"])) is None:
                self.cluster.warn(self.pod, "FailedMount", f'secret "{volume["secret"]["secretName"]}" not found')
                if not await self._pause():
                    return False
            for item in volume["secret"]["items"]:
                path = folder / item["path"]
                path.write_bytes(base64.b64decode(secret["data"][item["key"]]))
                path.chmod(volume["secret"]["defaultMode"])
        return True

    async def _start(self, container: Thing) -> bool:
        name = container["name"]
        while (env := self._env(container)) is None:
            message = "secret not found"
            self._state(name, {"waiting": {"reason": "CreateContainerConfigError", "message": message}})
            self.cluster.warn(self.pod, "Failed", message)
            if not await self._pause():
                return False
        entry = list(container.get("command") or self.cluster.node.images[container["image"]])
        argv = [expand(word, env) for word in [*entry, *(container.get("args") or ())]]
        memory = container["resources"].get("limits", {}).get("memory")
        plan = Plan(
            argv=argv,
            env=env,
            folders=self._folders(container),
            root=self.folder / "root" / name,
            workdir=container.get("workingDir"),
            memory_bytes=int(quantity(memory)) if memory and not container.get("restartPolicy") else None,
        )
        self.containers[name] = running = Container(plan)
        try:
            await running.start()
        except CannotStart as error:
            end = {"exitCode": 128, "reason": "StartError", "message": str(error), "finishedAt": now()}
            self._state(name, {"terminated": {**end, "startedAt": "1970-01-01T00:00:00Z"}})
            del self.containers[name]
            return False
        self._state(name, {"running": {"startedAt": running.started_at}})
        return True

    def _env(self, container: Thing) -> dict[str, str] | None:
        env: dict[str, str] = {}
        for source in container.get("envFrom") or ():
            secret = self.cluster.store.get(SECRET, source["secretRef"]["name"])
            if secret is None:
                return None
            env |= {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        return env

    def _folders(self, container: Thing) -> dict[str, Path]:
        folders: dict[str, Path] = {}
        for mount in container.get("volumeMounts") or ():
            folder = self.folder / "volumes" / mount["name"]
            folders[mount["mountPath"]] = folder / mount["subPath"] if "subPath" in mount else folder
        return folders

    async def _until_end(self) -> None:
        """Wait for the command, for the deadline, or for whoever stops it."""
        main = self.containers[self.pod["spec"]["containers"][0]["name"]]
        wait = asyncio.ensure_future(main.wait())
        while not wait.done() and not self.ending.is_set():
            stop = asyncio.ensure_future(self.ending.wait())
            await asyncio.wait([wait, stop], timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if self._is_late():
                self.stop("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        if not wait.done():
            await main.stop(self.grace)
        await wait
        self._state(main_name(self.pod), {"terminated": terminated(main)})

    async def _end_sidecars(self) -> None:
        for container in self.pod["spec"].get("initContainers") or ():
            if (sidecar := self.containers.get(container["name"])) is not None:
                await sidecar.settled()
                await sidecar.stop(max(2.0, self.grace))
                self._state(container["name"], {"terminated": terminated(sidecar)})

    def _is_late(self) -> bool:
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        began = datetime.fromisoformat(self.pod["status"]["startTime"])
        return deadline is not None and datetime.now(UTC) - began > timedelta(seconds=deadline)

    def _settle(self) -> None:
        """Write the phase; drop the pod, if it was deleted."""
        status = self.pod["status"]
        main = next((one for one in status.get("containerStatuses", ()) if one["name"] == main_name(self.pod)), None)
        code = ((main or {}).get("state", {}).get("terminated") or {}).get("exitCode")
        reason, message = self.end or ("", "")
        status["phase"] = "Succeeded" if code == 0 and not reason else "Failed"
        if reason:
            status |= {"reason": reason, "message": message}
        self.cluster.store.touch(POD, self.pod)
        assert not problems("v1/Pod", self.pod), problems("v1/Pod", self.pod)

    # --- status -----------------------------------------------------------------------------------

    def _state(self, name: str, state: Thing) -> None:
        """Write what a container does; nothing, if that is known."""
        sidecars = {container["name"] for container in self.pod["spec"].get("initContainers") or ()}
        container = next(
            one
            for one in [*(self.pod["spec"].get("initContainers") or ()), *self.pod["spec"]["containers"]]
            if one["name"] == name
        )
        image = container["image"]
        known = image in self.cluster.node.images and "waiting" not in state
        status = {
            "name": name,
            "state": state,
            "ready": "running" in state,
            "restartCount": 0,
            "image": image,
            "imageID": f"docker.io/library/{image}@{DIGEST}" if known else "",
        }
        statuses = self.pod["status"].setdefault(
            "initContainerStatuses" if name in sidecars else "containerStatuses", []
        )
        before = next((one for one in statuses if one["name"] == name), None)
        if before == status:
            return
        if before is None:
            statuses.append(status)
        else:
            statuses[statuses.index(before)] = status
        self.cluster.store.touch(POD, self.pod)

    def condition(self, kind: str, status: str, reason: str = "", message: str = "") -> None:
        new = {"type": kind, "status": status, "reason": reason, "message": message}
        conditions = self.pod["status"].setdefault("conditions", [])
        before = next((one for one in conditions if one["type"] == kind), None)
        if before is not None and {key: before[key] for key in new} == new:
            return
        if before is not None:
            conditions.remove(before)
        conditions.append({**new, "lastTransitionTime": now()})
        self.cluster.store.touch(POD, self.pod)


class Controllers:
    """What makes pods of Jobs and removes what belongs to nobody any more."""

    def __init__(self, store: Store, node: Node) -> None:
        self.store = store
        self.node = node
        self.pods: dict[str, PodLife] = {}  #: by UID
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self.makes_pods = True

    # --- jobs -------------------------------------------------------------------------------------

    def reconcile(self, job: Thing) -> None:
        """See to a Job that was made or changed."""
        pods = [thing for kind, thing in self.store.owned_by(job["metadata"]["uid"]) if kind == POD]
        status = job.setdefault("status", {})
        if status.get("conditions") and any(one["type"] in {"Complete", "Failed"} for one in status["conditions"]):
            return
        if job["spec"].get("suspend"):
            for pod in pods:
                if not is_over(pod):
                    self.delete_pod(pod, None)
        elif not pods and self.makes_pods:
            self._make_pod(job)

    def _make_pod(self, job: Thing) -> None:
        name = f"{job['metadata']['name']}-{next(self._numbers):05x}"
        template = job["spec"]["template"]
        labels = {**template["metadata"].get("labels", {}), "batch.kubernetes.io/job-name": job["metadata"]["name"]}
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        metadata = {
            "name": name,
            "labels": labels,
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [owner],
        }
        self.make_pod({"metadata": metadata, "spec": merge({}, template["spec"]), "status": {"phase": "Pending"}})
        job["status"] |= {"startTime": now(), "active": 1}
        self.store.touch(JOB, job)

    def make_pod(self, pod: Thing) -> Thing:
        """Let a pod live."""
        pod = self.store.add(POD, pod)
        found = problems("v1/Pod", pod)
        assert not found, found
        life = self.pods[pod["metadata"]["uid"]] = PodLife(self, pod)
        self._keep(self._live(life))
        return pod

    async def _live(self, life: PodLife) -> None:
        await life.live()
        pod = life.pod
        is_deleted = "deletionTimestamp" in pod["metadata"]
        for owner in pod["metadata"].get("ownerReferences") or ():
            job = self.store.get(JOB, owner["name"])
            if job is not None and job["metadata"]["uid"] == owner["uid"]:
                self._account(job, pod)
        if is_deleted:
            self.store.drop(POD, pod)

    def _account(self, job: Thing, pod: Thing) -> None:
        if job["spec"].get("suspend"):
            job["status"].pop("active", None)
            self.store.touch(JOB, job)
            return
        if pod["status"]["phase"] == "Succeeded":
            self.finish(job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
        else:
            self.finish(job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def finish(self, job: Thing, kind: str, reason: str, message: str) -> None:
        job["status"].pop("active", None)
        job["status"].setdefault("conditions", []).append(
            {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        )
        self.store.touch(JOB, job)
        assert not problems("batch/v1/Job", job), problems("batch/v1/Job", job)

    # --- deletion ---------------------------------------------------------------------------------

    def delete_pod(self, pod: Thing, grace: float | None) -> None:
        """Deleted gracefully, a pod is seen until it has ended; with no grace, it is gone at once."""
        life = self.pods.get(pod["metadata"]["uid"])
        usual = pod["spec"].get("terminationGracePeriodSeconds", 30)
        seconds = usual if grace is None else grace
        if is_over(pod) or life is None or seconds == 0:
            if life is not None:
                life.stop(grace=0)
            self.store.drop(POD, pod)
            return
        moment = datetime.now(UTC) + timedelta(seconds=seconds)
        pod["metadata"] |= {
            "deletionTimestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "deletionGracePeriodSeconds": int(seconds),
        }
        self.store.touch(POD, pod)
        life.stop(grace=seconds)

    def collect(self, uid: str) -> None:
        """Remove what belonged to something that is gone."""
        for kind, thing in self.store.owned_by(uid):
            if kind == POD:
                self.delete_pod(thing, None)
            else:
                self.store.drop(kind, thing)

    # --- what happens to pods ---------------------------------------------------------------------

    def warn(self, thing: Thing, reason: str, message: str, *, minutes: float = 0) -> None:
        """A Warning about something, which has been so for a while."""
        first = datetime.now(UTC) - timedelta(minutes=minutes)
        key = f"{thing['metadata']['name']}.{abs(hash((reason, message))):x}"
        about = {"kind": thing["kind"], "name": thing["metadata"]["name"], "uid": thing["metadata"]["uid"]}
        if (before := self.store.get(EVENT, key)) is not None:
            before |= {"lastTimestamp": now(), "count": before["count"] + 1}
            self.store.touch(EVENT, before)
            return
        event = {
            "metadata": {"name": key},
            "involvedObject": {**about, "namespace": self.store.namespace},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": first.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lastTimestamp": now(),
        }
        kept = self.store.add(EVENT, event)
        assert not problems("v1/Event", kept), problems("v1/Event", kept)

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Everything ends."""
        for life in self.pods.values():
            life.stop(grace=0)
        for task in list(self._tasks):
            with suppress(asyncio.CancelledError):
                await task


def main_name(pod: Thing) -> str:
    return str(pod["spec"]["containers"][0]["name"])


def is_over(pod: Thing) -> bool:
    return pod["status"]["phase"] in {"Succeeded", "Failed"}


def terminated(container: Container) -> Thing:
    return {
        "exitCode": KILLED if container.exit_code is None else container.exit_code,
        "reason": container.reason or "Error",
        "startedAt": container.started_at,
        "finishedAt": container.finished_at,
    }


def quantity(text: str) -> float:
    """1500m, 64Mi, 2 as a number."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert found, text
    return float(found[1]) * _UNITS[found[2]]


def expand(word: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` becomes its value, `$$` a dollar, as Kubernetes has it."""

    def pieces() -> Iterator[str]:
        at = 0
        while at < len(word):
            if word.startswith("$$", at):
                yield "$"
                at += 2
            elif (found := re.compile(r"\$\(([^)]*)\)").match(word, at)) is not None:
                yield env.get(found[1], found[0])
                at = found.end()
            else:
                yield word[at]
                at += 1

    return "".join(pieces())
