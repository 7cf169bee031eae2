"""
The files that a job finds in `/upshot/input`: those of the artifact version that its event is about.

The worker downloads them into the cache of its machine before the job's container is created, with the job's own
token. They stay there, pinned, until the container is removed. References to files elsewhere are left out: the job
fetches them itself, so that nobody makes a worker read its own files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import TypeVar
from weakref import WeakValueDictionary

import structlog

from upshot.backends.protocol import JobInput, StartRefused
from upshot.client.downloads import download
from upshot.client.file_trees import FileTrees
from upshot.client.http import ApiError, Client
from upshot.client.progress import format_size
from upshot.domain import job_token
from upshot.domain.event import Event, EventKind
from upshot.domain.job import FailureKind, InputFiles, Job, container_name
from upshot.domain.manifest import ManifestEntry, manifest_digest
from upshot.domain.registry import ArtifactVersion
from upshot.errors import InvalidInput, Unavailable
from upshot.ids import JobId
from upshot.ports.jobs import Installation
from upshot.ports.registry import VersionFiles
from upshot.ports.run_in_thread import RunInThread

T = TypeVar("T")

log = structlog.get_logger("upshot.jobs")

_DOWNLOADS = 4  # at the same time, on this worker
_PERCENT_STEP = 10  # of the progress that is recorded
_NOT_A_VERSION = "input: the event is not about a version, so there are no files; leave `input: required` out"


class _Cancelled(Exception):
    """Nobody waits for the download any more."""


@dataclass(frozen=True, slots=True)
class InputPin:
    """A job's attempt for which files are kept in the cache."""

    job_id: JobId
    attempt: int

    @property
    def container(self) -> str:
        """Name of the attempt's container."""
        return container_name(self.job_id, self.attempt)


