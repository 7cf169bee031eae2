"""Blobs and artifact versions with files, for tests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.contract.databases import open_database
from upshot.adapters.blobs.local import LocalBlobs
from upshot.adapters.memory.blobs import MemoryBlobFiles, MemoryBlobs
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.blobs import SqlBlobs
from upshot.adapters.sql.registry import SqlRegistry
from upshot.blobs.service import Blobs
from upshot.clock import FrozenClock
from upshot.domain.event import Actor, Origin
from upshot.domain.manifest import ManifestEntry, manifest_digest
from upshot.domain.pending_version import VersionRequest
from upshot.ids import new_id
from upshot.ports import blobs as blobs_port
from upshot.ports.blobs import BlobFiles, BlobIndex, BlobUpload
from upshot.ports.registry import RegistryStore
from upshot.registry.pending_versions import Started
from upshot.registry.service import Registry

MEMBER = Origin(Actor("ann"))
HOUR = 3600


def digest_of(content: bytes) -> str:
    """Return the digest of a content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def use_small_parts(monkeypatch: pytest.MonkeyPatch, part_bytes: int = 4) -> None:
    """Make the parts of uploads tiny."""
    monkeypatch.setattr(blobs_port, "PART_BYTES", part_bytes)


@dataclass
class FileStore:
    """A registry, an index of blobs and their files, with everything that tests do to them."""

    registry_store: RegistryStore
    index: BlobIndex
    files: BlobFiles
    clock: FrozenClock = field(default_factory=FrozenClock)

    def __post_init__(self) -> None:
        self.stream = MemoryStream()
        self.registry = Registry(self.registry_store, self.stream, self.clock)
        self.blobs = Blobs(self.index, self.files, self.clock)

    def put(self, *contents: bytes) -> int:
        """Store small blobs."""
        return self.blobs.put([(digest_of(content), content) for content in contents])

    def read(self, content: bytes) -> bytes:
        """Return the stored bytes of a blob."""
        return b"".join(self.blobs.read(self.blobs.stored(digest_of(content))))

    def begin_upload(self, content: bytes) -> BlobUpload:
        """Begin the upload of a blob that is not stored."""
        upload = self.blobs.begin_upload(digest_of(content), len(content))
        assert upload is not None
        return upload

    def send_part(self, upload: BlobUpload, content: bytes, number: int) -> None:
        """Send one part of a content."""
        start = upload.part_start(number)
        part = content[start : start + upload.part_size(number)]
        receiver = self.blobs.open_part(self.blobs.upload(upload.id), number, digest_of(part))
        receiver.write(part)
        receiver.finish()

    def send_all(self, content: bytes) -> BlobUpload:
        """Send all parts of a content that have not arrived."""
        upload = self.begin_upload(content)
        for number in range(1, upload.part_count + 1):
            if number not in upload.parts:
                self.send_part(upload, content, number)
        return self.blobs.upload(upload.id)

    def begin(self, contents: Mapping[str, bytes], version_id: str | None = None, name: str = "net") -> Started:
        """Begin a version with these files."""
        entries = entries_of(contents)
        request = VersionRequest(
            project="fraud",
            name=name,
            artifact_type="model",
            digest=manifest_digest(entries),
            file_count=len(entries),
            metadata={},
            description="",
            aliases=(),
            tags=(),
        )
        return self.registry.begin_version(version_id or new_id("ver", self.clock.now()), request, origin=MEMBER)

    def add_files(self, started: Started, contents: Mapping[str, bytes]) -> tuple[str, ...]:
        """Add the files to a pending version."""
        assert started.pending
        return self.registry.add_files(started.pending.id, entries_of(contents), origin=MEMBER)

    def commit(self, started: Started):
        """Commit a pending version, and return the version."""
        assert started.pending
        return self.registry.commit_version(started.pending.id, origin=MEMBER).value

    def log(self, contents: Mapping[str, bytes], name: str = "net"):
        """Log a version with these files, as a client does."""
        started = self.begin(contents, name=name)
        if started.logged:
            return started.logged.value
        missing = self.add_files(started, contents) if contents else ()
        self.put(*(content for content in contents.values() if digest_of(content) in missing))
        return self.commit(started)

    def remove_garbage(self) -> None:
        """Do what the worker does every hour, and look at all files."""
        self.registry.remove_expired_versions(limit=100)
        self.blobs.remove_unreachable(limit=100)
        after: str | None = ""
        while after is not None:
            _, after = self.blobs.remove_orphans(after=after, limit=3)


def entries_of(contents: Mapping[str, bytes]) -> list[ManifestEntry]:
    """Return the entries of a manifest with these files."""
    return [ManifestEntry(path, digest_of(content), len(content)) for path, content in contents.items()]


def open_file_store(kind: str, request: pytest.FixtureRequest, directory: Path, **parts: BlobFiles) -> FileStore:
    """Return a store: in memory, or with a database and a directory."""
    if kind == "memory":
        clock = FrozenClock()
        index = MemoryBlobs()
        return FileStore(
            MemoryRegistry(MemoryEvents(), index), index, parts.get("files", MemoryBlobFiles(clock)), clock
        )
    database = open_database(kind, request)
    return FileStore(SqlRegistry(database), SqlBlobs(database), parts.get("files", LocalBlobs(directory)))


def age_files(directory: Path, clock: FrozenClock, hours: float) -> None:
    """Make all files of a directory so many hours old."""
    written = clock.now().timestamp() - hours * HOUR
    for path in directory.rglob("*"):
        if path.is_file():
            os.utime(path, (written, written))


def stored_files(directory: Path) -> list[str]:
    """Return the names of all files of a directory."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


MakeStore = Callable[[], FileStore]
