"""The files that a job finds in its input: which jobs get them, and what happens if they cannot be downloaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.jobs.supervisor_harness import INSTALLATION, SupervisorHarness
from upshot.client.file_digest import digest_of
from upshot.client.http import ApiError
from upshot.domain import job_token
from upshot.domain.blob_frames import frame
from upshot.domain.job import FailureKind, InputFiles, JobSpec, JobState
from upshot.domain.manifest import ManifestEntry, ManifestSummary
from upshot.domain.registry import ArtifactVersion
from upshot.errors import Unavailable
from upshot.jobs import supervisor as supervisor_module

CONTENT = b"weights"
ENTRY = ManifestEntry("sub/model.bin", digest_of(CONTENT), len(CONTENT))
REFERENCE = ManifestEntry("secret", "sha256:" + "0" * 64, 9, "file:///etc/passwd")


class Files:
    """Gives every version of a registry the same files, and serves them as the web process does."""

    def __init__(self, harness: SupervisorHarness) -> None:
        self._registry = harness.registry
        self.is_stored = True
        self.deleted = False
        self.entries: tuple[ManifestEntry, ...] = (ENTRY, REFERENCE)
        self.errors: list[Exception] = []  #: raised by the next requests, in order
        self.tokens: list[str] = []  #: of the requests, in order
        self.before_answer: Callable[[], None] = lambda: None
        harness.versions, harness.make_client = self, self.client

    def find_artifact_version(self, artifact_version_id: str) -> ArtifactVersion | None:
        """Return a version, with files."""
        version = self._registry.find_artifact_version(artifact_version_id)
        manifest = ManifestSummary("man_1", len(self.entries), 16, is_stored=self.is_stored)
        return None if version is None or self.deleted else replace(version, manifest=manifest)

    def files_of(self, version: ArtifactVersion) -> tuple[ManifestEntry, ...]:
        """Return the files."""
        return self.entries

    @contextmanager
    def client(self, token: str) -> Iterator[Files]:
        """Return a client."""
        self.tokens.append(token)
        yield self

    def read_bytes(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Answer a request for blobs."""
        self.before_answer()
        if self.errors:
            raise self.errors.pop(0)
        assert body == {"digests": [ENTRY.digest]}
        return frame(ENTRY.digest, CONTENT)

    def post(self, path: str, body: Any, **options: Any) -> Any:
        """Answer that no blob is damaged on the server."""
        assert path == "/blobs/verify"
        return {"missing": []}


@pytest.fixture
def files(harness: SupervisorHarness) -> Files:
    return Files(harness)


def spec(mode: InputFiles) -> JobSpec:
    """Return a spec with this input."""
    return JobSpec(image="evaluate:1", input=mode)


async def test_a_job_gets_the_files_of_its_version(harness: SupervisorHarness, files: Files) -> None:
    """The job's own token reads them. References are left out, so that no worker reads its own files for a job."""
    harness.start()
    job = await harness.until_state(harness.queue(), JobState.RUNNING)

    given = harness.engine.started[0].input

    assert given is not None
    assert given.directory is not None
    found = {str(path.relative_to(given.directory)): path for path in given.directory.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == {"sub/model.bin": CONTENT}
    assert (given.reference, given.file_count, given.size) == ("fraud/xgb:v0", 1, 7)
    assert files.tokens == [job_token.make(INSTALLATION.key, job.id)]


async def test_the_files_are_kept_until_the_container_is_removed(harness: SupervisorHarness, files: Files) -> None:
    """Nothing removes them while the job runs, and nothing keeps them afterwards."""
    harness.start()
    job = await harness.until_state(harness.queue(), JobState.RUNNING)
    harness.trees.trim()
    given = harness.engine.started[0].input
    assert given is not None
    assert given.directory is not None
    assert given.directory.exists()
    assert len(harness.trees.pins()) == 1

    harness.engine.finish(job.container_name)

    await harness.until(lambda: not harness.trees.pins())
    await harness.until(lambda: not given.directory.exists())  # the cache of the test has no room


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_stored": False}, "fraud/xgb:v0 was logged without its bytes; log it again with its files"),
        ({"deleted": True}, "the artifact version fraud/xgb:v0 was deleted after the event"),
    ],
)
async def test_a_version_without_files(
    harness: SupervisorHarness, files: Files, change: dict[str, Any], words: str
) -> None:
    """The input is empty, unless the step requires it: then the job fails, and another attempt would not help."""
    for name, value in change.items():
        setattr(files, name, value)
    harness.start()

    await harness.until_state(harness.queue(), JobState.RUNNING)
    failed = await harness.until_state(harness.queue(spec(InputFiles.REQUIRED)), JobState.FAILED)

    assert harness.engine.started[0].input is None
    assert (failed.failure, failed.attempt) == (FailureKind.REFUSED, 1)
    assert words.replace("v0", "v1") in (failed.reason or "")


