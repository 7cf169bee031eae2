"""
Log artifact versions with their files.

Small files travel many to a request, large ones in parts, several requests at a time. Only what the server does not
have is sent, so a second try after an interruption sends the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeVar

from upshot.client.addresses import FILES_PER_REQUEST
from upshot.client.file_digest import LocalFile, digest_of, hash_file, hash_range, md5_of_range, read_range
from upshot.client.http import ApiError, Client, api_path
from upshot.client.progress import Progress
from upshot.domain.blob_frames import frame
from upshot.domain.manifest import ManifestEntry, manifest_digest
from upshot.errors import InvalidInput, Unavailable

THREADS = 4  #: requests at a time, of one transfer
SMALL_BYTES = 1024 * 1024  #: smaller blobs travel many to a request
BATCH_BYTES = 4 * 1024 * 1024  #: of small blobs in a request; each thread holds one such request in memory
BATCH_BLOBS = 1_000
_SINGLE_BYTES = 64 * 1024 * 1024  # a larger blob is sent in parts
_TRIES = 3  # to commit: a blob may be removed between its check and the commit
_CONFLICT, _INVALID = 409, 422

Item = TypeVar("Item")


def log_version(
    client: Client, project: str, request: Mapping[str, Any], files: Sequence[LocalFile], *, what: str
) -> Any:
    """
    Log an artifact version with its files, and return it as the server has it.

    Args:
        client: The client of the server.
        project: Name of the project.
        request: The body that begins the version, without its digest and its number of files.
        files: All files.
        what: Name of the artifact, for the progress.

    Raises:
        ApiError: The server rejected the version or a file.
        InvalidInput: A file has changed since it was added.
        Unavailable: No server answers.
    """
    return begin_version(client, project, request, files) or send_version(client, request["id"], files, what=what)


def begin_version(client: Client, project: str, request: Mapping[str, Any], files: Sequence[LocalFile]) -> Any:
    """Begin an artifact version. Return it if the server has its content already, otherwise None. See `log_version`."""
    digest = manifest_digest(file.entry for file in files)
    body = {**request, "digest": digest, "file_count": len(files)}
    return client.post(api_path("projects", project, "pending-versions"), body)["version"]


def send_version(client: Client, version_id: str, files: Sequence[LocalFile], *, what: str) -> Any:
    """Send the files of an artifact version that was begun, and return it. See `log_version`."""
    version_path = api_path("pending-versions", version_id)
    missing: dict[str, LocalFile] = {}
    for group in groups(files, FILES_PER_REQUEST):
        by_digest = {file.entry.digest: file for file in group}
        body = {"files": [_file_json(file.entry) for file in group]}
        missing.update((found, by_digest[found]) for found in client.post(f"{version_path}/files", body)["missing"])
    by_digest = {}
    for tries_left in reversed(range(_TRIES)):
        upload(client, list(missing.values()), what=what)
        try:
            return client.post(f"{version_path}/commit")
        except ApiError as error:
            if error.status != _CONFLICT or not tries_left:
                raise
            by_digest = by_digest or {file.entry.digest: file for file in files}
            digests = client.get(f"{version_path}/missing-blobs")["missing"]
            if not digests:
                raise
            missing = {found: by_digest[found] for found in digests}
    raise AssertionError("unreachable: the last try returns or raises")


def upload(client: Client, files: Sequence[LocalFile], *, what: str) -> None:
    """Send the bytes of files. Each must be one that the server does not have."""
    if not files:
        return
    with Progress(f"uploading {what}", sum(file.entry.size or 0 for file in files)) as progress:
        sender = _Sender(client, progress)
        small = [file for file in files if (file.entry.size or 0) < SMALL_BYTES]
        run_in_threads(sender.send_batch, _batches(small))
        for file in files:
            if (file.entry.size or 0) > _SINGLE_BYTES:
                sender.send_in_parts(file)
        middle = [file for file in files if SMALL_BYTES <= (file.entry.size or 0) <= _SINGLE_BYTES]
        run_in_threads(sender.send_whole, middle)


def groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of at most `size`."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


def run_in_threads(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """
    Do work for each item, in several threads. The first error ends it: work that has not begun is left out.

    The threads are not of a pool: a pool refuses work when the main thread has ended, and uploads are waited for then.
    """
    rest = iter(items)
    lock = Lock()
    errors: list[BaseException] = []

    def work_on_items() -> None:
        try:
            while not errors:
                with lock:
                    item = next(rest, done)
                if item is done:
                    return
                work(item)
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            errors.append(error)

    done: Any = object()
    threads = [Thread(target=work_on_items, name="upshot-transfer", daemon=True) for _ in range(THREADS)]
    started = []
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:  # Python 3.12 starts no threads when the program ends
            work_on_items()
            break
        started.append(thread)
    try:
        for thread in started:
            thread.join()
    except BaseException as error:  # such as Ctrl-C
        errors.append(error)
        raise
    if errors:
        raise errors[0]


class _Sender:
    """Sends blobs, and counts their bytes."""

    def __init__(self, client: Client, progress: Progress) -> None:
        self._client = client
        self._progress = progress
        self._asks_for_addresses = True

    def send_batch(self, files: Sequence[LocalFile]) -> None:
        """Send many small blobs in one request."""
        frames = []
        for file in files:
            content = _source(file).read_bytes()
            if digest_of(content) != file.entry.digest:
                raise _changed(file)
            frames.append(frame(file.entry.digest, content))
        body = b"".join(frames)
        self._client.send_bytes("POST", "/blobs", lambda: [body], size=len(body))
        self._progress.add(sum(file.entry.size or 0 for file in files))

    def send_whole(self, file: LocalFile) -> None:
        """Send a blob in one request."""
        path, size = _source(file), file.entry.size or 0
        try:
            self._client.send_bytes(
                "PUT", api_path("blobs", file.entry.digest), lambda: read_range(path, 0, size), size=size
            )
        except ApiError as error:
            raise _explain(file, error) from error
        self._progress.add(size)

    def send_in_parts(self, file: LocalFile) -> None:
        """Send a blob in parts, those that the server does not have yet."""
        path, size = _source(file), file.entry.size or 0
        begun = self._client.post("/blob-uploads", {"digest": file.entry.digest, "size": size})["upload"]
        if begun is None:
            self._progress.add(size)
            return
        part_size = begun["part_size"]
        upload_path = api_path("blob-uploads", begun["id"])
        received = set(begun["received"])

        def send_part(number: int) -> None:
            start = (number - 1) * part_size
            part = min(part_size, size - start)
            if number not in received:
                self._send_part(f"{upload_path}/parts/{number}", path, start, part)
            self._progress.add(part)

        try:
            run_in_threads(send_part, range(1, begun["part_count"] + 1))
            self._client.send_bytes("POST", f"{upload_path}/complete", list, size=0)
        except ApiError as error:
            raise _explain(file, error) from error

    def _send_part(self, part_path: str, path: Path, start: int, size: int) -> None:
        checksum = hash_range(path, start, size)
        if self._asks_for_addresses and self._send_to_store(part_path, checksum, path, start, size):
            return
        self._client.send_bytes(
            "PUT", part_path, lambda: read_range(path, start, size), size=size, headers={"Upshot-Checksum": checksum}
        )

    def _send_to_store(self, part_path: str, checksum: str, path: Path, start: int, size: int) -> bool:
        """
        Send a part to its presigned address.

        Returns:
            Whether the store has it. If not, this part and those after it go through the server.
        """
        url = self._client.post(f"{part_path}/address", {"digest": checksum})["url"]
        if url is None:
            self._asks_for_addresses = False
            return False
        headers = {"Content-MD5": md5_of_range(path, start, size)}
        try:
            self._client.put_elsewhere(url, lambda: read_range(path, start, size), size=size, headers=headers)
        except (ApiError, Unavailable) as error:
            if self._asks_for_addresses:
                self._asks_for_addresses = False
                self._progress.note(f"{error}; the bytes go through {self._client.url}")
            return False
        self._client.post(part_path, {"digest": checksum})
        return True


def _batches(files: Iterable[LocalFile]) -> Iterator[list[LocalFile]]:
    batch: list[LocalFile] = []
    size = 0
    for file in files:
        batch.append(file)
        size += file.entry.size or 0
        if size >= BATCH_BYTES or len(batch) == BATCH_BLOBS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _source(file: LocalFile) -> Path:
    if file.source is None:
        raise AssertionError("unreachable: the bytes of a reference are not sent")
    return file.source


def _changed(file: LocalFile) -> InvalidInput:
    return InvalidInput(
        f"{file.original or file.source}: the file has changed since it was added; add it to a new artifact"
    )


def _explain(file: LocalFile, error: ApiError) -> Exception:
    """Return the error of a changed file, if that is why the server rejected it."""
    if error.status in (_CONFLICT, _INVALID) and hash_file(_source(file))[0] != file.entry.digest:
        return _changed(file)
    return error


def _file_json(entry: ManifestEntry) -> dict[str, Any]:
    return {"path": entry.path, "digest": entry.digest, "size": entry.size, "ref": entry.ref}
