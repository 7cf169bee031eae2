"""The index of blobs in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import blob_parts, blob_uploads, blobs, manifest_entries, run_files
from upshot.ports.blobs import BlobIndex, BlobUpload, StoredBlob

# A blob that was used later than this is not touched again; it is kept for longer than that anyway.
TOUCH_AFTER = timedelta(hours=1)

_FIND_BATCH = 5_000  # digests in one statement; SQLite accepts 32,766 parameters

_FIND = sa.select(blobs.c.digest, blobs.c.size, blobs.c.key).where(
    blobs.c.digest.in_(sa.bindparam("digests", expanding=True))
)
# A blob that is there already is in use again.
_ADD = {
    dialect: insert.on_conflict_do_update(index_elements=[blobs.c.digest], set_={"used_at": insert.excluded.used_at})
    for dialect, insert in (("sqlite", sqlite.insert(blobs)), ("postgresql", postgresql.insert(blobs)))
}
_KEEP = (
    sa.update(blobs)
    .where(blobs.c.digest.in_(sa.bindparam("digests", expanding=True)), blobs.c.used_at < sa.bindparam("before"))
    .values(used_at=sa.bindparam("now"))
)
_is_unreachable = sa.and_(
    ~sa.exists().where(manifest_entries.c.digest == blobs.c.digest),
    ~sa.exists().where(run_files.c.digest == blobs.c.digest),
)
_UNREACHABLE = (
    sa.select(blobs.c.digest)
    .where(blobs.c.used_at < sa.bindparam("before"), _is_unreachable)
    .order_by(blobs.c.used_at)
    .limit(sa.bindparam("limit"))
)
# The conditions are checked again: a manifest may have begun to use a blob meanwhile, which changes `used_at`.
_REMOVE_UNREACHABLE = (
    sa.delete(blobs)
    .where(
        blobs.c.digest.in_(sa.bindparam("digests", expanding=True)),
        blobs.c.used_at < sa.bindparam("before"),
        _is_unreachable,
    )
    .returning(blobs.c.digest, blobs.c.size, blobs.c.key)
)
_REMOVE = sa.delete(blobs).where(blobs.c.digest == sa.bindparam("of"), blobs.c.key == sa.bindparam("under"))
_NEEDED = (
    sa.select(manifest_entries.c.digest)
    .distinct()
    .where(manifest_entries.c.digest.in_(sa.bindparam("digests", expanding=True)), manifest_entries.c.ref.is_(None))
)
_ADD_UPLOAD = sa.insert(blob_uploads)
_UPLOAD = sa.select(blob_uploads).where(blob_uploads.c.id == sa.bindparam("id"))
_UPLOAD_OF = (
    sa.select(blob_uploads).where(blob_uploads.c.digest == sa.bindparam("digest")).order_by(blob_uploads.c.id.desc())
).limit(1)
_PARTS = sa.select(blob_parts.c.number, blob_parts.c.digest).where(blob_parts.c.upload_id == sa.bindparam("id"))
_ADD_PART = {
    dialect: insert.on_conflict_do_update(
        index_elements=[blob_parts.c.upload_id, blob_parts.c.number], set_={"digest": insert.excluded.digest}
    )
    for dialect, insert in (("sqlite", sqlite.insert(blob_parts)), ("postgresql", postgresql.insert(blob_parts)))
}
_TOUCH_UPLOAD = (
    sa.update(blob_uploads).where(blob_uploads.c.id == sa.bindparam("key_id")).values(updated_at=sa.bindparam("now"))
)
_REMOVE_UPLOAD = (
    sa.delete(blob_parts).where(blob_parts.c.upload_id == sa.bindparam("id")),
    sa.delete(blob_uploads).where(blob_uploads.c.id == sa.bindparam("id")),
)
_REMOVE_EXPIRED = (
    sa.delete(blob_uploads)
    .where(blob_uploads.c.id == sa.bindparam("id"), blob_uploads.c.updated_at < sa.bindparam("before"))
    .returning(blob_uploads.c.id)
)
_EXPIRED_UPLOADS = (
    sa.select(blob_uploads.c.id)
    .where(blob_uploads.c.updated_at < sa.bindparam("before"))
    .order_by(blob_uploads.c.updated_at)
    .limit(sa.bindparam("limit"))
)


class SqlBlobs(BlobIndex):
    """`BlobIndex` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def find(self, digests: Collection[str]) -> Mapping[str, StoredBlob]:
        listed = list(digests)

        def work(connection: Connection) -> dict[str, StoredBlob]:
            found: dict[str, StoredBlob] = {}
            for start in range(0, len(listed), _FIND_BATCH):
                rows = connection.execute(_FIND, {"digests": listed[start : start + _FIND_BATCH]})
                found.update((row.digest, StoredBlob(row.digest, row.size, row.key)) for row in rows)
            return found

        return self._database.read(work) if listed else {}

    @override
    def keep(self, digests: Collection[str], now: datetime) -> None:
        listed = sorted(digests)  # in one order, so that two transactions do not wait for each other

        def work(connection: Connection) -> None:
            for start in range(0, len(listed), _FIND_BATCH):
                batch = listed[start : start + _FIND_BATCH]
                connection.execute(_KEEP, {"digests": batch, "before": now - TOUCH_AFTER, "now": now})

        if listed:
            self._database.write(work)

    @override
    def add(self, blobs: Sequence[StoredBlob], now: datetime) -> Sequence[StoredBlob]:
        if not blobs:
            return []

        def work(connection: Connection) -> list[StoredBlob]:
            keys: dict[str, str] = {}
            ordered = sorted(blobs, key=lambda blob: blob.digest)  # see `keep`
            for start in range(0, len(ordered), _FIND_BATCH):
                batch = ordered[start : start + _FIND_BATCH]
                rows = [{"digest": blob.digest, "size": blob.size, "key": blob.key, "used_at": now} for blob in batch]
                connection.execute(_ADD[connection.dialect.name], rows)
                stored = connection.execute(_FIND, {"digests": [blob.digest for blob in batch]})
                keys.update((row.digest, row.key) for row in stored)
            return [blob for blob in blobs if keys[blob.digest] != blob.key]

        return self._database.write(work)

    @override
    def remove(self, blob: StoredBlob) -> None:
        row = {"of": blob.digest, "under": blob.key}
        self._database.write(lambda connection: connection.execute(_REMOVE, row))

    @override
    def needed(self, digests: Collection[str]) -> Collection[str]:
        listed = list(digests)

        def work(connection: Connection) -> set[str]:
            found: set[str] = set()
            for start in range(0, len(listed), _FIND_BATCH):
                found.update(connection.execute(_NEEDED, {"digests": listed[start : start + _FIND_BATCH]}).scalars())
            return found

        return self._database.read(work)

    @override
    def remove_unreachable(self, *, before: datetime, limit: int) -> Sequence[StoredBlob]:
        candidates = self._database.read(
            lambda connection: connection.execute(_UNREACHABLE, {"before": before, "limit": limit}).scalars().all()
        )
        if not candidates:
            return []

        def work(connection: Connection) -> list[StoredBlob]:
            removed = connection.execute(_REMOVE_UNREACHABLE, {"digests": list(candidates), "before": before})
            return [StoredBlob(row.digest, row.size, row.key) for row in removed]

        return self._database.write(work)

    @override
    def create_upload(self, upload: BlobUpload) -> None:
        row = {"id": upload.id, "digest": upload.digest, "size": upload.size, "updated_at": upload.updated_at}
        self._database.write(lambda connection: connection.execute(_ADD_UPLOAD, row))

    @override
    def find_upload(self, upload_id: str) -> BlobUpload | None:
        return self._find_upload(_UPLOAD, id=upload_id)

    @override
    def find_upload_of(self, digest: str) -> BlobUpload | None:
        return self._find_upload(_UPLOAD_OF, digest=digest)

    def _find_upload(self, statement: sa.Select[Any], **params: str) -> BlobUpload | None:
        def work(connection: Connection) -> BlobUpload | None:
            row: Row[Any] | None = connection.execute(statement, params).first()
            if row is None:
                return None
            parts = {part.number: part.digest for part in connection.execute(_PARTS, {"id": row.id})}
            return BlobUpload(row.id, row.digest, row.size, row.updated_at, parts)

        return self._database.read(work)

    @override
    def add_part(self, upload_id: str, number: int, digest: str, now: datetime) -> None:
        def work(connection: Connection) -> None:
            if connection.execute(_TOUCH_UPLOAD, {"key_id": upload_id, "now": now}).rowcount:
                row = {"upload_id": upload_id, "number": number, "digest": digest}
                connection.execute(_ADD_PART[connection.dialect.name], row)

        self._database.write(work)

    @override
    def remove_upload(self, upload_id: str) -> None:
        def work(connection: Connection) -> None:
            for statement in _REMOVE_UPLOAD:
                connection.execute(statement, {"id": upload_id})

        self._database.write(work)

    @override
    def touch_upload(self, upload_id: str, now: datetime) -> None:
        self._database.write(lambda connection: connection.execute(_TOUCH_UPLOAD, {"key_id": upload_id, "now": now}))

    @override
    def remove_expired_uploads(self, *, before: datetime, limit: int) -> Sequence[str]:
        def work(connection: Connection) -> list[str]:
            expired = connection.execute(_EXPIRED_UPLOADS, {"before": before, "limit": limit}).scalars().all()
            # The condition is checked again: somebody may have resumed the upload meanwhile. Its parts go with it.
            return [
                upload_id
                for upload_id in expired
                if connection.execute(_REMOVE_EXPIRED, {"id": upload_id, "before": before}).first()
            ]

        return self._database.write(work)
