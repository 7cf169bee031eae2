"""Receive blobs, and read them. A blob is visible only after its bytes were stored and verified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from upshot.clock import Clock
from upshot.errors import Conflict, InvalidInput, NoSpace, NotFound
from upshot.ids import new_id, new_nonce
from upshot.ports.blobs import (
    LOST_REMEDY,
    PART_BYTES,
    BlobFiles,
    BlobIndex,
    BlobUpload,
    BlobWriter,
    StoredBlob,
    upload_of,
)

MAX_PARTS = 10_000  # S3's limit for one object
MAX_BLOB_BYTES = MAX_PARTS * PART_BYTES
MAX_DIGESTS = 5_000  #: in one request
MAX_BATCH_BYTES = 16 * 1024 * 1024  #: of the small blobs in one request
UNREACHABLE_AGE = timedelta(hours=24)  #: blobs that no manifest names are kept so long
UPLOAD_AGE = timedelta(hours=24)  #: an upload without a new part is removed after this time
ORPHAN_AGE = timedelta(hours=24)  #: a file that the index does not have is removed after this time

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def check_blob_digest(digest: str) -> str:
    """
    Validate the digest of a blob, and return it.

    Raises:
        InvalidInput: The text is not `sha256:` and 64 hexadecimal digits in lower case.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"digest {digest[:80]!r}: must be sha256: and 64 hexadecimal digits in lower case")
    return digest


