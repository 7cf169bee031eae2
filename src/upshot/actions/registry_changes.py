"""What the actions on the registry share: which version they act on, and how they make and report a change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from upshot.actions.inputs import invalid_input
from upshot.actions.protocol import Outcome
from upshot.domain.event import Event, EventKind
from upshot.domain.registry import Change
from upshot.errors import Refused, RegistryError, TemplateInvalid
from upshot.schema.action_inputs import VersionSelector

T = TypeVar("T")


def find_collection(inputs: VersionSelector, event: Event) -> tuple[str, str]:
    """
    Return the registry and the collection of a step. What the step leaves out is taken from the event.

    Raises:
        TemplateInvalid: Neither the step nor the event names a registry or a collection.
    """
    registry = inputs.registry or _name(event, "registry")
    collection = inputs.collection or _name(event, "collection")
    if registry is None or collection is None:
        raise _missing(event, "registry" if registry is None else "collection")
    return registry, collection


def find_version(inputs: VersionSelector, event: Event) -> tuple[str, str, str]:
    """
    Return the registry, the collection and the version of a step.

    The event's version belongs to the event's collection. A step that names another collection must name the
    version, too.

    Raises:
        TemplateInvalid: Neither the step nor the event names one of the three.
    """
    registry, collection = find_collection(inputs, event)
    is_event_collection = (registry, collection) == (_name(event, "registry"), _name(event, "collection"))
    version = inputs.version or (_name(event, "version") if is_event_collection else None)
    if version is None:
        raise _missing(event, "version")
    return registry, collection, version


def _name(event: Event, key: str) -> str | None:
    """Return the name of a resource in an event. The data of a custom event does not describe the registry."""
    value = event.data.get(key) if event.kind is not EventKind.CUSTOM else None
    name = value.get("name") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) else None


def _missing(event: Event, key: str) -> TemplateInvalid:
    return invalid_input(f"the {event.kind} event does not name a {key} for this step; give `{key}` under `with`")


async def call_registry(method: Callable[[], T], request: Mapping[str, Any]) -> T:
    """
    Call the registry in a thread, because its methods wait for the database.

    Raises:
        Refused: The registry rejects the request.
        Unavailable: The database does not respond. The step is performed again later.
    """
    try:
        return await asyncio.to_thread(method)
    except RegistryError as error:
        raise Refused(str(error), request=request) from error


def change_outcome(change: Change[Any], request: Mapping[str, Any], **outputs: Any) -> Outcome:
    """Return the outcome of a change: its outputs and, for the receipt, the request and the ids of its events."""
    event_ids = [event.id for event in change.events]
    return Outcome(
        outputs={**outputs, "changed": bool(event_ids)},
        request=request,
        response={"changed": bool(event_ids), "event_ids": event_ids},
    )
