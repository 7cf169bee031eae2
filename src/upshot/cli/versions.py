"""`upshot registry link|unlink|versions|show|alias|tag|stage|metadata|protect|history`."""

from __future__ import annotations

from typing import Any, Literal

import click

from upshot.cli.aliases_and_tags import alias_group, tag_group
from upshot.cli.api_commands import api_command, filter_options, limit_option
from upshot.cli.artifact_files import DIGEST_ONLY
from upshot.cli.params import (
    ARTIFACT_VERSION,
    COLLECTION,
    OBJECT,
    VERSION,
    ReferenceType,
    collection_path,
    parse_assignments,
)
from upshot.cli.waiting import Finish, wait_option
from upshot.client.http import Client, api_path
from upshot.client.progress import format_size
from upshot.console import Output, local_time
from upshot.domain.reference import Reference
from upshot.domain.stage import Stage, describe_stage
from upshot.printable import escape
from upshot.resources.history_export import export_lines

_EXPORTED_ENTRIES = 10_000_000


@click.command()
@click.argument("artifact", type=ARTIFACT_VERSION)
@click.argument("collection", type=COLLECTION)
@click.option("--alias", "aliases", multiple=True, help="An alias of the new version. Can be repeated.")
@wait_option
@api_command
def link(
    client: Client,
    output: Output,
    artifact: Reference,
    collection: tuple[str, str],
    aliases: tuple[str, ...],
    *,
    finish: Finish,
) -> None:
    """
    Link ARTIFACT (project/name:v3) to COLLECTION (registry/name).

    The collection is created if it does not exist. If the artifact version is linked already, its version
    stays the same.
    """
    registry, name = collection
    body = {"artifact": str(artifact), "aliases": list(aliases)}
    version = client.post(api_path("registries", registry, "collections", name, "versions"), body)
    finish(client, output, version, f"linked {version['artifact']} as {version['reference']}")


@click.command()
@click.argument("version", type=VERSION)
@wait_option
@api_command
def unlink(client: Client, output: Output, version: Reference, finish: Finish) -> None:
    """Remove VERSION (registry/collection:v3) and its aliases from its collection. The artifact stays."""
    shown = client.get(collection_path(version, "versions", version.version))  # so that an alias names one version
    removed = client.delete(collection_path(version, "versions", shown["name"]))
    finish(client, output, removed, f"unlinked {shown['reference']}")


@click.command()
@click.argument("collection", type=COLLECTION)
@filter_options("alias", "tag", "stage", "metadata")
@limit_option(100)
@api_command
def versions(client: Client, output: Output, collection: tuple[str, str], limit: int, **filters: Any) -> None:
    """List the versions of COLLECTION, newest first."""
    registry, name = collection
    listed = client.items(api_path("registries", registry, "collections", name, "versions"), limit=limit, **filters)
    columns = {
        "version": lambda version: version["reference"],
        "artifact": lambda version: version["artifact"],
        "aliases": lambda version: version["aliases"],
        "tags": lambda version: version["tags"],
        "stage": lambda version: describe_stage(Stage(version["stage"])),
        "linked": lambda version: local_time(version["linked_at"]),
        "by": lambda version: version["linked_by"],
    }
    output.rows(
        listed,
        columns,
        empty=f"{registry}/{name} has no versions{' that pass the filters' if any(filters.values()) else ''}",
        optional=("by", "linked", "tags"),
        wrapped="aliases",
    )


@click.command()
@click.argument("version", type=VERSION)
@api_command
def show(client: Client, output: Output, version: Reference) -> None:
    """Show VERSION (registry/collection:v3 or registry/collection:ALIAS)."""
    shown = client.get(collection_path(version, "versions", version.version))
    if output.as_json:
        output.json(shown)
        return
    output.fields(
        (
            ("version", shown["reference"]),
            ("artifact", shown["artifact"]),
            ("type", shown["artifact_type"]),
            ("digest", shown["digest"]),
            ("aliases", shown["aliases"]),
            ("tags", shown["tags"]),
            ("stage", describe_stage(Stage(shown["stage"]))),
            ("metadata", shown["metadata"]),
            ("description", shown["description"]),
            ("files", _files(shown)),
            ("linked", f"{local_time(shown['linked_at'])} by {shown['linked_by']}"),
        )
    )


def _files(version: dict[str, Any]) -> str:
    if not version["is_stored"]:
        return DIGEST_ONLY
    count, size = f"{version['file_count']:,}", format_size(version["size"] or 0)
    return f"{count} ({size}): upshot artifacts files {version['reference']}"