class Blobs:
    """
    Receives and reads blobs.

    Every method may raise `Unavailable`.

    Args:
        index: Which blobs there are.
        files: Their bytes.
        clock: Returns the current time.
    """

    def __init__(self, index: BlobIndex, files: BlobFiles, clock: Clock) -> None:
        self._index = index
        self._files = files
        self._clock = clock

    def missing(self, digests: Sequence[str]) -> list[str]:
        """
        Return the digests whose blobs are not stored, in the given order.

        Raises:
            InvalidInput: A digest is invalid, or there are too many.
        """
        if len(digests) > MAX_DIGESTS:
            raise InvalidInput(f"{len(digests):,} digests in one request; at most {MAX_DIGESTS:,} are allowed")
        found = self._index.find([check_blob_digest(digest) for digest in digests])
        return [digest for digest in dict.fromkeys(digests) if digest not in found]

    def find(self, digests: Collection[str]) -> Mapping[str, StoredBlob]:
        """Return the stored blobs among the digests."""
        return self._index.find(digests)

    def put(self, blobs: Sequence[tuple[str, bytes]]) -> int:
        """
        Store small blobs.

        Args:
            blobs: Pairs of digest and content.

        Returns:
            How many were not stored before.

        Raises:
            InvalidInput: A digest is not that of the content. Nothing is stored.
        """
        for digest, content in blobs:
            check_blob_digest(digest)
            actual = f"sha256:{hashlib.sha256(content).hexdigest()}"
            if actual != digest:
                raise InvalidInput(
                    f"the content of {digest} has the digest {actual}: it changed on its way; send it again"
                )
        contents = dict(blobs)
        known = self._index.find(contents)
        self._index.keep(known, self._clock.now())
        stored = [
            StoredBlob(digest, len(content), new_key(digest))
            for digest, content in contents.items()
            if digest not in known
        ]
        self._files.write({blob.key: contents[blob.digest] for blob in stored})
        self._add_new(stored)
        return len(stored)

    def open_blob(self, digest: str) -> BlobReceiver:
        """
        Begin to receive a blob of up to 64 MiB.

        Args:
            digest: Of the blob.

        Raises:
            InvalidInput: The digest is invalid.
        """
        if check_blob_digest(digest) in self._index.find([digest]):
            self._index.keep([digest], self._clock.now())
            return BlobReceiver(digest, digest, None, lambda _: None)
        key = new_key(digest)
        writer = self._files.open_file(key)
        return BlobReceiver(digest, digest, writer, lambda size: self._add_new([StoredBlob(digest, size, key)]))

    def begin_upload(self, digest: str, size: int) -> BlobUpload | None:
        """
        Begin the upload of a large blob, or resume one.

        Returns:
            The upload, or None if the blob is stored already.

        Raises:
            InvalidInput: The digest or the size is invalid.
        """
        check_blob_digest(digest)
        if not 0 <= size <= MAX_BLOB_BYTES:
            raise InvalidInput(f"size {size}: must be 0 to {MAX_BLOB_BYTES:,} bytes")
        now = self._clock.now()
        if self._index.find([digest]):
            self._index.keep([digest], now)
            return None
        known = self._index.find_upload_of(digest)
        if known is not None and known.size == size:
            self._index.touch_upload(known.id, now)
            return known
        upload = BlobUpload(new_id("upl", now), digest, size, now, {})
        self._index.create_upload(upload)
        return upload

    def upload(self, upload_id: str) -> BlobUpload:
        """
        Return an upload with the parts that have arrived.

        Raises:
            NotFound: The upload does not exist: it is complete, or it expired.
        """
        found = self._index.find_upload(upload_id)
        if found is None:
            raise NotFound(f"there is no upload {upload_id[:80]!r}: it is complete or expired; begin again")
        return found

    def open_part(self, upload: BlobUpload, number: int, digest: str) -> BlobReceiver:
        """
        Begin to receive a part of an upload.

        Args:
            upload: The upload.
            number: Of the part, from 1.
            digest: Of the part.

        Raises:
            InvalidInput: The digest is invalid, or there is no such part.
        """
        self._check_part(upload, number, digest)
        name = f"part {number} of {upload.id}"
        if upload.parts.get(number) == digest:
            return BlobReceiver(name, digest, None, lambda _: self._index.touch_upload(upload.id, self._clock.now()))
        writer = self._files.open_part(upload, number, digest)
        return BlobReceiver(
            name, digest, writer, lambda _: self._index.add_part(upload.id, number, digest, self._clock.now())
        )

    def record_part(self, upload: BlobUpload, number: int, digest: str) -> None:
        """
        Record a part that a client has sent to a signed address. Its content is verified with that of the whole blob.

        Raises:
            Conflict: The part is not there, or has another size.
            InvalidInput: The digest is invalid, or there is no such part.
        """
        self._check_part(upload, number, digest)
        if upload.parts.get(number) == digest:  # recorded before
            return
        size = self._files.part_size(upload, number, digest)
        if size != upload.part_size(number):
            found = "is not there" if size is None else f"has {size:,} of {upload.part_size(number):,} bytes"
            raise Conflict(f"part {number} of {upload.id} {found}; send it first")
        self._index.add_part(upload.id, number, digest, self._clock.now())

    def complete(self, upload: BlobUpload) -> StoredBlob:
        """
        Complete an upload: read the blob back, compare its digest, and make it visible.

        Raises:
            Conflict: Parts are missing.
            InvalidInput: The whole blob has another digest. The upload is removed.
        """
        if known := self._index.find([upload.digest]):
            self._remove_upload(upload.id)
            return known[upload.digest]
        missing = [number for number in range(1, upload.part_count + 1) if number not in upload.parts]
        if missing and upload.size:
            raise Conflict(f"{upload.id}: {len(missing)} parts are missing, the first is {missing[0]}; send them")
        blob = StoredBlob(upload.digest, upload.size, _key_of(upload))
        self._index.touch_upload(upload.id, self._clock.now())  # reading a large blob back takes a while
        actual = self._finish(upload, blob)
        if actual != upload.digest:
            self._files.delete([blob.key])
            self._remove_upload(upload.id)
            raise InvalidInput(
                f"{upload.id}: the blob has the digest {actual}, not {upload.digest}: the file changed during the "
                "upload; begin again"
            )
        self._add([blob])
        self._remove_upload(upload.id)
        return self._index.find([upload.digest])[upload.digest]

    def stored(self, digest: str) -> StoredBlob:
        """
        Return a stored blob.

        Raises:
            NotFound: It is not stored.
        """
        found = self._index.find([check_blob_digest(digest)])
        if digest not in found:
            raise _not_stored(digest)
        return found[digest]

    def stored_many(self, digests: Sequence[str]) -> list[StoredBlob]:
        """
        Return stored blobs, in the given order.

        Raises:
            NotFound: One is not stored.
        """
        if missing := self.missing(digests):
            raise _not_stored(missing[0])
        found = self._index.find(digests)
        return [found[digest] for digest in digests if digest in found]

    def find_damaged(self, digests: Sequence[str]) -> list[str]:
        """
        Read blobs back, and compare their digests.

        A damaged or missing blob is not stored any more, so that a client that has its content can send it again.

        Returns:
            The digests of the blobs that are not stored, in the given order.

        Raises:
            InvalidInput: A digest is invalid, or there are too many.
        """
        damaged = set(self.missing(digests))
        for digest, blob in self._index.find(digests).items():
            if self._hash(blob.key) != (digest, blob.size):
                self._index.remove(blob)
                damaged.add(digest)
        return [digest for digest in dict.fromkeys(digests) if digest in damaged]

    def _hash(self, key: str) -> tuple[str | None, int]:
        """Return digest and number of the bytes under a key; the digest is None if there is no file."""
        digest, size = hashlib.sha256(), 0
        try:
            for chunk in self._files.read(key):
                digest.update(chunk)
                size += len(chunk)
        except NotFound:
            return None, 0
        return f"sha256:{digest.hexdigest()}", size

    def read(self, blob: StoredBlob, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a blob from `start` up to and without `end`."""
        return self._files.read(blob.key, start, end)

    def local_path(self, blob: StoredBlob) -> str | None:
        """
        Return the path of a blob's file on this machine, or None if it is elsewhere.

        Raises:
            NotFound: The file is missing or has another size.
        """
        path = self._files.local_path(blob.key)
        if path is None:
            return None
        file = Path(path)
        size = file.stat().st_size if file.exists() else None
        if size != blob.size:
            found = "is missing" if size is None else f"has {size:,} of {blob.size:,} bytes"
            raise NotFound(f"the file of blob {blob.digest} {found}; {LOST_REMEDY}")
        return path

    def sign_download(self, blob: StoredBlob) -> str | None:
        """Return an address from which a blob can be read for some time without this server, or None."""
        return self._files.sign_download(blob.key)

    def sign_part(self, upload: BlobUpload, number: int, digest: str) -> str | None:
        """Return an address to which a part can be sent without this server, or None."""
        self._check_part(upload, number, digest)
        return self._files.sign_part(upload, number, digest)

    def remove_unreachable(self, *, limit: int) -> int:
        """
        Remove blobs that no manifest names, and uploads that make no progress.

        Args:
            limit: How many of each.

        Returns:
            How many were removed. If it is less than `limit`, nothing is left to remove.
        """
        now = self._clock.now()
        # The index first. If the process dies before the files are deleted, they are orphans.
        removed = self._index.remove_unreachable(before=now - UNREACHABLE_AGE, limit=limit)
        self._files.delete([blob.key for blob in removed])
        expired = self._index.remove_expired_uploads(before=now - UPLOAD_AGE, limit=limit)
        for upload_id in expired:
            self._files.discard(upload_id)
        return max(len(removed), len(expired))

    def remove_orphans(self, *, after: str = "", limit: int) -> tuple[int, str | None]:
        """
        Remove old files that the index does not have: a process died before it could add or delete them.

        A file that a manifest needs, and whose content is right, is added to the index instead: it was missing for a
        while, such as on a disk that was not mounted.

        Args:
            after: The last key that was looked at; empty to begin.
            limit: How many files to look at.

        Returns:
            How many were removed, and the last key; None at the end.
        """
        before = self._clock.now() - ORPHAN_AGE
        page = self._files.page_keys(after=after, limit=limit)
        old = [key for key, written_at in page if written_at < before]
        digests = {key: digest_of(key) for key in old if upload_of(key) is None}
        found = self._index.find(set(digests.values()))
        needed = self._index.needed(set(digests.values()) - found.keys())
        removed = 0
        for key in old:
            upload_id = upload_of(key)
            if upload_id is not None:
                if self._index.find_upload(upload_id) is None:
                    self._files.discard(upload_id)
                    removed += 1
                continue
            blob = found.get(digests[key])
            if blob is None and digests[key] in needed:
                digest, size = self._hash(key)
                if digest == digests[key]:
                    self._add([StoredBlob(digest, size, key)])
                    continue
            # An upload that crashed while it was completed can be completed again, with the same file.
            if (blob is None or blob.key != key) and self._index.find_upload_of(digests[key]) is None:
                self._files.delete([key])
                removed += 1
        return removed, page[-1][0] if len(page) == limit else None

    @staticmethod
    def _check_part(upload: BlobUpload, number: int, digest: str) -> None:
        check_blob_digest(digest)
        if not 1 <= number <= upload.part_count:
            raise InvalidInput(f"part {number}: {upload.id} has {upload.part_count} parts, counted from 1")

    def _finish(self, upload: BlobUpload, blob: StoredBlob) -> str:
        try:
            return self._files.finish(upload, blob.key)
        except NotFound:
            if upload.digest in self._index.find([upload.digest]):  # somebody else has completed it
                return upload.digest
            self._index.remove_upload(upload.id)
            raise Conflict(f"{upload.id}: the parts are not stored any more; begin again") from None

    def _add_new(self, blobs: Sequence[StoredBlob]) -> None:
        """Make blobs visible whose files nobody else knows. If there is no room for that, their files take none."""
        try:
            self._add(blobs)
        except NoSpace:
            self._files.delete([blob.key for blob in blobs])
            raise

    def _add(self, blobs: Sequence[StoredBlob]) -> None:
        """Make stored blobs visible, and delete the files of those that somebody else stored meanwhile."""
        duplicates = self._index.add(blobs, self._clock.now())
        self._files.delete([blob.key for blob in duplicates])

    def _remove_upload(self, upload_id: str) -> None:
        self._files.discard(upload_id)
        self._index.remove_upload(upload_id)


class BlobReceiver:
    """
    Receives a blob, or one part of an upload.

    Args:
        name: Of the blob or part, for messages.
        digest: That the client announced.
        writer: Writes the bytes; None if they are stored already, and are only compared.
        record: Called with the number of bytes when everything has arrived and is correct.
    """

    def __init__(self, name: str, digest: str, writer: BlobWriter | None, record: Callable[[int], None]) -> None:
        self._name = name
        self._expected = digest
        self._actual = hashlib.sha256()
        self._size = 0
        self._writer = writer
        self._record = record

    def write_all(self, chunks: Iterable[bytes]) -> None:
        """Append bytes."""
        for chunk in chunks:
            self.write(chunk)

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        self._actual.update(chunk)
        self._size += len(chunk)
        if self._writer:
            self._writer.write(chunk)

    def finish(self) -> None:
        """
        Make it durable and visible.

        Raises:
            InvalidInput: Its content has another digest.
        """
        actual = f"sha256:{self._actual.hexdigest()}"
        if self._expected != actual:
            self.abort()
            raise InvalidInput(
                f"{self._name}: the content has the digest {actual}, not {self._expected}: it changed on its way; send "
                "it again"
            )
        if self._writer:
            self._writer.close()
        self._record(self._size)

    def abort(self) -> None:
        """Give up, because the rest does not arrive."""
        if self._writer:
            self._writer.abort()


def _not_stored(digest: str) -> NotFound:
    return NotFound(f"blob {digest} is not stored here; {LOST_REMEDY}")


def new_key(digest: str) -> str:
    """Return a new key for a blob. Another upload of the same content has another key."""
    return _key(digest, new_nonce()[2:18])


def digest_of(key: str) -> str:
    """Return the digest of the blob that has a key."""
    return f"sha256:{key.rpartition('/')[2].partition('-')[0]}"


def _key_of(upload: BlobUpload) -> str:
    """Return the key of the blob that an upload makes: always the same, so that completing it can be repeated."""
    return _key(upload.digest, upload.id.removeprefix("upl_"))


def _key(digest: str, suffix: str) -> str:
    name = digest.removeprefix("sha256:")
    return f"sha256/{name[:2]}/{name}-{suffix}"