class JobInputs:
    """
    Provides the files of versions to the jobs of one worker.

    Args:
        versions: Knows the files of each version.
        trees: The cache of this machine.
        make_client: Returns a client of the REST API that uses a token.
        installation: Whose jobs these are.
        run_in_thread: Runs blocking calls of the store.
    """

    def __init__(
        self,
        versions: VersionFiles,
        trees: FileTrees,
        make_client: Callable[[str], Client],
        installation: Installation,
        run_in_thread: RunInThread,
    ) -> None:
        self._versions = versions
        self._trees = trees
        self._make_client = make_client
        self._installation = installation
        self._run_in_thread = run_in_thread
        # Threads of its own: downloads must not keep other work of the worker waiting.
        self._threads = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="upshot-input")
        self._cache_thread = ThreadPoolExecutor(1, thread_name_prefix="upshot-input-cache")
        # By digest. The files of two jobs are downloaded once, and the second job occupies no thread meanwhile.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._progress: dict[JobId, _Progress] = {}

    # --- for one job ------------------------------------------------------------------------------

    async def provide(self, job: Job, event: Event, *, downloads_itself: bool, limit: int | None) -> JobInput | None:
        """
        Return the input of a job, or None if it gets none. `release` must follow when its container is removed.

        Args:
            job: The job.
            event: The event that its execution answers.
            downloads_itself: The files are not needed on this machine.
            limit: Bytes that a backend may copy to another machine.

        Raises:
            StartRefused: The files cannot be provided. Its failure says whether another attempt can help.
        """
        if job.spec.input is InputFiles.NONE:
            return None
        version = await self._find_version(job, event)
        if version is None:
            return None
        files = await self._run_in_thread(self._versions.files_of, version)
        entries = tuple(entry for entry in files if entry.ref is None)
        digest, size = manifest_digest(entries), sum(entry.size or 0 for entry in entries)
        if downloads_itself:
            return JobInput(version.reference, len(entries), size, transfer_limit=limit)
        try:
            tree = await self._in_cache(partial(self._trees.pin, digest, size, self._pin_name(job.id, job.attempt)))
            progress = self._progress[job.id] = _Progress(version.reference, size)
            async with self._locks.setdefault(digest, asyncio.Lock()):
                write = partial(self._download, job, version, entries, progress)
                fill = partial(self._trees.fill, tree, entries, write, progress.check)
                await asyncio.get_running_loop().run_in_executor(self._threads, fill)
            await self._in_cache(self._trees.trim)
        except OSError as error:
            reason = f"the files of {version.reference} cannot be stored in the cache of this worker: {error}"
            raise StartRefused(FailureKind.INPUT_UNAVAILABLE, f"{reason}; see UPSHOT_CACHE_DIR") from error
        finally:
            if (begun := self._progress.pop(job.id, None)) is not None:
                begun.cancelled.set()  # if this coroutine was cancelled, its thread is still at work
        return JobInput(version.reference, len(entries), size, tree.files, limit)

    def progress(self, job_id: JobId) -> str | None:
        """Return how far the download for a job is, or None if there is none."""
        progress = self._progress.get(job_id)
        return progress.describe() if progress else None

    async def release(self, job: Job) -> None:
        """Let the files of a job's attempt be removed from the cache, because its container is removed."""
        await self._release([self._pin_name(job.id, job.attempt)])

    async def _find_version(self, job: Job, event: Event) -> ArtifactVersion | None:
        """Return the version if its files are stored here, or None if there are none, and none are required."""
        required = job.spec.input is InputFiles.REQUIRED
        described = event.data.get("version") if event.kind is not EventKind.CUSTOM else None
        version_id = described.get("artifact_version_id") if isinstance(described, Mapping) else None
        if not isinstance(version_id, str) or not isinstance(described, Mapping):
            if required:
                raise StartRefused(FailureKind.REFUSED, _NOT_A_VERSION)
            return None
        version = await self._run_in_thread(self._versions.find_artifact_version, version_id)
        if version is None:
            if required or described.get("is_stored"):
                reason = f"input: the artifact version {described.get('artifact')} was deleted after the event"
                raise StartRefused(FailureKind.REFUSED, f"{reason}; `input: none` starts the job without its files")
            return None
        if version.manifest is None or not version.manifest.is_stored:
            if required:
                reason = f"input: {version.reference} was logged without its bytes; log it again with its files"
                raise StartRefused(FailureKind.REFUSED, reason)
            return None
        return version

    def _download(
        self,
        job: Job,
        version: ArtifactVersion,
        entries: Collection[ManifestEntry],
        progress: _Progress,
        root: Path,
    ) -> None:
        """Download files into a directory. Runs in a thread."""
        log.info("job.input_download", job_id=job.id, artifact=version.reference, bytes=progress.size)
        what = version.reference
        try:
            with self._make_client(job_token.make(self._installation.key, job.id)) as client:
                download(client, entries, root, cache=None, what=what, on_bytes=progress.add)
        except (ApiError, InvalidInput, Unavailable) as error:
            reason = f"the files of {what} cannot be downloaded: {error}"
            raise StartRefused(FailureKind.INPUT_UNAVAILABLE, reason) from error

    # --- for all jobs -----------------------------------------------------------------------------

    async def pins(self) -> tuple[InputPin, ...]:
        """Return the attempts of this installation's jobs for which this machine keeps files."""
        prefix = f"{self._installation.id}."
        names = await self._in_cache(self._trees.pins)
        parts = (name.removeprefix(prefix).rpartition(".") for name in names if name.startswith(prefix))
        return tuple(InputPin(JobId(job_id), int(attempt)) for job_id, _, attempt in parts if attempt.isdecimal())

    async def renew(self, pins: Collection[InputPin]) -> None:
        """Keep files for these attempts."""
        await self._in_cache(partial(self._trees.renew, [self._pin_name(pin.job_id, pin.attempt) for pin in pins]))

    async def release_all(self, pins: Collection[InputPin]) -> None:
        """Let the files of these attempts be removed from the cache."""
        await self._release([self._pin_name(pin.job_id, pin.attempt) for pin in pins])

    def close(self) -> None:
        """End the downloads."""
        for progress in self._progress.values():
            progress.cancelled.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._cache_thread.shutdown(wait=False)

    async def _release(self, names: Collection[str]) -> None:
        try:
            await self._in_cache(partial(self._trees.unpin, names))
            await self._in_cache(self._trees.trim)
        except OSError as error:
            log.warning("job.input_not_released", pins=list(names), error=str(error))

    async def _in_cache(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._cache_thread, call)

    def _pin_name(self, job_id: JobId, attempt: int) -> str:
        return f"{self._installation.id}.{job_id}.{attempt}"


class _Progress:
    """The progress of one download, which its threads report and the event loop reads."""

    def __init__(self, reference: str, size: int) -> None:
        self.reference = reference
        self.size = size
        self.cancelled = Flag()
        self._done = 0

    def add(self, size: int) -> None:
        self.check()
        self._done += size  # a lost update of another thread does not matter

    def check(self) -> None:
        if self.cancelled.is_set():
            raise _Cancelled

    def describe(self) -> str:
        percent = min(100 * self._done // max(self.size, 1), 99)
        return (
            f"downloads the files of {self.reference}: {percent - percent % _PERCENT_STEP} % of "
            f"{format_size(self.size)}"
        )
