"""`upshot registry collections`."""

from __future__ import annotations

from typing import Any

import click

from upshot.cli.api_commands import api_command, filter_options, limit_option
from upshot.cli.params import COLLECTION, OBJECT, TtlType, show_ttl
from upshot.cli.waiting import Finish, wait_option
from upshot.client.http import Client, api_path
from upshot.console import Output, local_time


@click.group()
def collections() -> None:
    """List, create, show, update and delete collections."""


@collections.command("list")
@click.argument("registry")
@filter_options("alias", "tag", "type", "metadata")
@limit_option(100)
@api_command
def list_collections(client: Client, output: Output, registry: str, limit: int, **filters: Any) -> None:
    """List the collections of a registry."""
    listed = client.items(api_path("registries", registry, "collections"), limit=limit, **filters)
    columns = {
        "collection": lambda collection: collection["reference"],
        "type": lambda collection: collection["artifact_type"],
        "aliases": _aliases,
        "tags": lambda collection: collection["tags"],
    }
    output.rows(
        listed,
        columns,
        empty=f"no collection of registry {registry} passes the filters"
        if any(filters.values())
        else f"registry {registry} has no collections yet; `upshot registry link` creates one",
        optional=("tags", "type"),
        wrapped="aliases",
    )


@collections.command()
@click.argument("collection", type=COLLECTION)
@click.option("--type", "artifact_type", default="model", show_default=True, help="Type of its artifacts.")
@click.option("--description", help="The model card, in Markdown.")
@wait_option
@api_command
def create(
    client: Client,
    output: Output,
    collection: tuple[str, str],
    artifact_type: str,
    description: str | None,
    *,
    finish: Finish,
) -> None:
    """Create a collection."""
    registry, name = collection
    body = {"name": name, "artifact_type": artifact_type, "description": description or ""}
    created = client.post(api_path("registries", registry, "collections"), body)
    finish(client, output, created, f"created {registry}/{name} for artifacts of type {artifact_type}")


@collections.command()
@click.argument("collection", type=COLLECTION)
@api_command
def show(client: Client, output: Output, collection: tuple[str, str]) -> None:
    """Show a collection."""
    shown = client.get(_path(collection))
    if output.as_json:
        output.json(shown)
        return
    output.fields(
        (
            ("collection", shown["reference"]),
            ("type", shown["artifact_type"]),
            ("aliases", _aliases(shown)),
            ("tags", shown["tags"]),
            ("metadata", shown["metadata"] or None),
            ("ttl", show_ttl(shown["ttl_seconds"])),
            ("created", f"{local_time(shown['created_at'])} by {shown['created_by']}"),
            ("description", shown["description"]),
        )
    )


@collections.command()
@click.argument("collection", type=COLLECTION)
@api_command
def revisions(client: Client, output: Output, collection: tuple[str, str]) -> None:
    """List the descriptions (model cards) that a collection has had, newest first."""
    columns = {
        "time": lambda revision: local_time(revision["created_at"]),
        "by": lambda revision: revision["created_by"],
        "description": lambda revision: revision["description"],
    }
    listed = client.items(f"{_path(collection)}/card-revisions", limit=1_000)
    output.rows(listed, columns, empty="the collection has no description")


@collections.command()
@click.argument("collection", type=COLLECTION)
@click.option("--description", help="The model card, in Markdown.")
@click.option("--metadata", type=OBJECT, help="A JSON object to merge into the metadata, or @FILE; null removes a key.")
@click.option("--name", help="A new name. Versions, aliases and history stay.")
@click.option(
    "--ttl", metavar="DURATION|never", help="Time after which a link no longer keeps its version from expiring."
)
@wait_option
@api_command
def update(
    client: Client,
    output: Output,
    collection: tuple[str, str],
    *,
    description: str | None,
    metadata: dict[str, Any] | None,
    name: str | None,
    ttl: str | None,
    finish: Finish,
) -> None:
    """Change the description, the metadata, the name or the TTL of a collection."""
    given = {"description": description, "metadata": metadata, "name": name}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if ttl is not None:
        changes["ttl_seconds"] = TtlType(of_version=False).convert(ttl, None, click.get_current_context())
    if not changes:
        raise click.UsageError("no change given; use --description, --metadata, --name or --ttl")
    updated = client.patch(_path(collection), changes)
    rest = [key.removesuffix("_seconds") for key in changes if key != "name"]
    lines = [f"renamed {'/'.join(collection)} to {updated['reference']}"] if name is not None else []
    lines += [f"updated the {' and the '.join(rest)} of {updated['reference']}"] if rest else []
    finish(client, output, updated, "; ".join(lines))


@collections.command()
@click.argument("collection", type=COLLECTION)
@click.confirmation_option(prompt="This also deletes its versions and aliases; the artifacts stay. Delete it?")
@wait_option
@api_command
def delete(client: Client, output: Output, collection: tuple[str, str], finish: Finish) -> None:
    """Delete a collection with its versions and aliases. The artifacts stay."""
    deleted = client.delete(_path(collection))
    finish(client, output, deleted, f"deleted {'/'.join(collection)}")


def _path(collection: tuple[str, str]) -> str:
    registry, name = collection
    return api_path("registries", registry, "collections", name)


def _aliases(collection: dict[str, Any]) -> list[str]:
    return [f"{alias}={version}" for alias, version in sorted(collection["aliases"].items())]
