"""
Download the files of artifact versions.

Every digest is compared. A file that is there already is left alone, and an interrupted download continues where it
ended. A file appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from upshot.client.blob_cache import BlobCache, new_file_beside
from upshot.client.file_digest import CHUNK_BYTES, copy_and_hash, digest_of, hash_file
from upshot.client.http import ApiError, Client, api_path
from upshot.client.progress import Progress
from upshot.client.uploads import BATCH_BLOBS, BATCH_BYTES, SMALL_BYTES, groups, run_in_threads
from upshot.domain.blob_frames import parse_frames
from upshot.domain.manifest import ManifestEntry
from upshot.errors import InvalidInput, Unavailable, UpshotError

_TRIES = 3  # for a connection that breaks
_NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Wanted:
    """A blob, and where it goes."""

    digest: str
    size: int
    targets: tuple[Path, ...]


def download(
    client: Client,
    entries: Iterable[ManifestEntry],
    root: Path,
    *,
    cache: BlobCache | None,
    what: str,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """
    Download stored files into a directory. Other files in it stay.

    Args:
        client: The client of the server.
        entries: The files, without references.
        root: The directory, which is created if it does not exist.
        cache: The cache of the machine, or None to use none.
        what: Name of the artifact, for the progress.
        on_bytes: Called with numbers of bytes, in any thread, instead of showing the progress. What it raises ends the
            download.

    Raises:
        InvalidInput: A path leads out of the directory, or two files would be one on this disk.
        ApiError: The server rejected a request.
        Unavailable: No server answers.
        OSError: A file cannot be written.
    """
    wanted = _wanted(entries, root)
    with Progress(f"downloading {what}", sum(blob.size for blob in wanted), on_bytes) as progress:
        fetcher = _Fetcher(client, cache, progress)
        missing: list[Wanted] = []
        run_in_threads(partial(_place_group, fetcher, missing), groups(wanted, 100))
        run_in_threads(fetcher.fetch_batch, _batches(blob for blob in missing if blob.size < SMALL_BYTES))
        run_in_threads(fetcher.fetch_large, [blob for blob in missing if blob.size >= SMALL_BYTES])
    if cache is not None and missing:
        cache.trim()


def safe_target(root: Path, path: str) -> Path:
    """
    Return where a file of an artifact goes.

    Raises:
        InvalidInput: The path leads out of the directory.
    """
    parts = path.split("/")
    if "\\" in path or "\x00" in path or any(part in ("", ".", "..") for part in parts):
        raise InvalidInput(f"{path!r} is not a path inside the artifact; nothing was written")
    target = root.joinpath(*parts)
    if not target.parent.resolve().is_relative_to(root.resolve()):
        raise InvalidInput(f"{target.parent} is a link that leads out of {root}; remove it, or choose another root")
    return target


def is_case_insensitive(folder: Path) -> bool:
    """Return whether names that differ in case only are the same file in a directory."""
    probe = new_file_beside(folder / "x").with_suffix(".probe")
    probe.touch()
    try:
        return probe.with_name(probe.name.swapcase()).exists()
    finally:
        probe.unlink()


def _wanted(entries: Iterable[ManifestEntry], root: Path) -> list[Wanted]:
    root.mkdir(parents=True, exist_ok=True)
    targets: dict[str, list[Path]] = {}
    sizes: dict[str, int] = {}
    folded: dict[str, str] = {}
    collision: tuple[str, str] | None = None
    folders: set[Path] = set()
    for entry in entries:
        folder = root.joinpath(*entry.path.split("/")[:-1])
        target = folder / entry.path.rpartition("/")[2] if folder in folders else safe_target(root, entry.path)
        if folder not in folders:
            folder.mkdir(parents=True, exist_ok=True)
            folders.add(folder)
        other = folded.setdefault(entry.path.casefold(), entry.path)
        if other != entry.path:
            collision = (other, entry.path)
        targets.setdefault(entry.digest, []).append(target)
        sizes[entry.digest] = entry.size or 0
    if collision and is_case_insensitive(root):
        raise InvalidInput(
            f"{collision[0]!r} and {collision[1]!r} would be one file on this disk, which ignores case; choose a root "
            "on another disk"
        )
    return [Wanted(digest, sizes[digest], tuple(paths)) for digest, paths in targets.items()]


def _place_group(fetcher: _Fetcher, missing: list[Wanted], blobs: Sequence[Wanted]) -> None:
    missing.extend(rest for blob in blobs if (rest := fetcher.place(blob)))


def _batches(blobs: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    batch: list[Wanted] = []
    size = 0
    for blob in blobs:
        batch.append(blob)
        size += blob.size
        if size >= BATCH_BYTES or len(batch) == BATCH_BLOBS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Fetcher:
    """Fetches blobs, and counts their bytes."""

    def __init__(self, client: Client, cache: BlobCache | None, progress: Progress) -> None:
        self._client = client
        self._cache = cache
        self._progress = progress

    def place(self, blob: Wanted) -> Wanted | None:
        """Write a blob from the cache to where it is missing. Return what the server must be asked for."""
        needed = [path for path in blob.targets if not _is_there(path, blob)]
        if self._cache is not None:
            needed = [path for path in needed if not self._cache.copy_to(blob.digest, path)]
        if needed:
            return Wanted(blob.digest, blob.size, tuple(needed))
        self._progress.add(blob.size)
        return None

    def fetch_batch(self, blobs: Sequence[Wanted]) -> None:
        """Fetch many small blobs in one request."""
        try:
            body = self._client.read_bytes("/blobs/read", {"digests": [blob.digest for blob in blobs]})
        except ApiError as error:
            if error.status == _NOT_FOUND:
                raise self._explain(blobs, error) from error
            raise
        contents = dict(parse_frames(body))
        for blob in blobs:
            content = contents.get(blob.digest, b"")
            if digest_of(content) != blob.digest:
                raise self._explain(blobs)
            for target in blob.targets:
                new_path = new_file_beside(target)
                try:
                    new_path.write_bytes(content)
                    new_path.replace(target)
                finally:
                    new_path.unlink(missing_ok=True)
            if self._cache is not None:
                self._cache.add(blob.digest, blob.targets[0])
            self._progress.add(blob.size)

    def fetch_large(self, blob: Wanted) -> None:
        """Fetch one blob. What an earlier try has written is used."""
        first, *others = blob.targets
        part_path, part = _open_part(first, blob.digest)
        with part:
            try:
                self._fetch_into(part, blob)
            except ApiError as error:
                if error.status == _NOT_FOUND:
                    raise self._explain([blob], error) from error
                raise
            except OSError as error:  # such as a full disk
                raise OSError(
                    error.errno, f"{error.strerror}; download again when the disk has room, which resumes", str(first)
                ) from error
        part_path.replace(first)
        for other in others:
            new_path = new_file_beside(other)
            with first.open("rb") as source, new_path.open("xb") as copy:
                copy_and_hash(source, copy)
            new_path.replace(other)
        if self._cache is not None:
            self._cache.add(blob.digest, first)

    def _fetch_into(self, part: BinaryIO, blob: Wanted) -> None:
        part.seek(0)
        digest = hashlib.sha256()
        size = 0
        while chunk := part.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        if size > blob.size:
            part.truncate(0)
            digest, size = hashlib.sha256(), 0
        self._progress.add(size)
        for tries_left in reversed(range(_TRIES)):
            if size == blob.size:
                break
            try:
                with self._client.stream(api_path("blobs", blob.digest), start=size) as chunks:
                    for chunk in chunks:
                        part.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                        self._progress.add(len(chunk))
            except Unavailable:
                if not tries_left:
                    raise
        if f"sha256:{digest.hexdigest()}" != blob.digest:
            part.truncate(0)
            raise self._explain([blob])

    def _explain(self, blobs: Sequence[Wanted], error: Exception | None = None) -> Exception:
        """
        Return the error for blobs that did not arrive as they should.

        The server reads them back. If one is damaged there, it accepts it again from anyone who has its content.
        """
        by_digest = {blob.digest: blob for blob in blobs}
        try:
            damaged = self._client.post("/blobs/verify", {"digests": list(by_digest)}, takes_long=True)["missing"]
        except UpshotError:
            damaged = []
        if damaged:
            return InvalidInput(
                f"{by_digest[damaged[0]].targets[0]}: the server's copy of {damaged[0]} is damaged or lost; log an "
                "artifact with the same content again, which stores it again, or restore the server's disk from a "
                "backup"
            )
        return error or InvalidInput(
            f"{blobs[0].targets[0]}: what the server sent does not have the digest of the file; try again, and check "
            "the network if it happens again"
        )


def _open_part(target: Path, digest: str) -> tuple[Path, BinaryIO]:
    """Open the unfinished file of an earlier try, unless another process writes to it."""
    path = target.with_name(f".upshot-{digest[7:23]}.part")
    part = path.open("a+b")
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        part.close()
        path = new_file_beside(target)
        part = path.open("a+b")
    return path, part


def _is_there(path: Path, blob: Wanted) -> bool:
    with contextlib.suppress(OSError, InvalidInput):
        return path.is_file() and path.stat().st_size == blob.size and hash_file(path)[0] == blob.digest
    return False
