"""`upshot destinations`."""

from __future__ import annotations

from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.cli.ids import complete_destination
from upshot.client.http import Client, api_path
from upshot.console import Output, local_time
from upshot.errors import InvalidInput, NotFound
from upshot.ids import has_part


@click.group()
def destinations() -> None:
    """List, show and release destinations of requests."""


@destinations.command("list")
@api_command
def list_destinations(client: Client, output: Output) -> None:
    """List the destinations that workers send to, with their attempts and the executions that wait."""
    columns = {
        "id": lambda destination: destination["id"],
        "destination": lambda destination: destination["name"],
        "state": lambda destination: destination["state"],
        "in progress": lambda destination: destination["in_progress"],
        "limit": lambda destination: destination["limit"],
        "waiting": lambda destination: destination["waiting"],
        "next probe": lambda destination: local_time(destination["probe_at"]),
        "reason": lambda destination: destination["reason"],
    }
    output.rows(
        client.get("/destinations")["items"],
        columns,
        empty="no worker has sent a request lately",
        optional=("next probe", "limit", "in progress", "id"),
        wrapped="reason",
    )


@destinations.command()
@click.argument("destination", shell_complete=complete_destination)
@api_command
def show(client: Client, output: Output, destination: str) -> None:
    """Show a destination. Give its id, the beginning or end of its id, or its name as the list shows it."""
    shown = _find(client, destination)
    if output.as_json:
        output.json(shown)
        return
    output.fields(
        (
            ("destination", shown["name"]),
            ("id", shown["id"]),
            ("state", shown["state"]),
            ("reason", shown["reason"]),
            ("in progress", f"{shown['in_progress']} of at most {shown['limit']} attempts"),
            ("waiting", f"{shown['waiting']} executions"),
            ("next probe", local_time(shown["probe_at"])),
        )
    )


@destinations.command()
@click.argument("destination", shell_complete=complete_destination)
@api_command
def release(client: Client, output: Output, destination: str) -> None:
    """Consider a destination up. Workers send to it within five seconds, without waiting for the next probe."""
    found = _find(client, destination)
    released = client.post(api_path("destinations", found["id"], "release"))
    output.result(released, f"workers will send to {released['name']} again")


def _find(client: Client, destination: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = client.get("/destinations")["items"]
    for known in found:
        if destination in (known["id"], known["name"]):
            return known
    similar = [known for known in found if has_part(known["id"], destination)]
    if len(similar) == 1:
        return similar[0]
    if similar:
        ids = ", ".join(known["id"] for known in similar)
        raise InvalidInput(f"{destination!r} matches several ids: {ids}; write more characters of the id")
    raise NotFound(f"no worker has sent to {destination!r} lately; see `upshot destinations list`")
