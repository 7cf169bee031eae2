"""Arguments that name something by its id or name: how short forms are resolved, and how a shell completes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from upshot.cli.connection import connect
from upshot.client.http import Client, api_path
from upshot.errors import InvalidInput, NotFound

LATEST = "latest"
_MIN_CHARS = 3  # characters of an id that are required, after its prefix
_SHOWN_MATCHES = 5
_COMPLETIONS = 50  # number of newest ids that are completed
_NAMES = 1_000  # number of automations, collections and versions that are completed
_ID_PART = re.compile(r"[0-9a-z_]{1,40}")

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@dataclass(frozen=True, slots=True)
class Ids:
    """
    The ids of one kind of record.

    Args:
        path: API path of the list, the newest first.
        name: The word for one record, for messages.
        prefix: The beginning of all ids.
        describe: Describes an item of the list in a few words, beside its id.
    """

    path: str
    name: str
    prefix: str
    describe: Callable[[Any], str]

    def find(self, client: Client, text: str) -> str:
        """
        Return the whole id for an id, its unique beginning or end, or `latest`.

        Raises:
            NotFound: No id begins or ends with the text, or the text is too short.
            InvalidInput: Several ids begin or end with it.
        """
        if re.fullmatch(rf"{self.prefix}_[0-9a-z]{{26}}", text):
            return text
        see = f"see `upshot {self.path.removeprefix('/')} list`"
        if text == LATEST:
            if not (newest := client.items(self.path, limit=1)):
                raise NotFound(f"there is no {self.name} yet")
            return str(newest[0]["id"])
        part = text.lower()
        if len(part.removeprefix(f"{self.prefix}_")) < _MIN_CHARS:  # a typing mistake must not match anything
            raise NotFound(f"there is no {self.name} {text!r}; write at least {_MIN_CHARS} characters of its id; {see}")
        found: list[Any] = []
        for candidate in (part, f"{self.prefix}_{part}"):  # the prefix, such as `exe_`, may be left out
            if not found and _ID_PART.fullmatch(candidate):
                found = client.items(self.path, limit=_SHOWN_MATCHES + 1, id=candidate)
        if not found:
            raise NotFound(f"there is no {self.name} {text!r}, and none whose id begins or ends with it; {see}")
        if len(found) > 1:
            ids = ", ".join(str(item["id"]) for item in found[:_SHOWN_MATCHES])
            more = ", …" if len(found) > _SHOWN_MATCHES else ""
            raise InvalidInput(f"{text!r} matches several ids: {ids}{more}; write more characters of the id")
        return str(found[0]["id"])

    def find_optional(self, client: Client, text: str | None) -> str | None:
        """Return the whole id, or None for None."""
        return None if text is None else self.find(client, text)

    @property
    def complete(self) -> Complete:
        """The shell completion of an argument that takes such an id."""
        return completion(
            lambda client, _: (
                CompletionItem(item["id"], help=self.describe(item))
                for item in client.items(self.path, limit=_COMPLETIONS)
            )
        )


def completion(candidates: Callable[[Client, str], Iterable[CompletionItem]]) -> Complete:
    """
    Return a completion that asks the running Upshot.

    Without a running Upshot, or after any error, it completes nothing. An error message would only disturb the line
    that the user types.

    Args:
        candidates: Returns the possible values of an argument, from a client and the text typed so far.
    """

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            data = ctx.params.get("data_dir")
            with connect(Path(data) if data else None) as client:
                return [item for item in candidates(client, incomplete) if item.value.startswith(incomplete)]
        except Exception:  # noqa: BLE001 - see above
            return []

    return complete


EVENTS = Ids("/events", "event", "evt", lambda event: f"{event['kind']} {event['subject']}")
EXECUTIONS = Ids("/executions", "execution", "exe", lambda item: f"{item['automation']} {item['state']}")
JOBS = Ids("/jobs", "job", "job", lambda job: f"{job['automation']}/{job['step_id']} {job['state']}")

complete_automation = completion(
    lambda client, _: (
        CompletionItem(item["name"], help=item["description"] or None)
        for item in client.items("/automations", limit=_NAMES)
    )
)
complete_destination = completion(
    lambda client, _: (
        CompletionItem(item["id"], help=f"{item['name']} {item['state']}")
        for item in client.get("/destinations")["items"]
    )
)


def complete_reference(path: str) -> Complete:
    """
    Return the completion of `scope/name:version`.

    Args:
        path: API path segment of the scopes: `registries` or `projects`.
    """
    names_path = "collections" if path == "registries" else "artifacts"

    def candidates(client: Client, text: str) -> Iterable[CompletionItem]:
        scope, slash, rest = text.partition("/")
        name, colon, _ = rest.partition(":")
        if colon:
            versions = client.items(api_path(path, scope, names_path, name, "versions"), limit=_NAMES)
            for version in versions:
                for word in (version["name"], *version["aliases"]):
                    yield CompletionItem(f"{scope}/{name}:{word}")
        elif slash:
            for item in client.items(api_path(path, scope, names_path), limit=_NAMES):
                yield CompletionItem(item["reference"])
        elif path == "registries":
            for item in client.get("/registries")["items"]:
                yield CompletionItem(f"{item['name']}/")

    return completion(candidates)
