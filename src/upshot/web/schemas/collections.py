"""Requests and responses about collections."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upshot.resources.collection import CardRevisionJson, CollectionJson
from upshot.web.schemas.requests import JsonObject, RequestBody
from upshot.web.schemas.responses import MutationResult, NextPage


class NewCollection(RequestBody):
    """A collection to create."""

    name: str
    artifact_type: str = Field(description="model, dataset, …; it cannot be changed later.")
    description: str = Field("", description="The model card, in Markdown.")
    metadata: JsonObject = Field({}, description="Any JSON object.")


class CollectionChange(RequestBody):
    """Changes to a collection; a field that is left out stays as it is."""

    name: str = Field("", description="The new name.")
    description: str = Field("", description="The model card, in Markdown.")
    metadata: JsonObject = Field({}, description="A JSON merge patch (RFC 7396): null removes a key.")
    ttl_seconds: int | None = Field(
        None, description="Seconds after which a link no longer keeps its version; null: without limit."
    )

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that were given, as arguments of `Registry.update_collection`."""
        return {"new_name" if name == "name" else name: getattr(self, name) for name in self.model_fields_set}


class CollectionPage(NextPage):
    """A page of collections, by name."""

    items: list[CollectionJson]


class CardRevisionPage(NextPage):
    """The descriptions of a collection, newest first, on one page."""

    items: list[CardRevisionJson]


class ChangedCollection(CollectionJson, MutationResult):
    """A collection after a mutation."""
