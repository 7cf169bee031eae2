"""Requests and responses about collections."""

from __future__ import annotations

from pydantic import Field

from upshot.resources.collection import CollectionJson
from upshot.web.schemas.requests import RequestBody
from upshot.web.schemas.responses import MutationResult, NextPage


class NewCollection(RequestBody):
    """A collection to create."""

    name: str
    artifact_type: str = Field(description="model, dataset, …; it cannot be changed later.")
    description: str = Field("", description="The model card, in Markdown.")


class CollectionChange(RequestBody):
    """Changes to a collection."""

    description: str = Field(description="The model card, in Markdown.")


class CollectionPage(NextPage):
    """A page of collections, by name."""

    items: list[CollectionJson]


class ChangedCollection(CollectionJson, MutationResult):
    """A collection after a mutation."""
