"""Receive blobs, and read them. A blob is visible only after its bytes were stored and verified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta

from upshot.clock import Clock
from upshot.errors import Conflict, InvalidInput, NotFound
from upshot.ids import new_id, new_nonce
from upshot.ports.blobs import BlobFiles, BlobIndex, BlobUpload, PartWriter, StoredBlob

MAX_BLOB_BYTES = 5 * 1024**4  #: the largest object of S3
MAX_DIGESTS = 5_000  #: in one request
MAX_BATCH_BYTES = 16 * 1024 * 1024  #: of the small blobs in one request
UNREACHABLE_AGE = timedelta(hours=24)  #: blobs that no manifest names are kept so long
UPLOAD_AGE = timedelta(hours=24)  #: an upload without a new part is removed after this time

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
        known = self._index.find([digest for digest, _ in blobs])
        new = {digest: content for digest, content in blobs if digest not in known}
        stored = [StoredBlob(digest, len(content), new_key(digest)) for digest, content in new.items()]
        for blob in stored:
            self._files.write(blob.key, [new[blob.digest]])
        self._add(stored)
        return len(stored)

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
        if self._index.find([digest]):
            return None
        known = self._index.find_upload_of(digest)
        if known is not None and known.size == size:
            return known
        now = self._clock.now()
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

    def open_part(self, upload: BlobUpload, number: int, digest: str) -> PartReceiver:
        """
        Begin to receive a part of an upload.

        Args:
            upload: The upload.
            number: Of the part, from 1.
            digest: Of the part.

        Raises:
            InvalidInput: The digest is invalid, or there is no such part.
        """
        check_blob_digest(digest)
        if not 1 <= number <= upload.part_count:
            raise InvalidInput(f"part {number}: {upload.id} has {upload.part_count} parts, counted from 1")
        writer = self._files.open_part(upload, number)

        def record() -> None:
            self._index.add_part(upload.id, number, digest, self._clock.now())

        return PartReceiver(f"part {number} of {upload.id}", digest, writer, record)

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
        blob = StoredBlob(upload.digest, upload.size, new_key(upload.digest))
        actual = self._files.finish(upload, blob.key)
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
            raise NotFound(f"blob {digest} is not stored here")
        return found[digest]

    def read(self, blob: StoredBlob, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a blob from `start` up to and without `end`."""
        return self._files.read(blob.key, start, end)

    def local_path(self, blob: StoredBlob) -> str | None:
        """Return the path of a blob's file on this machine, or None if it is elsewhere."""
        return self._files.local_path(blob.key)

    def sign_download(self, blob: StoredBlob) -> str | None:
        """Return an address from which a blob can be read for some time without this server, or None."""
        return self._files.sign_download(blob.key)

    def sign_part(self, upload: BlobUpload, number: int) -> str | None:
        """Return an address to which a part can be sent without this server, or None."""
        return self._files.sign_part(upload, number)

    def remove_unreachable(self, *, limit: int) -> int:
        """Remove blobs that no manifest names, and uploads that make no progress. Return their number."""
        now = self._clock.now()
        removed = self._index.remove_unreachable(before=now - UNREACHABLE_AGE, limit=limit)
        self._files.delete([blob.key for blob in removed])
        expired = self._index.expired_uploads(before=now - UPLOAD_AGE, limit=limit)
        for upload_id in expired:
            self._remove_upload(upload_id)
        return len(removed) + len(expired)

    def _add(self, blobs: Sequence[StoredBlob]) -> None:
        """Make stored blobs visible, and delete the files of those that somebody else stored meanwhile."""
        duplicates = self._index.add(blobs, self._clock.now())
        self._files.delete([blob.key for blob in duplicates])

    def _remove_upload(self, upload_id: str) -> None:
        self._files.discard(upload_id)
        self._index.remove_upload(upload_id)


class PartReceiver:
    """
    Receives one part of an upload.

    Args:
        name: Of the part, for messages.
        digest: That the client announced.
        writer: Writes the bytes.
        record: Called when the part is complete and correct.
    """

    def __init__(self, name: str, digest: str, writer: PartWriter, record: Callable[[], None]) -> None:
        self._name = name
        self._expected = digest
        self._actual = hashlib.sha256()
        self._writer = writer
        self._record = record

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        self._actual.update(chunk)
        self._writer.write(chunk)

    def finish(self) -> None:
        """
        Complete the part.

        Raises:
            InvalidInput: Its content has another digest.
        """
        self._writer.close()
        if self._expected != f"sha256:{self._actual.hexdigest()}":
            raise InvalidInput(f"{self._name}: the content has another digest: it changed on its way; send it again")
        self._record()

    def abort(self) -> None:
        """Give up, because the rest does not arrive."""
        self._writer.abort()


def new_key(digest: str) -> str:
    """Return a new key for a blob. Another upload of the same content has another key."""
    name = digest.removeprefix("sha256:")
    return f"sha256/{name[:2]}/{name}-{new_nonce()[2:18]}"
