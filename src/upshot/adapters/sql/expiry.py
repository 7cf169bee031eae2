"""The statement that finds artifact versions that may have expired. Each of its parts uses an index of a ttl."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from upshot.adapters.sql.schema import (
    UtcTimestamp,
    artifact_aliases,
    artifact_versions,
    artifacts,
    collection_aliases,
    collections,
    versions,
)
from upshot.domain.reference import LATEST

_MICROSECONDS = 1_000_000


def _is_due(since: sa.Column[Any], ttl_seconds: sa.Column[Any]) -> sa.ColumnElement[bool]:
    due = sa.type_coerce(since, sa.BigInteger) + ttl_seconds * _MICROSECONDS
    return sa.and_(ttl_seconds > 0, due <= sa.bindparam("now", type_=UtcTimestamp))


_has_lasting_link = (
    sa.select(1)
    .select_from(versions.join(collections, collections.c.id == versions.c.collection_id))
    .where(versions.c.artifact_version_id == artifact_versions.c.id, collections.c.ttl_seconds.is_(None))
    .correlate(artifact_versions)
    .exists()
)
_has_alias_of_link = (
    sa.select(1)
    .select_from(
        versions.join(
            collection_aliases,
            sa.and_(
                collection_aliases.c.collection_id == versions.c.collection_id,
                collection_aliases.c.number == versions.c.number,
            ),
        )
    )
    .where(versions.c.artifact_version_id == artifact_versions.c.id, collection_aliases.c.alias != LATEST)
    .correlate(artifact_versions)
    .exists()
)
_has_alias = (
    sa.select(1)
    .where(
        artifact_aliases.c.artifact_id == artifact_versions.c.artifact_id,
        artifact_aliases.c.number == artifact_versions.c.number,
        artifact_aliases.c.alias != LATEST,
    )
    .correlate(artifact_versions)
    .exists()
)
_is_idle = sa.and_(artifact_versions.c.id > sa.bindparam("after"), ~_has_alias, ~_has_lasting_link, ~_has_alias_of_link)
_inherits = artifact_versions.c.ttl_seconds.is_(None)
_IDS = sa.select(artifact_versions.c.id)
_due = sa.union(
    _IDS.where(_is_idle, _is_due(artifact_versions.c.created_at, artifact_versions.c.ttl_seconds)),
    _IDS.join(artifacts, artifacts.c.id == artifact_versions.c.artifact_id).where(
        _is_idle, _inherits, _is_due(artifact_versions.c.created_at, artifacts.c.ttl_seconds)
    ),
    _IDS.join(versions, versions.c.artifact_version_id == artifact_versions.c.id)
    .join(collections, collections.c.id == versions.c.collection_id)
    .where(_is_idle, _inherits, _is_due(versions.c.linked_at, collections.c.ttl_seconds)),
).subquery()
EXPIRY_CANDIDATES = sa.select(_due.c.id).order_by(_due.c.id).limit(sa.bindparam("limit"))
