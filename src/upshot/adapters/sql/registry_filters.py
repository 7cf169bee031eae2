"""Filters of the registry's lists in SQL: each function adds the conditions of a `RegistryFilter` to a statement."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from upshot.adapters.sql.json_conditions import json_contains, json_equals
from upshot.adapters.sql.schema import (
    artifact_aliases,
    artifact_versions,
    artifacts,
    collection_aliases,
    collections,
    versions,
)
from upshot.ports.registry import RegistryFilter

Select = sa.Select[Any]


def filter_collections(statement: Select, where: RegistryFilter, dialect: str) -> Select:
    """Keep the collections that match."""
    statement = _filter_json(statement, where, dialect, tags=collections.c.tags, metadata=collections.c.metadata)
    if where.artifact_type is not None:
        statement = statement.where(collections.c.artifact_type == where.artifact_type)
    if where.alias is not None:
        statement = statement.where(
            sa.exists().where(
                collection_aliases.c.collection_id == collections.c.id, collection_aliases.c.alias == where.alias
            )
        )
    return statement


def filter_versions(statement: Select, where: RegistryFilter, dialect: str) -> Select:
    """Keep the versions of a collection that match."""
    columns = artifact_versions.c
    statement = _filter_json(statement, where, dialect, tags=columns.tags, metadata=columns.metadata)
    if where.stage is not None:
        statement = statement.where(versions.c.stage == where.stage.value)
    if where.alias is not None:
        statement = statement.where(
            sa.exists().where(
                collection_aliases.c.collection_id == versions.c.collection_id,
                collection_aliases.c.number == versions.c.number,
                collection_aliases.c.alias == where.alias,
            )
        )
    return statement


def filter_artifacts(statement: Select, where: RegistryFilter) -> Select:
    """Keep the artifacts that match."""
    if where.artifact_type is not None:
        statement = statement.where(artifacts.c.artifact_type == where.artifact_type)
    if where.alias is not None:
        statement = statement.where(
            sa.exists().where(artifact_aliases.c.artifact_id == artifacts.c.id, artifact_aliases.c.alias == where.alias)
        )
    return statement


def filter_artifact_versions(statement: Select, where: RegistryFilter, dialect: str) -> Select:
    """Keep the versions of an artifact that match."""
    columns = artifact_versions.c
    statement = _filter_json(statement, where, dialect, tags=columns.tags, metadata=columns.metadata)
    if where.alias is not None:
        statement = statement.where(
            sa.exists().where(
                artifact_aliases.c.artifact_id == columns.artifact_id,
                artifact_aliases.c.number == columns.number,
                artifact_aliases.c.alias == where.alias,
            )
        )
    return statement


def _filter_json(
    statement: Select, where: RegistryFilter, dialect: str, *, tags: sa.Column[Any], metadata: sa.Column[Any]
) -> Select:
    if where.tag is not None:
        statement = statement.where(json_contains(dialect, tags, where.tag))
    for path, values in where.metadata:
        statement = statement.where(sa.or_(*(json_equals(dialect, metadata, path, value) for value in values)))
    return statement
