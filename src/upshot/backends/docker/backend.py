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
from typing_extensions import override

from upshot.backends.docker.client import DockerApiError, DockerClient, DockerServerError, ignore_result
from upshot.backends.docker.containers import UPSHOT, container_config
from upshot.backends.docker.files import TAR_BYTES, input_tar, read_regular_file, upshot_files, user_id
from upshot.backends.docker.images import Images
from upshot.backends.docker.logs import START, read_by_count, read_by_time
from upshot.backends.docker.options import DockerOptions
from upshot.backends.docker.status import container_status, may_be_out_of_memory, phase_of
from upshot.backends.protocol import (
    CONTAINER_LABEL,
    INSTALLATION_LABEL,
    JOB_LABEL,
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
from upshot.domain.image import check_image
from upshot.domain.job import INPUT_DIR, OUTPUT_DIR, OUTPUTS_FILE, FailureKind, JobSpec

log = structlog.get_logger("upshot.jobs")

_DISK_SECONDS = 60.0  # limit for creating, starting or removing a container on a machine whose disk is busy
_WATCH_IDLE_SECONDS = 300.0  # a watch ends after this time without an event, and the caller starts another
_STOP_BEGINS_SECONDS = 0.5  # `stop` waits this long for an immediate error of the engine
_STOP_EXTRA_SECONDS = 60.0  # time for the kill, after the grace period
_CONCURRENT_INSPECTS = 8
_NAME_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)  # while another worker creates or removes the container
_OOM_EVENT_SECONDS = 1.0  # an out-of-memory event can arrive this long after the container's exit
_SLOWEST_BYTES_PER_SECOND = 1024 * 1024  # of an upload to an engine; a slower one counts as stuck
_MAX_PASSWD_BYTES = 1024 * 1024
_DIRECTORY, _LINK = 1 << 31, 1 << 27  # bits of Go's os.FileMode, which the engine's API uses
_EVENTS = frozenset({"create", "start", "die", "died", "oom", "stop", "kill", "destroy", "remove", "pause", "unpause"})


