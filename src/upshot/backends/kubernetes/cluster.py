"""What both kinds of jobs on a cluster need: who it is, what is there, what pods say, and hints."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import orjson

from upshot.backends.kubernetes.api import APPLY, KubernetesApiError, KubernetesClient, Query
from upshot.backends.kubernetes.logs import Position, newest, parse, position_after, unread
from upshot.backends.kubernetes.manifests import CONTAINER, INSTALLATION, Manifest, secret_manifests
from upshot.backends.kubernetes.status import WarningEvents, is_taken_back, name_of
from upshot.backends.protocol import ContainerRequest, EngineUnavailable, LogRead

READ_SECONDS = 8.0  # of a log at one time; what comes later is read the next time
MOST_LOG_BYTES = 16 * 1024 * 1024  # in memory at one time; a kubelet keeps 10 MB of a container's log, unless told to
WATCH_SECONDS = 240  # after which the server ends a watch, and we go on with the next
MOST_WARNINGS = 1000
FIELD_MANAGER = "upshot"  # in whose name Secrets are applied

_BAD_REQUEST = 400


class NamespaceClient:
    """
    One namespace of a cluster.

    Args:
        api: Its API server.
    """

    def __init__(self, api: KubernetesClient) -> None:
        self.api = api

    async def engine_id(self) -> str:
        """The cluster's own id, which is its oldest namespace's; its address, where that may not be asked."""
        namespace = await self.api.namespace()
        try:
            system = await self.api.call("GET", "/api/v1/namespaces/kube-system")
        except KubernetesApiError:
            return f"kubernetes:{await self.api.server()}/{namespace}"
        return f"kubernetes:{system['metadata']['uid']}/{namespace}"

    async def core(self, kind: str, name: str = "") -> str:
        """Path of pods, secrets or events, or of one of them."""
        return _path(f"/api/v1/namespaces/{await self.api.namespace()}/{kind}", name)

    async def grouped(self, group_version: str, kind: str, name: str = "") -> str:
        """Path of things of a group, or of one of them."""
        return _path(f"/apis/{group_version}/namespaces/{await self.api.namespace()}/{kind}", name)

    async def pods(self, selector: str) -> list[Manifest]:
        """All pods with these labels."""
        return await self.api.list_all(await self.core("pods"), labelSelector=selector)

    async def warnings(self) -> WarningEvents:
        """What the cluster complains of; nothing, where that may not be asked."""
        query: Query = {"fieldSelector": "type=Warning", "limit": MOST_WARNINGS}
        try:
            page = await self.api.call("GET", await self.core("events"), query=query)
        except KubernetesApiError:
            return WarningEvents.of(())
        return WarningEvents.of(page.get("items") or ())

    async def put_secrets(self, order: ContainerRequest, owner: Manifest | None) -> None:
        """Make the Secrets of a try; those that are there get what they should hold."""
        for secret in secret_manifests(order, owner):
            path = await self.core("secrets", name_of(secret))
            query = {"fieldManager": FIELD_MANAGER, "force": "true"}
            await self.api.call("PATCH", path, query=query, body=secret, content_type=APPLY)

    # --- logs -------------------------------------------------------------------------------------

    async def read_log(
        self, pod: Manifest, container: str | None, position: str | None, *, limit_bytes: int
    ) -> LogRead:
        """Read on; see `Backend.read_log`."""
        before = Position.of(position)
        query: dict[str, str | int] = {"timestamps": "true", "tailLines": limit_bytes}  # a line has a byte at least
        if container is not None:
            query["container"] = container
        if before is not None:
            query["sinceTime"] = before.since
        body = await self._log(pod, query)
        if body is None:
            return LogRead(b"", position or "")
        lines = parse(body.data)
        fresh = unread(lines, before)
        data, is_cut = newest(fresh, limit_bytes)
        skipped = is_cut or body.is_clipped or len(fresh) >= limit_bytes
        return LogRead(data, str(position_after(lines, before) or ""), skipped=skipped)

    async def whole_log(self, pod: Manifest, container: str, *, limit_bytes: int) -> bytes:
        """All that a container has said, up to so many bytes; nothing, if it cannot be read any more."""
        body = await self._log(pod, {"container": container, "limitBytes": limit_bytes})
        return body.data if body is not None else b""

    async def _log(self, pod: Manifest, query: Query) -> _Body | None:
        path = await self.core("pods", name_of(pod)) + "/log"
        try:
            async with self.api.stream(path, query, seconds=READ_SECONDS + 2) as pieces:
                return await _gather(pieces)
        except KubernetesApiError as error:
            # 400: the container has not begun; 404: its pod is gone.
            if error.is_missing or error.status == _BAD_REQUEST:
                return None
            raise
        except EngineUnavailable:
            if is_taken_back(pod) or pod["metadata"].get("deletionTimestamp"):
                return None  # its node is gone, and the log with it: whoever waits for it would wait for ever
            raise

    # --- hints ------------------------------------------------------------------------------------

    async def watch(self, installation: str, paths: Sequence[str]) -> AsyncGenerator[str, None]:
        """Names of containers to which something happens, from all of these lists."""
        hints: asyncio.Queue[str] = asyncio.Queue()
        async with AsyncExitStack() as stack:
            tasks = [asyncio.create_task(self._follow(path, installation, hints)) for path in paths]
            stack.push_async_callback(_cancel, tasks)
            while True:
                hint = asyncio.ensure_future(hints.get())
                tasks_and_hint = {hint, *tasks}
                await asyncio.wait(tasks_and_hint, return_when=asyncio.FIRST_COMPLETED)
                if not hint.done():
                    hint.cancel()
                    next(task for task in tasks if task.done()).result()  # raises what ended it
                    return
                yield hint.result()

    async def _follow(self, path: str, installation: str, hints: asyncio.Queue[str]) -> None:
        """One list, watch after watch, each from where the last one ended."""
        version: str | None = None
        while True:
            query: dict[str, str | int] = {
                "watch": "true",
                "labelSelector": f"{INSTALLATION}={installation}",
                "allowWatchBookmarks": "true",
                "timeoutSeconds": WATCH_SECONDS,
            }
            if version is not None:
                query["resourceVersion"] = version
            try:
                async with self.api.stream(path, query, seconds=WATCH_SECONDS + READ_SECONDS) as pieces:
                    async for line in _lines(pieces):
                        version = _take(line, hints)
            except KubernetesApiError as error:
                if not error.is_gone or version is None:
                    raise
                version = None  # too old: begin with what is there now, all of which is told as news


@dataclass(frozen=True, slots=True)
class _Body:
    data: bytes
    is_clipped: bool  #: there was more than we keep, and this is the end of it


async def _gather(pieces: AsyncIterator[bytes]) -> _Body:
    """What comes in time; the newest, if it is more than memory should hold."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + READ_SECONDS
    kept: deque[bytes] = deque()
    size, is_clipped, is_whole = 0, False, True
    async for piece in pieces:
        kept.append(piece)
        size += len(piece)
        while size > MOST_LOG_BYTES:
            size -= len(kept.popleft())
            is_clipped = True
        if clock() > deadline:
            is_whole = False
            break
    data = b"".join(kept)
    if is_clipped:
        data = data[data.find(b"\n") + 1 :]
    if not is_whole:
        data = data[: data.rfind(b"\n") + 1]  # half a time stamp would be read as none
    return _Body(data, is_clipped)


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line


def _take(line: bytes, hints: asyncio.Queue[str]) -> str:
    """Pass on what a line of a watch tells of; returns the version it brings us to."""
    event = orjson.loads(line)
    thing = event["object"]
    if event["type"] == "ERROR":
        raise KubernetesApiError(int(thing.get("code", 0)), str(thing.get("reason", "")), str(thing.get("message", "")))
    metadata = thing["metadata"]
    if event["type"] != "BOOKMARK":
        hints.put_nowait((metadata.get("labels") or {}).get(CONTAINER) or metadata["name"])
    return str(metadata["resourceVersion"])


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, EngineUnavailable):
            await task


def _path(of_all: str, name: str) -> str:
    return f"{of_all}/{name}" if name else of_all
