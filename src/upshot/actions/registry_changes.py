"""What the actions that change the registry share: which version is meant, and how a change is made and told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from upshot.actions.inputs import not_usable
from upshot.actions.protocol import Outcome
from upshot.domain.event import Event, EventKind
from upshot.domain.registry import Change
from upshot.errors import Refused, RegistryError, TemplateInvalid, Unavailable, Unreachable
from upshot.schema.action_inputs import VersionSelector

T = TypeVar("T")


def find_collection(given: VersionSelector, event: Event) -> tuple[str, str]:
    """
    Tell which collection is meant: what the step says, and the event's where it says nothing.

    Returns:
        Registry and collection.

    Raises:
        TemplateInvalid: The step leaves something out that the event does not have.
    """
    data = _contexts(event)
    registry = given.registry or _name(data, "registry")
    collection = given.collection or _name(data, "collection")
    if registry is None or collection is None:
        raise _unsaid(event, "registry" if registry is None else "collection")
    return registry, collection


def find_version(given: VersionSelector, event: Event) -> tuple[str, str, str]:
    """
    Tell which version is meant, as `find_collection` does.

    The event's version stands for its own collection only: whoever names another collection names the version, too.

    Returns:
        Registry, collection and version.

    Raises:
        TemplateInvalid: The step leaves something out that the event does not have.
    """
    registry, collection = find_collection(given, event)
    data = _contexts(event)
    at_home = (registry, collection) == (_name(data, "registry"), _name(data, "collection"))
    version = given.version or (_name(data, "version") if at_home else None)
    if version is None:
        raise _unsaid(event, "version")
    return registry, collection, version


def _contexts(event: Event) -> Mapping[str, Any]:
    """A registry event's data; a custom event's is the user's own and says nothing about the registry."""
    return event.data if event.kind is not EventKind.CUSTOM else {}


def _unsaid(event: Event, key: str) -> TemplateInvalid:
    return not_usable(f"the {event.kind} event does not say which {key} is meant; give `{key}` under `with`")


def _name(data: Mapping[str, Any], key: str) -> str | None:
    value = data.get(key)
    name = value.get("name") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) else None


async def change(mutate: Callable[[], T], asked: Mapping[str, Any]) -> T:
    """
    Make one change, off the event loop; the registry's verbs wait for the database.

    Raises:
        Refused: The registry cannot do it as asked.
        Unreachable: The database does not answer.
    """
    try:
        return await asyncio.to_thread(mutate)
    except RegistryError as error:
        raise Refused(str(error), request=asked) from error
    except Unavailable as error:
        raise Unreachable(str(error), request=asked) from error


def told(made: Change[Any], asked: Mapping[str, Any], **outputs: Any) -> Outcome:
    """The outcome of a change: its outputs, and for the receipt what was asked and which events it made."""
    events = [event.id for event in made.events]
    return Outcome(
        outputs={**outputs, "changed": bool(events)},
        request=asked,
        response={"changed": bool(events), "events": events},
    )