class DockerBackend(Backend):
    """
    Run jobs over Docker's API.

    Args:
        options: Where the engine is, and what all containers get.
    """

    def __init__(self, options: DockerOptions) -> None:
        self._options = options
        self._client = DockerClient(options)
        self._images = Images(self._client)
        self._stops: set[asyncio.Task[None]] = set()
        self._statuses: dict[tuple[str, str], ContainerStatus] = {}  # by container id and the engine's state
        self._logged_warnings: set[str] = set()

    # --- Backend ----------------------------------------------------------------------------------

    @override
    async def engine_id(self) -> str:
        # The daemon's id alone is not unique: machines cloned from one image share it, and so do two engines of one
        # machine. Podman returns another id on every request.
        info = await self._request_json("info")
        place = f"{info['Name']}:{info['DockerRootDir']}"
        return f"podman:{place}" if await self._client.is_podman() else f"docker:{info['ID']}:{place}"

    @override
    async def start(self, request: ContainerRequest) -> StartedContainer:
        _check_spec(request.spec)
        for seconds in _NAME_RETRY_SECONDS:
            existing = await self._inspect(request.name)
            if existing is not None:
                return await self._adopt(request, existing)
            image = await self._images.ensure(request.spec)
            if (handle := await self._create(request)) is not None:
                await self._fill_and_start(request, handle, request.spec.user or image["Config"].get("User") or "")
                return StartedContainer(handle, self._images.read_digest(image, request.spec.image))
            await asyncio.sleep(seconds)  # A new container takes its name a moment before it can be inspected.
        raise EngineUnavailable(f"the name {request.name} is taken by a container that the engine does not show")

    @override
    async def list_containers(self, installation_id: str) -> Mapping[str, ContainerStatus]:
        # One request for the list, and one for each container whose state has changed since the last call.
        filters = json.dumps({"label": [f"{INSTALLATION_LABEL}={installation_id}"]})
        containers = await self._request_json("containers/json", all="1", filters=filters)
        keys = [(container["Id"], container["State"]) for container in containers if phase_of(container["State"])]
        slots = asyncio.Semaphore(_CONCURRENT_INSPECTS)

        async def status_of(key: tuple[str, str]) -> ContainerStatus | None:
            if key in self._statuses:
                return self._statuses[key]
            async with slots:
                return await self._container_status(key[0])

        found = await asyncio.gather(*map(status_of, keys))
        statuses = {key: status for key, status in zip(keys, found, strict=True) if status is not None}
        # In one state a status does not change, except that a created container may be started at any moment.
        self._statuses = {key: status for key, status in statuses.items() if status.phase is not Phase.CREATED}
        return {status.name: status for status in statuses.values()}

    @override
    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        entries = partial(self._log_entries, name)
        try:
            if await self._client.is_podman():
                return await read_by_time(lambda time: entries(since=time), position, limit_bytes=limit_bytes)
            return await read_by_count(lambda count: entries(tail=count), position, limit_bytes=limit_bytes)
        except DockerApiError as error:
            return self._client.unless_missing(error, LogRead(b"", position or START))

    @override
    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        # The engine does not follow a link at the end of a path, but it follows the links before it. So check the
        # output directory first. It is in the root of the volume, which no job can move, and an exited container
        # changes nothing between the two requests.
        try:
            mode = await self._path_mode(name, OUTPUT_DIR)
            if mode & _LINK:
                raise OutputUnreadable(f"the job replaced {OUTPUT_DIR} with a symbolic link; keep the directory")
            if not mode & _DIRECTORY:
                raise OutputUnreadable(
                    f"the job replaced {OUTPUT_DIR}, and it is not a directory any more; keep the directory"
                )
            tar = await self._read_archive(name, OUTPUTS_FILE, limit_bytes + TAR_BYTES)
        except DockerApiError as error:
            return self._client.unless_missing(error, None)
        except DockerServerError as error:  # Docker's answer for a link that leads to itself
            await self._client.check_alive(error)
            raise OutputUnreadable(
                f"{OUTPUTS_FILE} cannot be read ({error}); write a regular file, not a link"
            ) from error
        return read_regular_file(tar, limit_bytes=limit_bytes)

    @override
    async def stop(self, name: str, *, grace_seconds: float) -> None:
        # The engine sends the signal, waits, kills, and answers when the container has exited. It continues if the
        # caller is gone, except Docker 23.0 and 24.0 before their last releases, which kill at once then. So the
        # request stays open in a task, and this method does not wait for it.
        container = await self._inspect(name)
        if container is None or phase_of(container["State"]["Status"]) is not Phase.RUNNING:
            return
        stop = asyncio.create_task(self._stop(name, grace_seconds))
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)
        await asyncio.wait([stop], timeout=_STOP_BEGINS_SECONDS)
        if stop.done():
            stop.result()
        else:
            stop.add_done_callback(ignore_result)  # `list_containers` shows the outcome

    @override
    async def remove(self, name: str) -> None:
        try:
            await self._client.request_json(
                f"containers/{name}", "DELETE", params={"force": "1", "v": "1"}, seconds=_DISK_SECONDS
            )
        except DockerApiError as error:
            if not (error.is_missing or error.is_conflict):  # It does not exist, or is being removed already.
                raise self._client.as_unavailable(error) from error

    @override
    async def watch_events(self, installation_id: str) -> AsyncIterator[str]:
        filters = json.dumps({"type": ["container"], "label": [f"{INSTALLATION_LABEL}={installation_id}"]})
        try:
            events = self._client.stream_json("events", params={"filters": filters}, idle_seconds=_WATCH_IDLE_SECONDS)
            async with aclosing(events):
                async for event in events:
                    if event.get("Action", event.get("status")) in _EVENTS:
                        yield event["Actor"]["Attributes"].get(CONTAINER_LABEL, "")
        except DockerApiError as error:
            raise self._client.as_unavailable(error) from error

    @override
    async def close(self) -> None:
        # Stops that were sent continue on the engine.
        for stop in tuple(self._stops):
            stop.cancel()
        await asyncio.gather(*self._stops, return_exceptions=True)
        await self._client.close()

    # --- start ------------------------------------------------------------------------------------

    async def _adopt(self, request: ContainerRequest, container: Mapping[str, Any]) -> StartedContainer:
        """Use the container that has the name already. Start it if its creator died before it could."""
        labels = container["Config"].get("Labels") or {}
        if (labels.get(INSTALLATION_LABEL), labels.get(JOB_LABEL)) != (request.installation_id, request.job_id):
            raise StartRefused(
                FailureKind.REFUSED, f"a container {request.name} exists already and belongs to another job; remove it"
            )
        phase = phase_of(container["State"]["Status"])
        if phase is None:
            raise EngineUnavailable(f"container {request.name} is still being removed; its name is taken until then")
        if phase is Phase.CREATED:
            await self._fill_and_start(request, container["Id"], container["Config"].get("User") or "")
        digest = await self._images.find_digest(container["Image"], container["Config"]["Image"])
        return StartedContainer(container["Id"], digest)

    async def _create(self, request: ContainerRequest, *, mounts_input: bool = True) -> str | None:
        """
        Create the container and return its id; None if another container has just taken the name.

        The directory of an input is mounted if the engine's machine has it: its name is random, so no other directory
        has the same path.
        """
        directory = request.input.directory if request.input and mounts_input else None
        is_podman = await self._client.is_podman()
        config = container_config(request, self._options, is_podman=is_podman, input_directory=directory)
        try:
            created = await self._client.request_json(
                "containers/create", "POST", params={"name": request.name}, body=config, seconds=_DISK_SECONDS
            )
        except (DockerApiError, DockerServerError) as error:
            # Podman has no error code for a taken name, only this text.
            if (isinstance(error, DockerApiError) and error.is_conflict) or "is already in use" in str(error):
                return None
            if directory is not None and str(directory) in str(error):
                _check_input_size(request)
                return await self._create(request, mounts_input=False)
            await self._client.check_alive(error)
            raise StartRefused(
                FailureKind.REFUSED, f"the engine cannot create the container: {_explain(error)}"
            ) from error
        for warning in created.get("Warnings") or ():
            # The engine has created the container without what the warning names. Log it once per worker.
            if warning not in self._logged_warnings:
                self._logged_warnings.add(warning)
                log.warning("engine.warning", engine=str(self._client.address), warning=warning)
        return str(created["Id"])

    async def _fill_and_start(self, request: ContainerRequest, handle: str, user: str) -> None:
        """Upload the files of `/upshot` and start the container. Remove the container if it cannot be started."""
        try:
            await self._upload_files(request, handle, user)
            await self._client.request_json(f"containers/{handle}/start", "POST", seconds=_DISK_SECONDS)
        except (DockerApiError, DockerServerError) as error:
            await self._client.check_alive(error)
            await self.remove(handle)
            raise StartRefused(
                FailureKind.REFUSED, f"the engine cannot start the container: {_explain(error)}"
            ) from error

    async def _upload_files(self, request: ContainerRequest, handle: str, user: str) -> None:
        owner_uid = user_id(user, None)
        if owner_uid is None and request.spec.secret_files:
            try:
                tar = await self._read_archive(handle, "/etc/passwd", _MAX_PASSWD_BYTES + TAR_BYTES)
                owner_uid = user_id(user, read_regular_file(tar, limit_bytes=_MAX_PASSWD_BYTES))
            except (DockerApiError, OutputUnreadable):
                pass  # The user's id stays unknown.
        has_mount = request.input is not None and await self._has_mounted_input(handle)
        files = upshot_files(request.event, request.spec.secret_files, owner_uid, with_input=not has_mount)
        await self._upload(handle, files, seconds=_DISK_SECONDS)
        if request.input is not None and request.input.directory is not None and not has_mount:
            try:
                seconds = _DISK_SECONDS + request.input.size / _SLOWEST_BYTES_PER_SECOND
                await self._upload(handle, input_tar(request.input.directory), seconds=seconds)
            except (DockerApiError, DockerServerError) as error:
                await self._client.check_alive(error)
                await self.remove(handle)
                reason = f"the engine does not take the files of {request.input.reference}: {error}"
                raise StartRefused(FailureKind.INPUT_UNAVAILABLE, reason) from error

    async def _upload(self, handle: str, tar: bytes | AsyncIterator[bytes], *, seconds: float) -> None:
        async with self._client.request(
            f"containers/{handle}/archive",
            "PUT",
            params={"path": UPSHOT},
            data=tar,
            headers={"Content-Type": "application/x-tar"},
            seconds=seconds,
        ):
            pass

    async def _has_mounted_input(self, handle: str) -> bool:
        container = await self._inspect(handle)
        mounts = container["Mounts"] if container else ()
        return any(mount["Destination"] == INPUT_DIR for mount in mounts)

    # --- read -------------------------------------------------------------------------------------

    async def _request_json(self, path: str, **params: str) -> Any:
        try:
            return await self._client.request_json(path, params=params)
        except DockerApiError as error:
            raise self._client.as_unavailable(error) from error

    async def _inspect(self, name: str) -> Mapping[str, Any] | None:
        try:
            container: Mapping[str, Any] = await self._client.request_json(f"containers/{name}/json")
        except DockerApiError as error:
            return self._client.unless_missing(error, None)
        return container

    async def _container_status(self, handle: str) -> ContainerStatus | None:
        container = await self._inspect(handle)
        if container is None:
            return None
        digest = await self._images.find_digest(container["Image"], container["Config"]["Image"])
        status = container_status(container, digest)
        if status is not None and may_be_out_of_memory(container) and await self._has_oom_event(status):
            return replace(status, failure=FailureKind.OUT_OF_MEMORY)
        return status

    async def _has_oom_event(self, status: ContainerStatus) -> bool:
        """
        Return whether the engine has an out-of-memory event for an exited container.

        An engine that learns about the exit first never writes `OOMKilled` into the container's state, but still
        emits the event. On a busy machine this happens once in fifty times. The engine keeps its last 256 events.
        """
        if status.started_at is None or status.finished_at is None or await self._client.is_podman():
            return False
        params = {
            "since": str(int(status.started_at.timestamp())),
            # The engine ends the response when this time has passed on its own clock.
            "until": f"{status.finished_at.timestamp() + _OOM_EVENT_SECONDS:.9f}",
            "filters": json.dumps({"container": [status.handle], "event": ["oom"]}),
        }
        events = self._client.stream_json("events", params=params, idle_seconds=self._options.timeout)
        async with aclosing(events):
            return [event async for event in events] != []

    async def _log_entries(
        self, name: str, *, tail: int | None = None, since: int | None = None
    ) -> AsyncIterator[bytes]:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1"}
        params |= {"tail": str(tail)} if tail is not None else {}
        params |= {"since": str(since)} if since is not None else {}
        async with self._client.request(f"containers/{name}/logs", params=params) as response:
            async for chunk in response.content.iter_any():
                yield chunk

    async def _path_mode(self, name: str, path: str) -> int:
        """Return the mode of a path in a container, as Go's os.FileMode."""
        async with self._client.request(f"containers/{name}/archive", "HEAD", params={"path": path}) as response:
            return int(json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]))["mode"])

    async def _read_archive(self, name: str, path: str, limit_bytes: int) -> bytes:
        """Return the beginning of a tar of what is at a path."""
        tar = bytearray()
        async with self._client.request(f"containers/{name}/archive", params={"path": path}) as response:
            async for chunk in response.content.iter_any():
                tar += chunk
                if len(tar) > limit_bytes:
                    break
        return bytes(tar[:limit_bytes])

    # --- stop -------------------------------------------------------------------------------------

    async def _stop(self, name: str, grace_seconds: float) -> None:
        try:
            if grace_seconds <= 0:
                await self._client.request_json(f"containers/{name}/kill", "POST")
                return
            grace = math.ceil(grace_seconds)
            await self._client.request_json(
                f"containers/{name}/stop", "POST", params={"t": str(grace)}, seconds=grace + _STOP_EXTRA_SECONDS
            )
        except DockerApiError as error:
            if not (error.is_missing or error.is_conflict):  # It does not exist, or does not run.
                raise self._client.as_unavailable(error) from error


def _check_spec(spec: JobSpec) -> None:
    if spec.kubernetes:
        raise StartRefused(
            FailureKind.REFUSED, "`kubernetes` has no meaning on Docker; remove it, or choose a queue on Kubernetes"
        )
    if finding := check_image(spec.image):
        raise StartRefused(
            FailureKind.REFUSED, f"image {finding}" if spec.image else "a job on Docker needs an image; write `image`"
        )


def _check_input_size(request: ContainerRequest) -> None:
    """Raise StartRefused if the input is too large to be uploaded."""
    files = request.input
    if files is not None and files.transfer_limit is not None and files.size > files.transfer_limit:
        raise StartRefused(
            FailureKind.REFUSED,
            f"input: {files.reference} has {files.size:,} bytes, and the queue's `input-size` allows "
            f"{files.transfer_limit:,} for an engine on another machine; raise it, or choose a queue whose engine is "
            "on the worker's machine",
        )


def _explain(error: Exception) -> str:
    text = str(error)
    if "could not select device driver" in text:
        return f"{text}; its machine has no GPU, or no NVIDIA container toolkit"
    return text
