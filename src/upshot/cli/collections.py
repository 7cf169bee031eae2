"""`upshot registry collections`."""

from __future__ import annotations

from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.cli.params import COLLECTION
from upshot.client.http import Client, path_of
from upshot.client.output import Output, when


@click.group()
def collections() -> None:
    """List, make, show, describe and delete collections."""


@collections.command("list")
@click.argument("registry")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
@api_command
def list_collections(client: Client, output: Output, registry: str, limit: int) -> None:
    """List the collections of a registry."""
    found = client.items(path_of("registries", registry, "collections"), limit=limit)
    columns = {
        "collection": lambda one: f"{registry}/{one['name']}",
        "type": lambda one: one["artifact_type"],
        "aliases": _aliases,
        "tags": lambda one: one["tags"],
    }
    output.rows(found, columns, none=f"registry {registry} has no collections yet: `upshot registry link` makes one")


@collections.command()
@click.argument("collection", type=COLLECTION)
@click.option("--type", "artifact_type", default="model", show_default=True, help="Type of the artifacts it takes.")
@click.option("--description", help="The model card, in Markdown.")
@api_command
def create(
    client: Client, output: Output, collection: tuple[str, str], artifact_type: str, description: str | None
) -> None:
    """Make a collection."""
    registry, name = collection
    body = {"name": name, "artifact_type": artifact_type, "description": description or ""}
    made = client.post(path_of("registries", registry, "collections"), body)
    output.done(made, f"made {registry}/{name}, for artifacts of type {artifact_type}")


@collections.command()
@click.argument("collection", type=COLLECTION)
@api_command
def show(client: Client, output: Output, collection: tuple[str, str]) -> None:
    """Show a collection."""
    registry, name = collection
    one = client.get(path_of("registries", registry, "collections", name))
    if output.as_json:
        output.data(one)
        return
    output.fields(
        (
            ("collection", f"{registry}/{name}"),
            ("type", one["artifact_type"]),
            ("aliases", _aliases(one)),
            ("tags", one["tags"]),
            ("made", f"{when(one['created_at'])} by {one['created_by']}"),
            ("description", one["description"]),
        )
    )


@collections.command()
@click.argument("collection", type=COLLECTION)
@click.option("--description", required=True, help="The model card, in Markdown.")
@api_command
def update(client: Client, output: Output, collection: tuple[str, str], description: str) -> None:
    """Describe a collection anew."""
    registry, name = collection
    changed = client.patch(path_of("registries", registry, "collections", name), {"description": description})
    output.done(changed, f"described {registry}/{name}")


@collections.command()
@click.argument("collection", type=COLLECTION)
@click.confirmation_option(prompt="Its versions and aliases go with it (the artifacts stay). Delete it?")
@api_command
def delete(client: Client, output: Output, collection: tuple[str, str]) -> None:
    """Delete a collection, its links and aliases; artifacts stay."""
    registry, name = collection
    gone = client.delete(path_of("registries", registry, "collections", name))
    output.done(gone, f"deleted {registry}/{name}")


def _aliases(collection: dict[str, Any]) -> list[str]:
    return [f"{alias}={version}" for alias, version in sorted(collection["aliases"].items())]
