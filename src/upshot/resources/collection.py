"""A collection of a registry."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_time
from upshot.domain.registry import CardRevision, Collection
from upshot.resources.urls import api_url


class CollectionJson(TypedDict):
    """A registered model (or data set, …), to which versions are linked and which holds their aliases."""

    id: str
    registry: str
    name: str
    reference: str  #: `registry/collection`
    artifact_type: str
    description: str  #: the model card, in Markdown
    metadata: dict[str, Any]
    tags: list[str]  #: sorted
    aliases: dict[str, str]  #: version by alias, such as `{"production": "v3"}`
    ttl_seconds: int | None  #: after which a link no longer keeps its version; null: without limit
    created_at: str
    created_by: str
    url: str | None  #: in the REST API; null if the server's public address is unknown


class CardRevisionJson(TypedDict):
    """A description (model card) that a collection has or had."""

    description: str  #: Markdown
    created_at: str
    created_by: str


def card_revision_json(revision: CardRevision) -> CardRevisionJson:
    """Return the JSON object of a description."""
    return {
        "description": revision.description,
        "created_at": format_time(revision.created_at),
        "created_by": revision.created_by,
    }


def collection_json(collection: Collection, base_url: str | None) -> CollectionJson:
    """Return the JSON object of a collection."""
    return {
        "id": collection.id,
        "registry": collection.registry,
        "name": collection.name,
        "reference": collection.reference,
        "artifact_type": collection.artifact_type,
        "description": collection.description,
        "metadata": dict(collection.metadata),
        "tags": list(collection.tags),
        "aliases": dict(collection.aliases),
        "ttl_seconds": collection.ttl_seconds,
        "created_at": format_time(collection.created_at),
        "created_by": collection.created_by,
        "url": api_url(base_url, "registries", collection.registry, "collections", collection.name),
    }
