"""Blobs in a bucket of S3, or of a store that speaks its protocol."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store
from typing_extensions import override

from upshot.errors import BlobsUnavailable, ConfigError, NoSpace, NotFound
from upshot.ports.blobs import LOST_REMEDY, UPLOADS, BlobFiles, BlobUpload, BlobWriter

if TYPE_CHECKING:  # these types exist for type checkers only
    from obstore import GetOptions
    from obstore.store import ClientConfig, S3Config

WRITE_THREADS = 16  #: that send small files
SIGNED_FOR = timedelta(hours=1)  #: how long a presigned address can be used
_SPOOL_BYTES = 1024 * 1024  # that are kept in memory of what is received; more goes to a temporary file
_CHUNK_BYTES = 8 * 1024 * 1024
_CONCURRENCY = 2  # chunks of one file that are sent at the same time, and so are in memory


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the bucket is, and how to sign in."""

    url: str  #: `s3://bucket` or `s3://bucket/prefix`
    endpoint: str | None = None  #: of a compatible store; None for AWS
    region: str | None = None
    access_key_id: str | None = None  #: None: what AWS's tools use: their variables, or the machine's role
    secret_access_key: str | None = None
    presigned: bool = True  #: clients can reach the bucket, so they send and fetch bytes there


class S3Blobs(BlobFiles):
    """
    Holds every blob as one object, and every part of an upload as one object below `uploads/`.

    An object is visible only when all of it has arrived, and S3 compares its SHA-256.

    Args:
        options: Of the bucket.

    Raises:
        ConfigError: The URL or another option is invalid.
    """

    def __init__(self, options: S3Options) -> None:
        self._presigned = options.presigned
        config: S3Config = {"checksum_algorithm": "SHA256", "virtual_hosted_style_request": False}
        if options.endpoint:
            config["endpoint"] = options.endpoint
        if options.region or options.endpoint:
            config["region"] = options.region or "us-east-1"
        if options.access_key_id and options.secret_access_key:
            config["access_key_id"] = options.access_key_id
            config["secret_access_key"] = options.secret_access_key
        client: ClientConfig = {"allow_http": bool(options.endpoint and options.endpoint.startswith("http://"))}
        try:
            self._store = S3Store.from_url(
                options.url,
                config=config,
                client_options=client,
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
            )
        except BaseError as error:
            raise ConfigError(f"UPSHOT_BUCKET_URL: {options.url!r}: {error}; write s3://BUCKET/PREFIX") from error
        self._threads = ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="s3")

    @override
    def write(self, files: Mapping[str, bytes]) -> None:
        results = [self._threads.submit(self._put, key, content) for key, content in files.items()]
        errors = [error for result in results if (error := result.exception()) is not None]
        if errors:
            raise errors[0]

    def _put(self, key: str, content: bytes) -> None:
        with _reporting(key):
            obstore.put(self._store, key, content, use_multipart=False)

    @override
    def open_file(self, key: str) -> BlobWriter:
        return _SpooledWriter(self._store, key)

    @override
    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        with _reporting(key):
            if end is not None:
                if end > start:
                    yield bytes(obstore.get_range(self._store, key, start=start, end=end))
                return
            options: GetOptions = {"range": {"offset": start}} if start else {}
            for chunk in obstore.get(self._store, key, options=options).stream(_CHUNK_BYTES):
                yield bytes(chunk)

    @override
    def local_path(self, key: str) -> str | None:
        return None

    @override
    def open_part(self, upload: BlobUpload, number: int, digest: str) -> BlobWriter:
        return _SpooledWriter(self._store, _part_key(upload.id, number, digest))

    @override
    def part_size(self, upload: BlobUpload, number: int, digest: str) -> int | None:
        key = _part_key(upload.id, number, digest)
        try:
            with _reporting(key):
                return int(obstore.head(self._store, key)["size"])
        except NotFound:
            return None

    @override
    def finish(self, upload: BlobUpload, key: str) -> str:
        digest = hashlib.sha256()
        with _reporting(key):
            if self._exists(key):
                for chunk in obstore.get(self._store, key).stream(_CHUNK_BYTES):
                    digest.update(chunk)
                return f"sha256:{digest.hexdigest()}"
            try:
                self._assemble(upload, key)
            except _OtherDigest as error:
                return error.digest
        return upload.digest

    def _assemble(self, upload: BlobUpload, key: str) -> None:
        """Write the parts to one object. It is closed, and so visible, only if the digest was right at the end."""
        # S3 accepts 10,000 parts of one object. It compares the SHA-256 of each with what arrives.
        chunk_bytes = max(_CHUNK_BYTES, -(-upload.size // 9_000))
        writer = obstore.open_writer(self._store, key, buffer_size=chunk_bytes, max_concurrency=_CONCURRENCY)
        for chunk in self._verified_parts(upload):
            writer.write(chunk)
        writer.close()

    def _verified_parts(self, upload: BlobUpload) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for number in range(1, upload.part_count + 1):
            for chunk in self._part(upload, number):
                digest.update(chunk)
                yield chunk
        # A signed address can be used again, so what was written is compared, and not what was there before.
        if (found := f"sha256:{digest.hexdigest()}") != upload.digest:
            raise _OtherDigest(found)

    def _part(self, upload: BlobUpload, number: int) -> Iterator[bytes]:
        found = obstore.get(self._store, _part_key(upload.id, number, upload.parts[number]))
        for chunk in found.stream(_CHUNK_BYTES):
            yield bytes(chunk)

    def _exists(self, key: str) -> bool:
        try:
            obstore.head(self._store, key)
        except (NotFoundError, FileNotFoundError):
            return False
        return True

    @override
    def discard(self, upload_id: str) -> None:
        prefix = f"{UPLOADS}{upload_id}/"
        with _reporting(prefix):
            for batch in obstore.list(self._store, prefix=prefix):
                obstore.delete(self._store, [item["path"] for item in batch])

    @override
    def delete(self, keys: Collection[str]) -> None:
        if keys:
            with _reporting(next(iter(keys))):
                obstore.delete(self._store, list(keys))

    @override
    def page_keys(self, *, after: str, limit: int) -> Sequence[tuple[str, datetime]]:
        with _reporting(after):
            for batch in obstore.list(self._store, offset=after or None, chunk_size=limit):
                return [(item["path"], item["last_modified"]) for item in batch]
        return []

    @override
    def sign_download(self, key: str) -> str | None:
        return obstore.sign(self._store, "GET", key, SIGNED_FOR) if self._presigned else None

    @override
    def sign_part(self, upload: BlobUpload, number: int, digest: str) -> str | None:
        if not self._presigned:
            return None
        return obstore.sign(self._store, "PUT", _part_key(upload.id, number, digest), SIGNED_FOR)


class _OtherDigest(Exception):
    """The parts of an upload have another digest than the whole blob should have."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest


class _SpooledWriter(BlobWriter):
    """Collects a file in the temporary directory, because its size and digest are known only at the end."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store = store
        self._key = key
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed at the end of the request

    @override
    def write(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
        except OSError as error:
            raise NoSpace(f"{tempfile.gettempdir()}: {error.strerror}; the temporary directory is full") from error

    @override
    def close(self) -> None:
        self._file.seek(0)
        with self._file, _reporting(self._key):
            obstore.put(self._store, self._key, self._file, chunk_size=_CHUNK_BYTES, max_concurrency=_CONCURRENCY)

    @override
    def abort(self) -> None:
        self._file.close()


def _part_key(upload_id: str, number: int, digest: str) -> str:
    """Return the key of a part. Another content has another key, so it cannot replace a part that was verified."""
    return f"{UPLOADS}{upload_id}/{number:05}-{digest.removeprefix('sha256:')}"


@contextmanager
def _reporting(key: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"{key}: the file of a blob is missing in the bucket; {LOST_REMEDY}") from error
    except BaseError as error:
        raise BlobsUnavailable(f"{key}: S3: {str(error)[:500]}; the store of blobs cannot be used now") from error
