"""Manifests and pending versions in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from upshot.adapters.sql.blobs import TOUCH_AFTER
from upshot.adapters.sql.schema import artifact_versions, blobs, manifest_entries, manifests, pending_versions
from upshot.clock import parse_time
from upshot.domain.manifest import ManifestEntry, ManifestSummary
from upshot.domain.pending_version import EarlierRequest, PendingVersion, VersionRequest

_INSERT_ENTRY = sa.text(  # the same on both databases
    "INSERT INTO manifest_entries (manifest_id, path, digest, size, ref) "
    "VALUES (:manifest_id, :path, :digest, :size, :ref) "
    "ON CONFLICT (manifest_id, path) DO NOTHING"
)
_ADD_MANIFEST = sa.insert(manifests)
_REMOVE_MANIFEST = (
    sa.delete(manifest_entries).where(manifest_entries.c.manifest_id == sa.bindparam("key_id")),
    sa.delete(manifests).where(manifests.c.id == sa.bindparam("key_id")),
)
_IS_USED = sa.select(sa.literal(1)).where(
    sa.or_(
        sa.exists().where(artifact_versions.c.manifest_id == sa.bindparam("id")),
        sa.exists().where(pending_versions.c.manifest_id == sa.bindparam("id")),
    )
)
_of_manifest = manifest_entries.c.manifest_id == sa.bindparam("id")
_ENTRIES = (
    sa.select(manifest_entries)
    .where(_of_manifest, manifest_entries.c.path > sa.bindparam("after"))
    .order_by(manifest_entries.c.path)
    .limit(sa.bindparam("limit"))
)
_ENTRY = sa.select(manifest_entries).where(_of_manifest, manifest_entries.c.path == sa.bindparam("path"))
_TOTALS = sa.select(
    sa.func.count(),
    sa.func.coalesce(sa.func.sum(manifest_entries.c.size), 0),
    sa.func.count(manifest_entries.c.size),
).where(_of_manifest)
_MISSING = (
    sa.select(manifest_entries.c.digest)
    .distinct()
    .where(
        _of_manifest,
        manifest_entries.c.ref.is_(None),
        ~sa.exists().where(blobs.c.digest == manifest_entries.c.digest),
    )
    .limit(sa.bindparam("limit"))
)
_TOUCH = (
    sa.update(blobs)
    .where(blobs.c.digest.in_(sa.bindparam("digests", expanding=True)), blobs.c.used_at < sa.bindparam("before"))
    .values(used_at=sa.bindparam("now"))
)
_OTHER_SIZE = (
    sa.select(manifest_entries)
    .join(blobs, blobs.c.digest == manifest_entries.c.digest)
    .where(_of_manifest, manifest_entries.c.ref.is_(None), manifest_entries.c.size != blobs.c.size)
    .limit(sa.bindparam("limit"))
)
_KNOWN = sa.select(blobs.c.digest).where(blobs.c.digest.in_(sa.bindparam("digests", expanding=True)))
_SEAL = (
    sa.update(manifests)
    .where(manifests.c.id == sa.bindparam("key_id"))
    .values(file_count=sa.bindparam("count"), size=sa.bindparam("bytes"), is_stored=sa.bindparam("stored"))
)
_PENDING = sa.select(pending_versions).where(pending_versions.c.id == sa.bindparam("id"))
_ADD_PENDING = sa.insert(pending_versions)
_TOUCH_PENDING = (
    sa.update(pending_versions)
    .where(pending_versions.c.id == sa.bindparam("key_id"))
    .values(updated_at=sa.bindparam("now"))
)
_REMOVE_PENDING = sa.delete(pending_versions).where(pending_versions.c.id == sa.bindparam("id"))
_EXPIRED_PENDING = (
    sa.select(pending_versions)
    .where(pending_versions.c.updated_at < sa.bindparam("before"))
    .order_by(pending_versions.c.updated_at)
    .limit(sa.bindparam("limit"))
)


def add_manifest(connection: Connection, manifest: ManifestSummary) -> None:
    """Add a manifest without entries."""
    connection.execute(_ADD_MANIFEST, asdict(manifest))


def add_entries(connection: Connection, manifest_id: str, entries: Sequence[ManifestEntry]) -> None:
    """Add entries to a manifest. An entry whose path is there stays as it is."""
    if entries:
        rows = [{"manifest_id": manifest_id, **asdict(entry)} for entry in entries]
        connection.execute(_INSERT_ENTRY, rows)


def seal_manifest(connection: Connection, manifest: ManifestSummary) -> None:
    """Store count, size and state of a manifest whose entries are complete."""
    values = {"count": manifest.file_count, "bytes": manifest.size, "stored": manifest.is_stored}
    connection.execute(_SEAL, {"key_id": manifest.id, **values})


def remove_unused_manifest(connection: Connection, manifest_id: str) -> None:
    """Remove a manifest with its entries, unless a version or a pending version has it."""
    if connection.execute(_IS_USED, {"id": manifest_id}).first() is None:
        for statement in _REMOVE_MANIFEST:
            connection.execute(statement, {"key_id": manifest_id})


def page_entries(connection: Connection, manifest_id: str, after: str, limit: int) -> list[ManifestEntry]:
    """Return entries by path, after a path."""
    rows = connection.execute(_ENTRIES, {"id": manifest_id, "after": after, "limit": limit})
    return [_entry(row) for row in rows]


def find_entry(connection: Connection, manifest_id: str, path: str) -> ManifestEntry | None:
    """Return the entry with a path, or None."""
    row = connection.execute(_ENTRY, {"id": manifest_id, "path": path}).first()
    return _entry(row) if row else None


def manifest_totals(connection: Connection, manifest_id: str) -> tuple[int, int | None]:
    """Return the number of entries, and their size in bytes; None if the size of one is unknown."""
    count, size, known = connection.execute(_TOTALS, {"id": manifest_id}).one()
    return count, int(size) if known == count else None


def missing_blobs(connection: Connection, manifest_id: str, limit: int) -> tuple[str, ...]:
    """Return digests of files whose blobs are not stored."""
    return tuple(connection.execute(_MISSING, {"id": manifest_id, "limit": limit}).scalars())


def files_of_other_size(connection: Connection, manifest_id: str, limit: int) -> list[ManifestEntry]:
    """Return files whose announced size is not that of their blob."""
    return [_entry(row) for row in connection.execute(_OTHER_SIZE, {"id": manifest_id, "limit": limit})]


def use_blobs(connection: Connection, digests: Sequence[str], now: datetime) -> frozenset[str]:
    """
    Keep stored blobs from being removed as unreachable, and return those that are not stored.

    The rows stay locked until the end of the transaction, so that nobody removes a blob that a manifest is about to
    name.
    """
    if not digests:
        return frozenset()
    connection.execute(_TOUCH, {"digests": list(digests), "before": now - TOUCH_AFTER, "now": now})
    known = connection.execute(_KNOWN, {"digests": list(digests)}).scalars()
    return frozenset(digests).difference(known)


def find_pending(connection: Connection, version_id: str) -> PendingVersion | None:
    """Return a pending version, or None."""
    row = connection.execute(_PENDING, {"id": version_id}).first()
    return _pending(row) if row else None


def add_pending(connection: Connection, pending: PendingVersion) -> None:
    """Add a pending version."""
    row = {
        "id": pending.id,
        "manifest_id": pending.manifest_id,
        "request": asdict(pending.request),
        "updated_at": pending.updated_at,
    }
    connection.execute(_ADD_PENDING, row)


def touch_pending(connection: Connection, version_id: str, now: datetime) -> None:
    """Record progress of a pending version."""
    connection.execute(_TOUCH_PENDING, {"key_id": version_id, "now": now})


def remove_pending(connection: Connection, version_id: str) -> None:
    """Remove a pending version; its manifest stays."""
    connection.execute(_REMOVE_PENDING, {"id": version_id})


def expired_pending(connection: Connection, before: datetime, limit: int) -> tuple[PendingVersion, ...]:
    """Return pending versions without progress since a time."""
    return tuple(_pending(row) for row in connection.execute(_EXPIRED_PENDING, {"before": before, "limit": limit}))


def _entry(row: Row[Any]) -> ManifestEntry:
    return ManifestEntry(row.path, row.digest, row.size, row.ref)


def _pending(row: Row[Any]) -> PendingVersion:
    earlier = row.request.get("earlier")
    request = {
        **row.request,
        "aliases": tuple(row.request["aliases"]),
        "tags": tuple(row.request["tags"]),
        "earlier": _earlier(earlier) if earlier else None,
    }
    return PendingVersion(row.id, row.manifest_id, VersionRequest(**request), row.updated_at)


def _earlier(stored: Mapping[str, Any]) -> EarlierRequest:
    return EarlierRequest(parse_time(stored["happened_at"]))