async def test_a_step_can_do_without_the_files(harness: SupervisorHarness, files: Files) -> None:
    """With `input: none`, nothing is downloaded."""
    harness.start()

    await harness.until_state(harness.queue(spec(InputFiles.NONE)), JobState.RUNNING)

    assert harness.engine.started[0].input is None
    assert not files.tokens


@pytest.mark.parametrize("error", [Unavailable("no Upshot answers"), ApiError(404, "blob sha256:… is not stored here")])
async def test_a_failed_download_is_attempted_again(harness: SupervisorHarness, files: Files, error: Exception) -> None:
    """The job fails before its image starts. The next attempt continues the download."""
    files.errors = [error]
    harness.start()
    job = harness.queue()

    await harness.until(lambda: harness.job(job).attempt == 2)
    assert not harness.engine.started
    assert f"the files of fraud/xgb:v0 cannot be downloaded: {error}" in (harness.job(job).reason or "")
    harness.clock.advance(5)

    await harness.until_state(job, JobState.RUNNING)
    # The first attempt releases its pin in the background, or the supervisor does so later.
    harness.clock.advance(supervisor_module.INPUTS_CHECK_INTERVAL.total_seconds())
    await harness.until(lambda: len(harness.trees.pins()) == 1)


async def test_a_damaged_download_is_not_given_to_a_job(harness: SupervisorHarness, files: Files) -> None:
    """Content with another digest than the version's is a failed download."""
    files.entries = (replace(ENTRY, digest=digest_of(b"other")),)
    files.read_bytes = lambda path, body: frame(digest_of(b"other"), CONTENT)  # type: ignore[method-assign]  # broken
    harness.start()

    job = await harness.until_state(harness.queue(retry=replace(harness.retry, max_attempts=1)), JobState.FAILED)

    assert job.failure is FailureKind.INPUT_UNAVAILABLE
    assert not harness.engine.started


async def test_a_job_can_be_cancelled_while_its_files_are_downloaded(harness: SupervisorHarness, files: Files) -> None:
    """The job says what it does, ends at once, and the download ends too. Meanwhile other jobs start."""
    begun, may_end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        may_end.wait()

    files.before_answer = wait
    harness.start()
    job = harness.queue()
    await harness.until(begun.is_set)
    await harness.until(lambda: "downloads the files of fraud/xgb:v0: 0 % of 7 B" in (harness.job(job).reason or ""))
    await harness.until_state(harness.queue(spec(InputFiles.NONE)), JobState.RUNNING)

    harness.jobs.request_stop(job.id, "ann", harness.clock.now())

    await harness.until_state(job, JobState.CANCELLED)
    await harness.until(lambda: not harness.trees.pins())
    may_end.set()


async def test_jobs_of_one_version_download_it_once(harness: SupervisorHarness, files: Files) -> None:
    """Jobs that start at the same time share the files."""
    harness.start()
    event_id = harness.queue().event_id
    for _ in range(3):
        harness.queue(event_id=event_id)

    await harness.until(lambda: len(harness.engine.started) == 4)

    assert len(files.tokens) == 1
    assert len({str(request.input and request.input.directory) for request in harness.engine.started}) == 1


async def test_a_successor_releases_what_a_dead_worker_kept(
    harness: SupervisorHarness, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are kept while the container of a killed worker runs, and are released when it is gone."""
    monkeypatch.setattr(supervisor_module, "INPUTS_CHECK_INTERVAL", supervisor_module.INPUTS_CHECK_INTERVAL * 0)
    first = harness.start("w1")
    job = await harness.until_state(harness.queue(), JobState.RUNNING)
    await harness.kill(first)
    harness.trees.pin("sha256:" + "c" * 64, 7, f"{INSTALLATION.id}.job_forgotten.1")
    harness.trees.pin("sha256:" + "d" * 64, 7, "ins_another.job_1.1")
    harness.clock.advance(60)

    harness.start("w2")

    await harness.until(lambda: f"{INSTALLATION.id}.job_forgotten.1" not in harness.trees.pins())
    own = f"{INSTALLATION.id}.{job.id}.1"
    assert harness.trees.pins() == {own, "ins_another.job_1.1"}
    harness.engine.finish(job.container_name)
    await harness.until(lambda: own not in harness.trees.pins())


async def test_a_cache_that_cannot_be_written(harness: SupervisorHarness, files: Files, tmp_path: Path) -> None:
    """A full or broken disk of the worker is a failed download, and the message names the setting."""
    (tmp_path / "trees").write_text("not a directory")
    harness.start()

    job = await harness.until_state(harness.queue(retry=replace(harness.retry, max_attempts=1)), JobState.FAILED)

    assert job.failure is FailureKind.INPUT_UNAVAILABLE
    assert "cannot be stored in the cache of this worker" in (job.reason or "")
    assert "UPSHOT_CACHE_DIR" in (job.reason or "")
