"""`upshot registry artifacts`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.cli.params import ARTIFACT, ARTIFACT_VERSION, OBJECT, assignments
from upshot.client.http import Client, path_of
from upshot.client.output import Output, when
from upshot.domain.reference import Reference


@click.group()
def artifacts() -> None:
    """Log artifact versions; list, show, name and tag them."""


@artifacts.command()
@click.argument("artifact", type=ARTIFACT)
@click.option("--type", "kind", default="model", show_default=True, help="Type of the artifact, fixed when it is made.")
@click.option("--metadata", type=OBJECT, help="Metadata as a JSON object, or @FILE that holds one.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="One key of the metadata; may be repeated.")
@click.option("--digest", help="Digest of the content, such as sha256:…")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of the artifact: its name and digest are logged, not its bytes; may be repeated.",
)
@click.option("--description", help="What it is.")
@click.option("--alias", "aliases", multiple=True, help="An alias in the project; may be repeated.")
@api_command
def log(
    client: Client,
    output: Output,
    artifact: tuple[str, str],
    *,
    kind: str,
    metadata: dict[str, Any] | None,
    pairs: tuple[str, ...],
    digest: str | None,
    files: tuple[Path, ...],
    description: str | None,
    aliases: tuple[str, ...],
) -> None:
    """
    Log a version of PROJECT/ARTIFACT.

    Content equal to the latest version's makes no new version; the digest says what is equal.
    """
    project, name = artifact
    body: dict[str, Any] = {
        "name": name,
        "type": kind,
        "metadata": {**(metadata or {}), **assignments(pairs)},
        "aliases": list(aliases),
        "description": description or "",
    }
    if digest:
        body["digest"] = digest
    if files:
        body["manifest"] = {file.name: _digest(file) for file in files}
    made = client.post(path_of("projects", project, "artifacts"), body)
    said = f"{made['reference']} ({made['digest']})"
    output.done(made, f"logged {said}" if made["events"] else f"no new version: {said} has this content already")


@artifacts.command("list")
@click.argument("artifact", type=ARTIFACT)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
@api_command
def list_artifacts(client: Client, output: Output, artifact: tuple[str, str], limit: int) -> None:
    """List the versions of PROJECT/ARTIFACT, newest first."""
    project, name = artifact
    found = client.items(path_of("projects", project, "artifacts", name, "versions"), limit=limit)
    columns = {
        "version": lambda one: one["reference"],
        "type": lambda one: one["type"],
        "aliases": lambda one: one["aliases"],
        "tags": lambda one: one["tags"],
        "logged": lambda one: when(one["created_at"]),
        "digest": lambda one: one["digest"],
    }
    output.rows(found, columns, none=f"nothing was logged as {project}/{name}")


@artifacts.command()
@click.argument("version", type=ARTIFACT_VERSION)
@api_command
def show(client: Client, output: Output, version: Reference) -> None:
    """Show VERSION (project/artifact:v3, or :alias)."""
    one = client.get(_path(version, "versions", version.version))
    if output.as_json:
        output.data(one)
        return
    output.fields(
        (
            ("artifact", one["reference"]),
            ("type", one["type"]),
            ("digest", one["digest"]),
            ("aliases", one["aliases"]),
            ("tags", one["tags"]),
            ("metadata", one["metadata"]),
            ("description", one["description"]),
            ("files", sorted(one["manifest"] or ())),
            ("logged", f"{when(one['created_at'])} by {one['created_by']}"),
        )
    )


@artifacts.group()
def alias() -> None:
    """Give an alias in the project to an artifact version, or take it away; collections have their own."""


@alias.command("set")
@click.argument("version", type=ARTIFACT_VERSION)
@click.argument("alias_name", metavar="ALIAS")
@api_command
def set_alias(client: Client, output: Output, version: Reference, alias_name: str) -> None:
    """Give ALIAS to VERSION (project/artifact:v3); whichever version had it loses it."""
    changed = client.put(_path(version, "aliases", alias_name), {"version": version.version})
    output.done(changed, f"{version.scope}/{version.name}:{alias_name} is now {changed['version']}")


@alias.command("rm")
@click.argument("reference", metavar="PROJECT/ARTIFACT:ALIAS", type=ARTIFACT_VERSION)
@api_command
def remove_alias(client: Client, output: Output, reference: Reference) -> None:
    """Take an alias away from whichever version has it."""
    gone = client.delete(_path(reference, "aliases", reference.version))
    output.done(gone, f"{reference.scope}/{reference.name} has no alias {reference.version} any more")


@artifacts.group()
def tag() -> None:
    """Tag an artifact version, or take a tag away; all links to it have its tags."""


@tag.command("add")
@click.argument("version", type=ARTIFACT_VERSION)
@click.argument("tag_name", metavar="TAG")
@api_command
def add_tag(client: Client, output: Output, version: Reference, tag_name: str) -> None:
    """Tag VERSION (project/artifact:v3)."""
    tagged = client.put(_path(version, "versions", version.version, "tags", tag_name))
    output.done(tagged, f"tagged {tagged['reference']} {tag_name}")


@tag.command("rm")
@click.argument("version", type=ARTIFACT_VERSION)
@click.argument("tag_name", metavar="TAG")
@api_command
def remove_tag(client: Client, output: Output, version: Reference, tag_name: str) -> None:
    """Take a tag away from VERSION (project/artifact:v3)."""
    untagged = client.delete(_path(version, "versions", version.version, "tags", tag_name))
    output.done(untagged, f"{untagged['reference']} has no tag {tag_name} any more")


def _path(version: Reference, *parts: str) -> str:
    return path_of("projects", version.scope, "artifacts", version.name, *parts)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
