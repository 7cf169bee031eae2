"""`upshot registry link|unlink|versions|show|alias|tag|metadata|history`."""

from __future__ import annotations

from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.cli.params import ARTIFACT_VERSION, COLLECTION, OBJECT, VERSION, assignments
from upshot.client.http import Client, path_of
from upshot.client.output import Output, when
from upshot.domain.reference import Reference, parse_reference
from upshot.errors import InvalidInput


def _collection_path(reference: Reference, *parts: str) -> str:
    return path_of("registries", reference.scope, "collections", reference.name, *parts)


@click.command()
@click.argument("artifact", type=ARTIFACT_VERSION)
@click.argument("collection", type=COLLECTION)
@click.option("--alias", "aliases", multiple=True, help="An alias to give to the version; may be repeated.")
@api_command
def link(
    client: Client, output: Output, artifact: Reference, collection: tuple[str, str], aliases: tuple[str, ...]
) -> None:
    """
    Link ARTIFACT (project/name:v3) to COLLECTION (registry/name), which is made if it is not there.

    Linking the same artifact version again gives the version that it has.
    """
    registry, name = collection
    body = {"artifact": str(artifact), "aliases": list(aliases)}
    made = client.post(path_of("registries", registry, "collections", name, "versions"), body)
    output.done(made, f"linked {artifact} as {registry}/{name}:{made['version']}")


@click.command()
@click.argument("version", type=VERSION)
@api_command
def unlink(client: Client, output: Output, version: Reference) -> None:
    """Take VERSION (registry/collection:v3) and its aliases out of its collection; the artifact stays."""
    gone = client.delete(_collection_path(version, "versions", version.version))
    output.done(gone, f"unlinked {version}")


@click.command()
@click.argument("collection", type=COLLECTION)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
@api_command
def versions(client: Client, output: Output, collection: tuple[str, str], limit: int) -> None:
    """List the versions of COLLECTION, newest first."""
    registry, name = collection
    found = client.items(path_of("registries", registry, "collections", name, "versions"), limit=limit)
    columns = {
        "version": lambda one: f"{registry}/{name}:{one['version']}",
        "artifact": lambda one: one["artifact"]["reference"],
        "aliases": lambda one: one["aliases"],
        "tags": lambda one: one["tags"],
        "linked": lambda one: when(one["linked_at"]),
        "by": lambda one: one["linked_by"],
    }
    output.rows(found, columns, none=f"{registry}/{name} has no versions")


@click.command()
@click.argument("version", type=VERSION)
@api_command
def show(client: Client, output: Output, version: Reference) -> None:
    """Show VERSION (registry/collection:v3, or :alias)."""
    one = client.get(_collection_path(version, "versions", version.version))
    if output.as_json:
        output.data(one)
        return
    artifact = one["artifact"]
    output.fields(
        (
            ("version", f"{version.scope}/{version.name}:{one['version']}"),
            ("artifact", artifact["reference"]),
            ("type", artifact["type"]),
            ("digest", one["digest"]),
            ("aliases", one["aliases"]),
            ("tags", one["tags"]),
            ("metadata", one["metadata"]),
            ("description", one["description"]),
            ("linked", f"{when(one['linked_at'])} by {one['linked_by']}"),
        )
    )


# --- aliases and tags -----------------------------------------------------------------------------


@click.group()
def alias() -> None:
    """Give an alias to a version, or take it away."""


@alias.command("set")
@click.argument("version", type=VERSION)
@click.argument("alias_name", metavar="ALIAS")
@api_command
def set_alias(client: Client, output: Output, version: Reference, alias_name: str) -> None:
    """Give ALIAS to VERSION (registry/collection:v3); whichever version had it loses it."""
    changed = client.put(_collection_path(version, "aliases", alias_name), {"version": version.version})
    output.done(changed, f"{version.scope}/{version.name}:{alias_name} is now {version.version}")


@alias.command("rm")
@click.argument("reference", metavar="REGISTRY/COLLECTION:ALIAS", type=VERSION)
@api_command
def remove_alias(client: Client, output: Output, reference: Reference) -> None:
    """Take an alias away from whichever version has it."""
    gone = client.delete(_collection_path(reference, "aliases", reference.version))
    output.done(gone, f"{reference.scope}/{reference.name} has no alias {reference.version} any more")


@click.group()
def tag() -> None:
    """Tag a version (registry/collection:v3) or a collection (registry/collection), or take a tag away."""


def _tag_path(text: str, tag_name: str) -> str:
    try:
        reference = parse_reference(text, default_version="")
    except InvalidInput as error:
        raise click.BadParameter(str(error), param_hint="THING") from error
    if reference.version:
        return _collection_path(reference, "versions", reference.version, "tags", tag_name)
    return _collection_path(reference, "tags", tag_name)


@tag.command("add")
@click.argument("thing")
@click.argument("tag_name", metavar="TAG")
@api_command
def add_tag(client: Client, output: Output, thing: str, tag_name: str) -> None:
    """Tag THING: a version (registry/collection:v3) or a collection (registry/collection)."""
    output.done(client.put(_tag_path(thing, tag_name)), f"tagged {thing} {tag_name}")


@tag.command("rm")
@click.argument("thing")
@click.argument("tag_name", metavar="TAG")
@api_command
def remove_tag(client: Client, output: Output, thing: str, tag_name: str) -> None:
    """Take a tag away from THING: a version or a collection."""
    output.done(client.delete(_tag_path(thing, tag_name)), f"{thing} has no tag {tag_name} any more")


# --- metadata and history -------------------------------------------------------------------------


@click.command()
@click.argument("version", type=VERSION)
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--merge", type=OBJECT, help="A JSON object to merge in, or @FILE that holds one.")
@api_command
def metadata(
    client: Client, output: Output, version: Reference, pairs: tuple[str, ...], merge: dict[str, Any] | None
) -> None:
    """
    Change the metadata of VERSION; the keys that are not named stay.

    A value that is JSON is taken as that (0.93, true, null, "1.10", [1, 2]), any other as text; null
    removes the key. It is the artifact version's, so it is seen through all its links.
    """
    change = {**(merge or {}), **assignments(pairs)}
    if not change:
        raise click.UsageError("say what to change: KEY=VALUE, or --merge")
    changed = client.patch(_collection_path(version, "versions", version.version), {"metadata": change})
    output.done(changed, f"changed {', '.join(sorted(change))} of {version}")


@click.command()
@click.argument("scope", metavar="[REGISTRY[/COLLECTION]]", required=False)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1))
@api_command
def history(client: Client, output: Output, scope: str | None, limit: int) -> None:
    """Print who changed what, newest first."""
    found = client.items(_history_path(scope or ""), limit=limit)
    columns = {
        "time": lambda one: when(one["time"]),
        "actor": lambda one: one["actor"],
        "action": lambda one: one["action"],
        "subject": lambda one: one["subject"],
        "before": lambda one: one["before"] or None,
        "after": lambda one: one["after"] or None,
    }
    output.rows(found, columns, none="nothing has been changed yet")


def _history_path(scope: str) -> str:
    registry, _, collection = scope.partition("/")
    if collection:
        return path_of("registries", registry, "collections", collection, "history")
    return path_of("registries", registry, "history") if registry else "/history"
