"""What both Kubernetes backends need: the cluster's identity, pods and their logs, Secrets, and watches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress

import orjson

from upshot.backends.kubernetes.api import APPLY_PATCH, KubernetesApiError, KubernetesClient, Query
from upshot.backends.kubernetes.logs import Position, newest_text, next_position, parse_lines, unread_lines
from upshot.backends.kubernetes.manifests import Manifest, secret_manifests
from upshot.backends.kubernetes.status import WarningEvents, is_evicted, name_of
from upshot.backends.protocol import (
    CONTAINER_LABEL,
    INSTALLATION_LABEL,
    ContainerRequest,
    EngineUnavailable,
    LogRead,
)

LOG_SECONDS = 8.0  # for one read of a log; what comes later is read the next time
MAX_LOG_BYTES = 16 * 1024 * 1024  # in memory for one read; by default a kubelet keeps 10 MB of a container's log
WATCH_SECONDS = 240  # after which the server ends a watch, and the next one begins
MAX_WARNINGS = 1000
FIELD_MANAGER = "upshot"  # the owner of fields that are applied

_BAD_REQUEST = 400


class NamespaceClient:
    """
    One namespace of a cluster.

    Args:
        api: Client of its API server.
    """

    def __init__(self, api: KubernetesClient) -> None:
        self.api = api

    async def engine_id(self) -> str:
        """Return the id of the namespace kube-system, which identifies the cluster, or its URL if that is forbidden."""
        namespace = await self.api.namespace()
        try:
            system = await self.api.request_json("GET", "/api/v1/namespaces/kube-system")
        except KubernetesApiError:
            return f"kubernetes:{await self.api.server()}/{namespace}"
        return f"kubernetes:{system['metadata']['uid']}/{namespace}"

    async def core_path(self, plural: str, name: str = "") -> str:
        """Return the path of the namespace's pods, secrets or events, or of one of them."""
        path = f"/api/v1/namespaces/{await self.api.namespace()}/{plural}"
        return f"{path}/{name}" if name else path

    async def group_path(self, group_version: str, plural: str, name: str = "") -> str:
        """Return the path of the namespace's objects of an API group, or of one of them."""
        path = f"/apis/{group_version}/namespaces/{await self.api.namespace()}/{plural}"
        return f"{path}/{name}" if name else path

    async def pods(self, selector: str) -> list[Manifest]:
        """Return all pods that a label selector matches."""
        return await self.api.list_all(await self.core_path("pods"), labelSelector=selector)

    async def warnings(self) -> WarningEvents:
        """Return the namespace's events of type Warning; none if the account may not list them."""
        query: Query = {"fieldSelector": "type=Warning", "limit": MAX_WARNINGS}
        try:
            page = await self.api.request_json("GET", await self.core_path("events"), query=query)
        except KubernetesApiError:
            return WarningEvents.of(())
        return WarningEvents.of(page.get("items") or ())

    async def apply_secrets(self, request: ContainerRequest, owner: Manifest | None) -> None:
        """Create the Secrets of an attempt, or update those that exist."""
        for secret in secret_manifests(request, owner):
            path = await self.core_path("secrets", name_of(secret))
            query = {"fieldManager": FIELD_MANAGER, "force": "true"}
            await self.api.request_json("PATCH", path, query=query, body=secret, content_type=APPLY_PATCH)

    # --- logs -------------------------------------------------------------------------------------

    async def read_log(self, pod: Manifest, container: str, position: str | None, *, limit_bytes: int) -> LogRead:
        """Read a container's log from a position on; see `Backend.read_log`."""
        before = Position.parse(position)
        query: dict[str, str | int] = {"container": container, "timestamps": "true"}
        query["tailLines"] = limit_bytes  # a line has at least one byte
        if before is not None:
            query["sinceTime"] = before.since
        log = await self._request_log(pod, query)
        if log is None:
            return LogRead(b"", position or "")
        text, is_log_cut = log
        lines = parse_lines(text)
        unread = unread_lines(lines, before)
        data, is_data_cut = newest_text(unread, limit_bytes)
        skipped = is_log_cut or is_data_cut or len(unread) >= limit_bytes
        return LogRead(data, str(next_position(lines, before) or ""), skipped=skipped)

    async def read_whole_log(self, pod: Manifest, container: str, *, limit_bytes: int) -> bytes:
        """Return the beginning of a container's log up to the limit; empty if it can no longer be read."""
        log = await self._request_log(pod, {"container": container, "limitBytes": limit_bytes})
        return b"" if log is None else log[0]

    async def _request_log(self, pod: Manifest, query: Query) -> tuple[bytes, bool] | None:
        """
        Request a log.

        Returns:
            The log, and whether its beginning was dropped. None if there is no log, or never again.
        """
        path = await self.core_path("pods", name_of(pod)) + "/log"
        try:
            async with self.api.stream(path, query, seconds=LOG_SECONDS + 2) as chunks:
                return await _read_log_body(chunks)
        except KubernetesApiError as error:
            # 400: the container has not started. 404: its pod no longer exists.
            if error.is_missing or error.status == _BAD_REQUEST:
                return None
            raise
        except EngineUnavailable:
            if is_evicted(pod) or pod["metadata"].get("deletionTimestamp"):
                return None  # The node is gone, and the log with it. Waiting for it would never end.
            raise

    # --- watches ----------------------------------------------------------------------------------

    async def watch(self, installation_id: str, paths: Sequence[str]) -> AsyncGenerator[str, None]:
        """Yield the names of containers as something happens to them, from watches on all of these lists."""
        names: asyncio.Queue[str] = asyncio.Queue()
        async with AsyncExitStack() as stack:
            watches = [asyncio.create_task(self._watch_list(path, installation_id, names)) for path in paths]
            stack.push_async_callback(_cancel, watches)
            while True:
                name = asyncio.ensure_future(names.get())
                await asyncio.wait({name, *watches}, return_when=asyncio.FIRST_COMPLETED)
                if not name.done():
                    name.cancel()
                    next(watch for watch in watches if watch.done()).result()  # raises the error that ended it
                    return
                yield name.result()

    async def _watch_list(self, path: str, installation_id: str, names: asyncio.Queue[str]) -> None:
        """Watch one list. Each watch continues where the previous one ended."""
        version: str | None = None
        while True:
            query: dict[str, str | int] = {
                "watch": "true",
                "labelSelector": f"{INSTALLATION_LABEL}={installation_id}",
                "allowWatchBookmarks": "true",
                "timeoutSeconds": WATCH_SECONDS,
            }
            if version is not None:
                query["resourceVersion"] = version
            rest = b""
            try:
                async with self.api.stream(path, query, seconds=WATCH_SECONDS + LOG_SECONDS) as chunks:
                    async for chunk in chunks:
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            version = _read_event(line, names)
            except KubernetesApiError as error:
                if not error.is_expired or version is None:
                    raise
                version = None  # Start again with the current state, all of which arrives as events.


