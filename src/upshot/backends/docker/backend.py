"""Jobs as containers of an engine that speaks Docker's API."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from upshot.backends.docker.client import DockerApiError, DockerClient, DockerServerError
from upshot.backends.docker.containers import CONTAINER, INSTALLATION, JOB, UPSHOT, container_config
from upshot.backends.docker.files import TAR_BYTES, plain_file, upshot_files, user_id
from upshot.backends.docker.images import Images
from upshot.backends.docker.logs import NOTHING, read_on, read_since
from upshot.backends.docker.options import DockerSettings
from upshot.backends.docker.status import may_have_run_out, phase, sighting
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
from upshot.domain.image import judge_image
from upshot.domain.job import OUTPUT_FOLDER, OUTPUTS_FILE, FailureKind, JobSpec

log = structlog.get_logger("upshot.jobs")

_HEAVY_SECONDS = 60.0  # to make, start or remove a container, on a machine whose disk is busy
_QUIET_WATCH_SECONDS = 300.0  # without an event, after which the caller begins again
_STOP_BEGINS_SECONDS = 0.5  # for the engine to take notice of a stop, at most
_STOP_SPARE_SECONDS = 60.0  # beyond its grace, for the kill
_INSPECTS = 8  # at the same time
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)  # seconds, while somebody else makes or removes what has the name
_LATE_SECONDS = 1.0  # after a container's end, for word that it had run out of memory
_MAX_PASSWD_BYTES = 1024 * 1024
_DIRECTORY, _LINK = 1 << 31, 1 << 27  # of Go's os.FileMode, which the engine's API uses
_EVENTS = frozenset({"create", "start", "die", "died", "oom", "stop", "kill", "destroy", "remove", "pause", "unpause"})


class DockerBackend:
    """
    `Backend` over Docker's API.

    Args:
        settings: Where the engine is, and what all containers get.
    """

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self._engine = DockerClient(settings)
        self._images = Images(self._engine)
        self._stops: set[asyncio.Task[None]] = set()
        self._known: dict[tuple[str, str], ContainerStatus | None] = {}  # by id and the engine's word on its state
        self._warnings: set[str] = set()  # told already

    # --- Backend ----------------------------------------------------------------------------------

    async def engine_id(self) -> str:
        """
        The daemon's own id, its machine and its folder.

        Machines that were copied from one image have engines of one id, as have two engines of one
        machine; Podman makes up another id at each question.
        """
        info = await self._ask("info")
        place = f"{info['Name']}:{info['DockerRootDir']}"
        return f"podman:{place}" if await self._engine.is_podman() else f"docker:{info['ID']}:{place}"

    async def start(self, request: ContainerRequest) -> StartedContainer:
        """Make it, fill `/upshot`, start it; what has the name already is started if it never was."""
        _check(request.spec)
        for pause in _PAUSES:
            there = await self._inspect(request.name)
            if there is not None:
                return await self._adopt(request, there)
            image = await self._images.bring(request.spec)
            if (handle := await self._make(request)) is not None:
                await self._begin(request, handle, request.spec.user or image["Config"].get("User") or "")
                return StartedContainer(handle, self._images.digest(image, request.spec.image))
            await asyncio.sleep(pause)  # it has the name from the first moment on, and can be seen a moment later
        raise EngineUnavailable(f"the name {request.name} is taken, by a container that is not to be seen")

    async def list_containers(self, installation: str) -> Mapping[str, ContainerStatus]:
        """One question for all of them, and one for each that has changed since."""
        wanted = {"label": [f"{INSTALLATION}={installation}"]}
        listed = await self._ask("containers/json", all="1", filters=json.dumps(wanted))
        keys = [(one["Id"], one["State"]) for one in listed if phase(one["State"]) is not None]
        turns = asyncio.Semaphore(_INSPECTS)

        async def see(key: tuple[str, str]) -> ContainerStatus | None:
            if key in self._known:
                return self._known[key]
            async with turns:
                return await self._see(key[0])

        seen = await asyncio.gather(*map(see, keys))
        # What is made and not started may be started at any moment; the rest stays as it is in its state.
        self._known = {key: one for key, one in zip(keys, seen, strict=True) if one and one.phase is not Phase.CREATED}
        return {one.name: one for one in seen if one is not None}

    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        """Read on from the entry that was read last; see `engine_log`."""
        entries = partial(self._log_entries, name)
        try:
            if await self._engine.is_podman():
                return await read_since(lambda time: entries(since=time), position, limit_bytes=limit_bytes)
            return await read_on(lambda most: entries(tail=most), position, limit_bytes=limit_bytes)
        except DockerApiError as refusal:
            return self._engine.unless_missing(refusal, LogRead(b"", position or NOTHING))

    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        """
        Read the file out of the container's volume.

        The engine does not follow a link at the end of a path, and follows those before it. So the
        folder is looked at first; it lies in the volume's root, and no job can move that. What has
        ended changes nothing any more between the two looks.
        """
        try:
            mode = await self._mode(name, OUTPUT_FOLDER)
            if mode & _LINK:
                raise OutputUnreadable(f"{OUTPUT_FOLDER} is a symbolic link now; leave the folder as it is")
            if not mode & _DIRECTORY:
                raise OutputUnreadable(f"{OUTPUT_FOLDER} is no folder any more; leave it as it is")
            tar = await self._archive(name, OUTPUTS_FILE, limit_bytes + TAR_BYTES)
        except DockerApiError as refusal:
            return self._engine.unless_missing(refusal, None)
        except DockerServerError as fault:  # what Docker says of a link that leads to itself
            await self._engine.check_alive(fault)
            raise OutputUnreadable(f"{OUTPUTS_FILE} cannot be read ({fault}); is it, or its folder, a link?") from fault
        return plain_file(tar, limit_bytes=limit_bytes)

    async def stop(self, name: str, *, grace_seconds: float) -> None:
        """
        Have the engine signal it, wait, and kill it.

        The engine answers when the container has ended, and goes on though the caller is gone; only
        Docker 23.0 and 24.0, before their last releases, kill at once then. So the question is kept
        open, and nobody waits for its answer.
        """
        there = await self._inspect(name)
        if there is None or phase(there["State"]["Status"]) is not Phase.RUNNING:
            return
        stop = asyncio.create_task(self._stop(name, grace_seconds))
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)
        await asyncio.wait([stop], timeout=_STOP_BEGINS_SECONDS)
        if stop.done():
            stop.result()
        else:
            stop.add_done_callback(_forget)

    async def remove(self, name: str) -> None:
        """Remove it and its volume."""
        await self._remove(name)

    async def watch_events(self, installation: str) -> AsyncIterator[str]:
        """What the engine tells of containers with our label."""
        filters = {"type": ["container"], "label": [f"{INSTALLATION}={installation}"]}
        try:
            events = self._engine.stream(
                "events", params={"filters": json.dumps(filters)}, quiet_seconds=_QUIET_WATCH_SECONDS
            )
            async with aclosing(events):
                async for event in events:
                    if event.get("Action", event.get("status")) in _EVENTS:
                        yield event["Actor"]["Attributes"].get(CONTAINER, "")
        except DockerApiError as refusal:
            raise self._engine.unexpected(refusal) from refusal

    async def close(self) -> None:
        """Hang up; stops that the engine was told of go on there."""
        for stop in tuple(self._stops):
            stop.cancel()
        await asyncio.gather(*self._stops, return_exceptions=True)
        await self._engine.close()

    # --- start ------------------------------------------------------------------------------------

    async def _adopt(self, order: ContainerRequest, there: Mapping[str, Any]) -> StartedContainer:
        """Take what has the name: start it if whoever made it died before, else leave it."""
        labels = there["Config"].get("Labels") or {}
        if labels.get(INSTALLATION) != order.installation or labels.get(JOB) != order.job_id:
            raise StartRefused(
                FailureKind.REFUSED, f"a container {order.name} is there already, and is not of this job; remove it"
            )
        where = phase(there["State"]["Status"])
        if where is None:
            raise EngineUnavailable(f"container {order.name} is being removed, and its name is taken until then")
        if where is Phase.CREATED:
            await self._begin(order, there["Id"], there["Config"].get("User") or "")
        return StartedContainer(there["Id"], await self._images.digest_of(there["Image"], there["Config"]["Image"]))

    async def _make(self, order: ContainerRequest) -> str | None:
        """Make the container, and give its id; None where somebody else just made one of the name."""
        is_podman = await self._engine.is_podman()
        config = container_config(order, self._settings, is_podman=is_podman)
        try:
            made = await self._engine.ask(
                "containers/create", "POST", params={"name": order.name}, body=config, seconds=_HEAVY_SECONDS
            )
        except (DockerApiError, DockerServerError) as error:
            if _is_taken(error):
                return None
            await self._engine.check_alive(error)
            raise StartRefused(FailureKind.REFUSED, f"the engine will not make it: {_words(error)}") from error
        for warning in made.get("Warnings") or ():
            self._warn(warning)
        return str(made["Id"])

    async def _begin(self, order: ContainerRequest, handle: str, user: str) -> None:
        """Fill `/upshot` and start it; where it cannot be started, nothing is left of it."""
        try:
            await self._fill(order, handle, user)
            await self._engine.ask(f"containers/{handle}/start", "POST", seconds=_HEAVY_SECONDS)
        except (DockerApiError, DockerServerError) as error:
            await self._engine.check_alive(error)
            await self._remove(handle)
            raise StartRefused(FailureKind.REFUSED, f"the engine will not start it: {_words(error)}") from error

    async def _fill(self, order: ContainerRequest, handle: str, user: str) -> None:
        owner = user_id(user, None)
        if owner is None and order.spec.files:
            owner = user_id(user, await self._passwd(handle))
        data = upshot_files(order.event, order.spec.files, owner)
        async with self._engine.answer(
            f"containers/{handle}/archive",
            "PUT",
            params={"path": UPSHOT},
            data=data,
            headers={"Content-Type": "application/x-tar"},
            seconds=_HEAVY_SECONDS,
        ):
            pass

    async def _passwd(self, handle: str) -> bytes | None:
        try:
            tar = await self._archive(handle, "/etc/passwd", _MAX_PASSWD_BYTES + TAR_BYTES)
            return plain_file(tar, limit_bytes=_MAX_PASSWD_BYTES)
        except (DockerApiError, OutputUnreadable):
            return None  # then its number is not known

    # --- what the engine knows --------------------------------------------------------------------

    async def _ask(self, path: str, **params: str) -> Any:
        try:
            return await self._engine.ask(path, params=params)
        except DockerApiError as refusal:
            raise self._engine.unexpected(refusal) from refusal

    async def _inspect(self, name: str) -> Mapping[str, Any] | None:
        try:
            container: Mapping[str, Any] = await self._engine.ask(f"containers/{name}/json")
        except DockerApiError as refusal:
            return self._engine.unless_missing(refusal, None)
        return container

    async def _see(self, handle: str) -> ContainerStatus | None:
        container = await self._inspect(handle)
        if container is None:
            return None
        digest = await self._images.digest_of(container["Image"], container["Config"]["Image"])
        seen = sighting(container, digest)
        if seen is not None and may_have_run_out(container) and await self._ran_out(seen):
            return replace(seen, failure=FailureKind.OUT_OF_MEMORY)
        return seen

    async def _ran_out(self, seen: ContainerStatus) -> bool:
        """
        Look whether the engine heard of it too late.

        One that hears of the end first leaves it out of the container's state for ever, and tells it
        to those who watch; it remembers its last 256 events. One in fifty on a busy machine.
        """
        if seen.started_at is None or seen.finished_at is None or await self._engine.is_podman():
            return False
        filters = {"container": [seen.handle], "event": ["oom"]}
        until = seen.finished_at.timestamp() + _LATE_SECONDS  # by its own clock; it answers when that is over
        params = {
            "since": str(int(seen.started_at.timestamp())),
            "until": f"{until:.9f}",
            "filters": json.dumps(filters),
        }
        async with aclosing(self._engine.stream("events", params=params, quiet_seconds=self._settings.timeout)) as told:
            return [event async for event in told] != []

    async def _log_entries(
        self, name: str, *, tail: int | None = None, since: int | None = None
    ) -> AsyncIterator[bytes]:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1"}
        params |= {"tail": str(tail)} if tail is not None else {}
        params |= {"since": str(since)} if since is not None else {}
        async with self._engine.answer(f"containers/{name}/logs", params=params) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def _mode(self, name: str, path: str) -> int:
        """What kind of thing is at a path of a container, in Go's way of saying it."""
        headers = await self._engine.head(f"containers/{name}/archive", params={"path": path})
        return int(json.loads(base64.b64decode(headers["X-Docker-Container-Path-Stat"]))["mode"])

    async def _archive(self, name: str, path: str, most_bytes: int) -> bytes:
        """The beginning of a tar of what is at a path."""
        tar = bytearray()
        async with self._engine.answer(f"containers/{name}/archive", params={"path": path}) as response:
            async for piece in response.content.iter_any():
                tar += piece
                if len(tar) > most_bytes:
                    break
        return bytes(tar[:most_bytes])

    # --- the end ----------------------------------------------------------------------------------

    async def _stop(self, name: str, grace_seconds: float) -> None:
        try:
            if grace_seconds <= 0:
                await self._engine.ask(f"containers/{name}/kill", "POST")
                return
            grace = math.ceil(grace_seconds)
            await self._engine.ask(
                f"containers/{name}/stop", "POST", params={"t": str(grace)}, seconds=grace + _STOP_SPARE_SECONDS
            )
        except DockerApiError as refusal:
            if not (refusal.is_missing or refusal.is_conflict):  # it is not there, or does not run
                raise self._engine.unexpected(refusal) from refusal

    async def _remove(self, name: str) -> None:
        try:
            await self._engine.ask(
                f"containers/{name}", "DELETE", params={"force": "1", "v": "1"}, seconds=_HEAVY_SECONDS
            )
        except DockerApiError as refusal:
            if not (refusal.is_missing or refusal.is_conflict):  # it is not there, or somebody removes it already
                raise self._engine.unexpected(refusal) from refusal

    # --- words ------------------------------------------------------------------------------------

    def _warn(self, warning: str) -> None:
        """Say it once: the engine makes the container all the same, without what it cannot do."""
        if warning not in self._warnings:
            self._warnings.add(warning)
            log.warning("engine.cannot", engine=str(self._engine.address), warning=warning)


def _check(spec: JobSpec) -> None:
    if spec.options:
        raise StartRefused(
            FailureKind.REFUSED,
            f"{', '.join(sorted(spec.options))}: these are options of another backend; take a queue of that one",
        )
    if finding := judge_image(spec.image):
        raise StartRefused(
            FailureKind.REFUSED, f"image {finding}" if spec.image else "it needs an image; write `image`"
        )


def _is_taken(error: DockerApiError | DockerServerError) -> bool:
    """Somebody has just made one of that name. Podman has no class for it, only words."""
    return (isinstance(error, DockerApiError) and error.is_conflict) or "is already in use" in str(error)


def _words(error: Exception) -> str:
    text = str(error)
    if "could not select device driver" in text:
        return f"{text}; its machine lacks the NVIDIA container toolkit, or a GPU"
    return text


def _forget(task: asyncio.Task[None]) -> None:
    """Nobody waits for it any more; `look` shows what became of it."""
    if not task.cancelled():
        task.exception()
