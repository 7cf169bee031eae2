"""
A fake Kubernetes cluster: its API server, its Job controller, and one node.

It serves the paths that Upshot uses over HTTP. It rejects every body that violates the schema that Kubernetes
publishes, or one of the rules beyond the schema. It requires a token, and the permissions of the Roles in the docs. It
runs pods: the command of a job really runs, as a process of this machine. What a process cannot do is simulated: a lost
node, an eviction, and responses that are slow or never come.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from aiohttp import web

from tests.fakes.kubernetes.node import Controllers, FakePod, Node
from tests.fakes.kubernetes.server import ApiServer, Fault, Rule
from tests.fakes.kubernetes.store import JOB, POD, Kind, Manifest, Store

T = TypeVar("T")

NAMESPACE = "jobs"
TOKEN = "the-token-of-a-service-account"
IMAGE = "shell:1"  #: its entry point is a shell
HELPER_IMAGE = "docker.io/library/busybox:1.37"
DOCS_PAGE = Path(__file__).parents[3] / "docs" / "jobs-kubernetes.md"
_CALL_SECONDS = 30


def write_kubeconfig(path: Path, server: str, **user: Any) -> str:
    """Write a kubeconfig, and return its path. Without a user, it contains the account's token."""
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
    """Return the rules of the Roles in the docs: of all Roles, or of those with the given names."""
    blocks = re.findall(r"```yml\n(.*?)```", DOCS_PAGE.read_text(), re.DOTALL)
    documents = [document for block in blocks if "apiVersion:" in block for document in yaml.safe_load_all(block)]
    rules = [
        Rule(rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", []))
        for document in documents
        if document.get("kind") in {"Role", "ClusterRole"} and (not names or document["metadata"]["name"] in names)
        for rule in document["rules"]
    ]
    assert rules
    return rules


class FakeCluster:
    """
    A cluster on its own thread. Use it in a `with` block.

    Args:
        kinds: Custom resources of the cluster.
        rules: Permissions of the account; None: those in the docs.
    """

    def __init__(self, kinds: Iterable[Kind] = (), rules: list[Rule] | None = None) -> None:
        self._kinds = list(kinds)
        self._rules = documented_rules() if rules is None else rules
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="fake-cluster")
        self._directory = tempfile.TemporaryDirectory(prefix="upshot-fake-cluster-")
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.node = Node(
            directory=Path(self._directory.name),
            images={IMAGE: ("/bin/sh",), HELPER_IMAGE: ("/bin/sh",), "quiet:1": ("/bin/true",)},
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._await(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._await(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._directory.cleanup()

    async def _start(self) -> None:
        self.store = Store(NAMESPACE)
        self.controllers = Controllers(self.store, self.node)
        self.server = ApiServer(self.store, self.controllers, TOKEN, self._rules, self._kinds)
        await self._listen()

    async def _stop(self) -> None:
        await self.controllers.close()
        await self._stop_listening()
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

    async def _stop_listening(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the cluster's thread, and return its result."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(_CALL_SECONDS)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function on the cluster's thread, and return its result."""

        async def call() -> T:
            return function(*args, **kwargs)

        return self._await(call())

    # --- access -----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """URL of the API server."""
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, directory: Path) -> str:
        """Write a kubeconfig for the cluster, and return its path."""
        return write_kubeconfig(directory / "kubeconfig", self.url)

    # --- faults -----------------------------------------------------------------------------------

    def go_down(self) -> None:
        """Stop the API server. Pods continue to run."""
        self._await(self._stop_listening())

    def come_up(self) -> None:
        """Start the API server again."""
        self._await(self._listen())

    def fail(self, pattern: str, *, times: int = 1, **fault: Any) -> None:
        """Let the next requests that match a pattern fail; see `Fault`."""
        self.call(self.server.faults.append, Fault(re.compile(pattern), times, **fault))

    def evict(self, name: str, reason: str = "Evicted", message: str = "The node was low on resource: memory.") -> None:
        """Evict a Job's pod, as a kubelet that runs out of a resource does."""
        fake_pod = self.fake_pod(name)
        self.call(fake_pod.set_condition, "DisruptionTarget", "True", "TerminationByKubelet", message)
        self.call(fake_pod.stop, reason, message, grace=0.5)

    def delete_pod(self, name: str) -> None:
        """Delete a Job's pod, as `kubectl delete pod` and `kubectl drain` do."""
        (pod,) = self.pods(name)
        self.call(self.controllers.delete_pod, pod, 1)

    def delete_job(self, name: str) -> None:
        """Delete a Job, as `kubectl delete job` does."""
        job = self.job(name)
        assert job is not None

        def delete() -> None:
            self.store.delete(JOB, job)
            self.controllers.collect_garbage(job["metadata"]["uid"])

        self.call(delete)

    def update(self, kind: Kind, name: str, **fields: Any) -> None:
        """Replace fields of an object, such as its status, as its controller does."""

        def update() -> None:
            item = self.store.get(kind, name)
            item |= fields
            self.store.record_change(kind, item)

        self.call(update)

    # --- state ------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[str]:
        """All requests so far, as `METHOD /path?query`."""
        return self.call(self.server.requests.copy)

    def items(self, kind: Kind) -> list[Manifest]:
        """Return all objects of a kind."""
        return self.call(self.store.find, kind)

    def job(self, name: str) -> Manifest | None:
        """Return a Job."""
        return self.call(self.store.get, JOB, name)

    def pods(self, name: str) -> list[Manifest]:
        """Return the pods of a container."""
        return self.call(self.store.find, POD, lambda pod: pod["metadata"]["labels"].get("upshot.container") == name)

    def fake_pod(self, name: str) -> FakePod:
        """Return what runs a Job's pod."""
        (pod,) = self.pods(name)
        return self.controllers.pods[pod["metadata"]["uid"]]