async def _read_log_body(chunks: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """
    Read a log until it ends or the time is over.

    Returns:
        The log, and whether its beginning was dropped because it exceeds the limit for memory.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + LOG_SECONDS
    newest: deque[bytes] = deque()
    size, is_cut, is_complete = 0, False, True
    async for chunk in chunks:
        newest.append(chunk)
        size += len(chunk)
        while size > MAX_LOG_BYTES:
            size -= len(newest.popleft())
            is_cut = True
        if clock() > deadline:
            is_complete = False
            break
    data = b"".join(newest)
    if is_cut:
        data = data[data.find(b"\n") + 1 :]
    if not is_complete:
        data = data[: data.rfind(b"\n") + 1]  # a line with half a timestamp would be dropped as the kubelet's own
    return data, is_cut


def _read_event(line: bytes, names: asyncio.Queue[str]) -> str:
    """Put the name in an event of a watch into the queue, and return the event's resource version."""
    event = orjson.loads(line)
    item = event["object"]
    if event["type"] == "ERROR":
        raise KubernetesApiError(int(item.get("code", 0)), str(item.get("reason", "")), str(item.get("message", "")))
    metadata = item["metadata"]
    if event["type"] != "BOOKMARK":
        names.put_nowait((metadata.get("labels") or {}).get(CONTAINER_LABEL) or metadata["name"])
    return str(metadata["resourceVersion"])


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, EngineUnavailable):
            await task
