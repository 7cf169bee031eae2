"""Whatever crashes, is retried, deleted and collected: versions keep their files."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.blob_stores import HOUR, MEMBER, FileStore, age_files, digest_of, use_small_parts
from upshot.adapters.blobs.local import LocalBlobs
from upshot.adapters.memory.blobs import MemoryBlobs
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.sql.blobs import SqlBlobs
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.registry import SqlRegistry
from upshot.adapters.sql.schema import metadata
from upshot.clock import FrozenClock
from upshot.errors import RegistryError

CONTENTS = (b"", b"a", b"bb", b"longer", b"a much longer one", b"another long one")
contents = st.sampled_from(CONTENTS)
files = st.dictionaries(st.sampled_from(("a", "b", "d/c")), contents, max_size=3)


class Crash(BaseException):
    """The process dies here. Nothing may catch it."""


@dataclass
class Crashing:
    """A store in a process that dies at a chosen call, before or after its effect."""

    store: Any
    crash: CrashPoint

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.crash.step()
            result = method(*args, **kwargs)
            self.crash.step()
            return Crashing(result, self.crash) if name.startswith("open_") else result

        return call


class CrashPoint:
    """Counts the steps of a process, which dies at one of them."""

    def __init__(self) -> None:
        self.remaining: int | None = None

    def step(self) -> None:
        """Die, if this is the step."""
        if self.remaining is not None:
            self.remaining -= 1
            if self.remaining < 0:
                self.remaining = None
                raise Crash


class BlobMachine(RuleBasedStateMachine):
    """Clients and workers that do what they can, and die at any step of it."""

    database: Database | None = None

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="upshot-blobs-"))
        self.crash = CrashPoint()
        clock = FrozenClock(datetime.now(UTC))  # files have the time of the machine
        registry, index = self.stores()
        self.store = FileStore(
            registry,
            Crashing(index, self.crash),
            Crashing(LocalBlobs(self.directory), self.crash),
            clock,
        )
        self.versions: dict[str, dict[str, bytes]] = {}  # committed, by reference
        self.pending: dict[str, tuple[Any, dict[str, bytes]]] = {}
        self.reachable: set[bytes] = set()  # stored, and named by a pending version that has not expired
        self.advanced_hours = 0.0

    def stores(self) -> tuple[Any, Any]:
        """Return a registry and an index without content."""
        if self.database is None:
            index = MemoryBlobs()
            return MemoryRegistry(MemoryEvents(), index), index
        with self.database.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        return SqlRegistry(self.database), SqlBlobs(self.database)

    def attempt(self, crash_after: int | None, work: Any) -> None:
        """Do something, and die in the middle of it."""
        self.crash.remaining = crash_after
        try:
            work()
        except (Crash, RegistryError):
            pass
        finally:
            self.crash.remaining = None

    crashes = st.none() | st.integers(0, 12)

    @rule(content=contents, crash=crashes)
    def put(self, content, crash):
        """Send a small blob."""
        self.attempt(crash, lambda: self.store.put(content))

    @rule(content=contents, crash=crashes)
    def stream(self, content, crash):
        """Send a blob in one request."""

        def work():
            receiver = self.store.blobs.open_blob(digest_of(content))
            receiver.write(content)
            receiver.finish()

        self.attempt(crash, work)

    @rule(content=contents, number=st.integers(1, 5), wrong=st.booleans(), crash=crashes)
    def send_part(self, content, number, wrong, crash):
        """Send one part of a large blob, sometimes with another content that has the right digest for itself."""

        def work():
            upload = self.store.blobs.begin_upload(digest_of(content), len(content))
            if upload is not None and number <= upload.part_count:
                sent = bytes(len(content)) if wrong else content
                self.store.send_part(upload, sent, number)

        self.attempt(crash, work)

    @rule(content=contents, crash=crashes)
    def upload(self, content, crash):
        """Send what is missing of a large blob, and complete it."""

        def work():
            if self.store.blobs.begin_upload(digest_of(content), len(content)) is not None:
                self.store.blobs.complete(self.store.send_all(content))

        self.attempt(crash, work)

    @rule(files=files)
    def begin(self, files):
        """Begin a version."""
        started = self.store.begin(files)
        if started.pending:
            if files:
                self.store.add_files(started, files)
            self.pending[started.pending.id] = (started, files)

    @rule(data=st.data(), crash=crashes)
    def commit(self, data, crash):
        """Commit a version whose blobs are stored or not."""
        if self.pending:
            started, files = self.pending[data.draw(st.sampled_from(sorted(self.pending)))]

            def work():
                version = self.store.commit(started)
                self.versions[version.reference] = files
                del self.pending[started.pending.id]

            self.attempt(crash, work)

    @rule(data=st.data())
    def delete(self, data):
        """Delete a version."""
        if self.versions:
            reference = data.draw(st.sampled_from(sorted(self.versions)))
            self.store.registry.delete_artifact_version(reference, origin=MEMBER)
            del self.versions[reference]

    @rule(crash=crashes)
    def collect(self, crash):
        """Remove what nobody needs."""

        def work():
            self.store.remove_garbage()

        self.attempt(crash, work)

    @rule(hours=st.sampled_from([0.5, 12, 25]))
    def wait(self, hours):
        """Let time pass."""
        self.store.clock.advance(hours * HOUR)
        self.advanced_hours += hours

    @rule()
    def age(self):
        """Make all files old, as if they had been there for two days."""
        age_files(self.directory, self.store.clock, 49)

    @invariant()
    def committed_versions_are_complete(self):
        """Check that a committed version has all its files, with the right content."""
        for reference, files in self.versions.items():
            page = self.store.registry.files(reference, cursor=None, limit=9)
            assert {entry.path: entry.digest for entry in page.items} == {
                path: digest_of(content) for path, content in files.items()
            }
            for content in files.values():
                assert self.store.read(content) == content

    @invariant()
    def reachable_blobs_stay(self):
        """Check that a stored blob that a pending version names is there as long as that version is."""
        still_reachable = set()
        for version_id, (_, files) in list(self.pending.items()):
            try:
                missing = self.store.registry.missing_blobs(version_id)
            except RegistryError:
                del self.pending[version_id]
                continue
            for content in files.values():
                if digest_of(content) not in missing:
                    still_reachable.add(content)
                    assert self.store.read(content) == content
                else:
                    assert content not in self.reachable, "a reachable blob was removed"
        self.reachable = still_reachable

    def teardown(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.directory)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_versions_keep_their_files(kind, monkeypatch, tmp_path):
    """Uploads, crashes, retries, deletions and garbage collection never remove a file that a version needs."""
    use_small_parts(monkeypatch)
    database = None
    if kind == "sqlite":
        database = Database(sqlite_url(tmp_path / "upshot.db"))
        metadata.create_all(database.engine)
    machine = type("Machine", (BlobMachine,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60 if kind == "memory" else 15,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    if database:
        database.close()
