"""
A stand-in for a Kubernetes cluster: its API server, its Job controller, and one node.

It speaks over HTTP the paths that we use; refuses every body that breaks the schema that Kubernetes
publishes, or one of the rules beyond it; asks for a token, and for the rights of the Role in our
docs; and lets pods live: a job's command really runs, as a process of this machine. What cannot be
had so is played: a node that goes away, an eviction, answers that are slow or never come.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from aiohttp import web

from tests.kubernetes.node import Controllers, Node, PodLife
from tests.kubernetes.server import ApiServer, Fault, Rule
from tests.kubernetes.store import JOB, POD, Kind, Store, Thing

T = TypeVar("T")

NAMESPACE = "jobs"
TOKEN = "the-token-of-a-service-account"
IMAGE = "shell:1"  #: its command is a shell
HELPER_IMAGE = "docker.io/library/busybox:1.37"
PAGE = Path(__file__).parents[2] / "docs" / "jobs-kubernetes.md"


def write_kubeconfig(path: Path, server: str, **user: Any) -> str:
    """A file as kubectl has it; with our account's token, unless told otherwise."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


def documented_rules(*names: str) -> list[Rule]:
    """What the Roles of our docs allow; all of them, or those of these names."""
    roles = [one for one in _documents() if one.get("kind") in {"Role", "ClusterRole"}]
    rules = [
        Rule(rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", []))
        for role in roles
        if not names or role["metadata"]["name"] in names
        for rule in role["rules"]
    ]
    assert rules
    return rules


def _documents() -> list[Thing]:
    """All YAML of the page that is of Kubernetes."""
    blocks = re.findall(r"```yml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [one for block in blocks if "apiVersion:" in block for one in yaml.safe_load_all(block)]


class StandIn:
    """
    A cluster, from `with` to its end, on a thread of its own.

    Args:
        kinds: Custom resources that it knows.
        rules: What our account may do; None: what the docs say.
    """

    def __init__(self, kinds: Iterable[Kind] = (), rules: list[Rule] | None = None) -> None:
        self._kinds = list(kinds)
        self._rules = documented_rules() if rules is None else rules
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="stand-in")
        self._folder = tempfile.TemporaryDirectory(prefix="upshot-stand-in-")
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.node = Node(
            folder=Path(self._folder.name),
            images={IMAGE: ("/bin/sh",), HELPER_IMAGE: ("/bin/sh",), "quiet:1": ("/bin/true",)},
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()

    async def _begin(self) -> None:
        self.store = Store(NAMESPACE)
        self.controllers = Controllers(self.store, self.node)
        self.server = ApiServer(self.store, self.controllers, TOKEN, self._rules, self._kinds)
        await self._listen()

    async def _end(self) -> None:
        await self.controllers.close()
        await self._hang_up()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        self._runner = web.AppRunner(self.server.app(), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _hang_up(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def run(self, work: Awaitable[T]) -> T:
        """Do something on the cluster's own thread."""

        async def doing() -> T:
            return await work

        future: Future[T] = asyncio.run_coroutine_threadsafe(doing(), self._loop)
        return future.result(30)

    def do(self, work: Callable[..., T], *args: Any, **more: Any) -> T:
        """The same, of a function."""

        async def doing() -> T:
            return work(*args, **more)

        return self.run(doing())

    # --- how it is reached ------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, folder: Path) -> str:
        """A file that leads here."""
        return write_kubeconfig(folder / "kubeconfig", self.url)

    # --- what happens -----------------------------------------------------------------------------

    def go_away(self) -> None:
        """Stop to answer; what runs goes on."""
        self.run(self._hang_up())

    def come_back(self) -> None:
        self.run(self._listen())

    def fault(self, what: str, *, times: int = 1, **more: Any) -> None:
        """Let the next requests that look so go wrong; see `Fault`."""
        self.do(self.server.faults.append, Fault(re.compile(what), times, **more))

    @property
    def asked(self) -> list[str]:
        return self.do(self.server.asked.copy)

    def job(self, name: str) -> Thing | None:
        return self.do(self.store.get, JOB, name)

    def pods(self, name: str) -> list[Thing]:
        return self.do(self.store.all, POD, lambda pod: pod["metadata"]["labels"].get("upshot.container") == name)

    def life(self, name: str) -> PodLife:
        """The life of a Job's pod."""
        (pod,) = self.pods(name)
        return self.controllers.pods[pod["metadata"]["uid"]]

    def evict(self, name: str, reason: str = "Evicted", message: str = "The node was low on resource: memory.") -> None:
        """Take the place back, as a kubelet that is short of something does."""
        life = self.life(name)
        self.do(life.condition, "DisruptionTarget", "True", "TerminationByKubelet", message)
        self.do(life.stop, reason, message, grace=0.5)

    def delete_pod(self, name: str) -> None:
        """As `kubectl delete pod` does, or `kubectl drain`."""
        (pod,) = self.pods(name)
        self.do(self.controllers.delete_pod, pod, 1)

    def delete_job(self, name: str) -> None:
        """As `kubectl delete job` does."""
        job = self.job(name)
        assert job is not None

        def delete() -> None:
            self.store.drop(JOB, job)
            self.controllers.collect(job["metadata"]["uid"])

        self.do(delete)

    def change(self, kind: Kind, name: str, **fields: Any) -> None:
        """Write fields of an object, as its operator does: `status={…}`."""

        def write() -> None:
            thing = self.store.get(kind, name)
            thing |= fields
            self.store.touch(kind, thing)

        self.do(write)
