"""JSON responses, and the shapes that many of them share: pages and results of mutations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import orjson
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.domain.registry import Change
from upshot.ports.paging import Page

T = TypeVar("T")
J = TypeVar("J")


class NextPage(TypedDict):
    """
    The end of a page. Each list adds its `items`.

    A generic class would be shorter, but pydantic does not see the type of the items in its subclasses.
    """

    next: str | None  #: `cursor` for the next page; null if this is the last page


class PageJson(NextPage, Generic[J]):
    """One page of a list, for type checkers."""

    items: list[J]


class MutationResult(TypedDict):
    """Mutation and events that a request caused."""

    mutation_id: str | None  #: shared by the events of the mutation; null if nothing changed
    event_ids: list[str]  #: events that were accepted with the mutation


def json_response(data: object, status: int = 200, *, location: str | None = None) -> Response:
    """Return a JSON response. `location` is the path of the resource that was created."""
    headers = {"Location": location} if location else None
    return Response(orjson.dumps(data), status_code=status, headers=headers, media_type="application/json")


def page_json(page: Page[T], item_json: Callable[[T], J]) -> PageJson[J]:
    """Return the JSON object of a page, with each item converted by `item_json`."""
    return {"items": [item_json(item) for item in page.items], "next": page.next}


def mutation_result(change: Change[Any]) -> MutationResult:
    """Return the JSON object of a mutation's result."""
    return {
        "mutation_id": change.events[0].mutation_id if change.events else None,
        "event_ids": [event.id for event in change.events],
    }