alias = alias_group(collection_path, VERSION, group_help="Move an alias to a version, or remove it.")
tag = tag_group(
    collection_path,
    ReferenceType("REGISTRY/COLLECTION[:VERSION]", scopes="registries", default_version=""),
    group_help="Add a tag to a version or a collection, or remove it.",
)


@click.command()
@click.argument("version", type=VERSION)
@click.argument("stage")
@click.option("--archive-existing", is_flag=True, help="Move the other versions of the stage to archived.")
@wait_option
@api_command
def stage(
    client: Client, output: Output, version: Reference, stage: str, *, archive_existing: bool, finish: Finish
) -> None:
    """Move VERSION to STAGE: development, staging, production or archived. MLflow's words also work."""
    body = {"stage": stage, "archive_existing": archive_existing}
    moved = client.put(collection_path(version, "versions", version.version, "stage"), body)
    finish(client, output, moved, f"{moved['reference']} is in stage {describe_stage(Stage(moved['stage']))}")


@click.command()
@click.argument("registry")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--automation", "automations", multiple=True, help="An automation that may also move them. Repeatable.")
@api_command
def protect(
    client: Client, output: Output, registry: str, patterns: tuple[str, ...], automations: tuple[str, ...]
) -> None:
    """
    Set which aliases of REGISTRY only an admin may add, move or remove. Without a pattern, nothing is protected.

    A PATTERN is a glob such as `prod*`. The earlier patterns and automations are replaced.
    """
    body = {"patterns": list(patterns), "automations": list(automations)}
    loaded = {automation["name"] for automation in client.get("/automations")["items"]} if automations else set()
    known = {known["name"] for known in client.get("/registries")["items"]}
    rules = client.put(api_path("registries", registry, "protected-aliases"), body)
    protected = ", ".join(rules["protected_aliases"]) or "nothing"
    also = f"; allowed automations: {', '.join(rules['allowed_automations'])}" if rules["allowed_automations"] else ""
    output.result(rules, f"protected in {registry}: {protected}{also}")
    if registry not in known:
        click.echo(escape(f"note: there was no registry {registry!r}, so it has been created"), err=True)
    for name in rules["allowed_automations"]:
        if name not in loaded:
            click.echo(escape(f"note: no automation {name!r} is loaded; see `upshot automations list`"), err=True)


@click.command()
@click.argument("version", type=VERSION)
@click.argument("pairs", nargs=-1, metavar="[KEY=TEXT|KEY:=JSON]...")
@click.option("--merge", type=OBJECT, help="A JSON object to merge in, or @FILE to read it from a file.")
@wait_option
@api_command
def metadata(
    client: Client,
    output: Output,
    version: Reference,
    pairs: tuple[str, ...],
    *,
    merge: dict[str, Any] | None,
    finish: Finish,
) -> None:
    """
    Change keys of the metadata of VERSION. Other keys stay as they are.

    `KEY=VALUE` sets a text, even if it looks like a number. `KEY:=JSON` sets a number, true, false, a list or an
    object (accuracy:=0.93), and `KEY:=null` removes the key. The metadata belongs to the artifact version, so the
    change appears in all collections that the artifact version is linked to.
    """
    change = {**(merge or {}), **parse_assignments(pairs)}
    if not change:
        raise click.UsageError("no change given; write KEY=TEXT or KEY:=JSON, or use --merge")
    changed = client.patch(collection_path(version, "versions", version.version), {"metadata": change})
    finish(client, output, changed, f"changed {', '.join(sorted(change))} of {version}")


@click.command()
@click.argument("scope", metavar="[REGISTRY[/COLLECTION]]", default="")
@click.option("--export", type=click.Choice(["csv", "jsonl"]), help="Print all entries as CSV or JSON lines.")
@limit_option(50)
@api_command
def history(client: Client, output: Output, scope: str, limit: int, export: Literal["csv", "jsonl"] | None) -> None:
    """List who changed what, newest first."""
    registry, _, collection = scope.partition("/")
    if collection:
        path = api_path("registries", registry, "collections", collection, "history")
    else:
        path = api_path("registries", registry, "history") if registry else "/history"
    if export:
        for line in export_lines(client.items(path, limit=_EXPORTED_ENTRIES), export):
            click.echo(line, nl=False)
        return
    columns = {
        "time": lambda entry: local_time(entry["time"]),
        "actor": lambda entry: entry["actor"],
        "action": lambda entry: entry["action"],
        "subject": lambda entry: entry["subject"],
        "before": lambda entry: entry["before"] or None,
        "after": lambda entry: entry["after"] or None,
    }
    output.rows(
        client.items(path, limit=limit),
        columns,
        empty="there are no changes yet",
        optional=("before", "time", "actor"),
        wrapped="after",
    )
