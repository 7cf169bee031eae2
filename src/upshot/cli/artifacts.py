"""`upshot artifacts`, which is also `upshot registry artifacts`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from upshot.cli.aliases_and_tags import alias_group, tag_group
from upshot.cli.api_commands import api_command, filter_options, limit_option
from upshot.cli.artifact_files import DIGEST_ONLY, delete, diff, files, usage, verify
from upshot.cli.params import (
    ARTIFACT,
    ARTIFACT_VERSION,
    OBJECT,
    ReferenceType,
    TtlType,
    artifact_path,
    parse_assignments,
    show_ttl,
)
from upshot.cli.waiting import Finish, wait_option
from upshot.client.http import Client, api_path
from upshot.client.uploads import log_version
from upshot.clock import SystemClock
from upshot.console import Output, local_time
from upshot.domain.reference import Reference
from upshot.ids import new_id
from upshot.sdk.draft import Draft
from upshot.sdk.stored_elsewhere import find_references

_SHOWN_FILES = 20


@click.group()
def artifacts() -> None:
    """Log artifact versions; list, show, compare, verify, alias, tag and delete them."""


@artifacts.command()
@click.argument("artifact", type=ARTIFACT)
@click.option(
    "--type", "artifact_type", default="model", show_default=True, help="Type of the artifact. It cannot change later."
)
@click.option("--metadata", type=OBJECT, help="Metadata as a JSON object, or @FILE to read it from a file.")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=TEXT|KEY:=JSON",
    help="One key of the metadata: a text, or JSON such as accuracy:=0.93. Can be repeated.",
)
@click.option("--digest", help="Digest of the content, such as sha256:….")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of the artifact, which is uploaded. Can be repeated: the "
    "names are then relative to the directory that contains all files.",
)
@click.option(
    "--dir",
    "folders",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory whose content is uploaded, with paths relative to it. Can be repeated.",
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="URI",
    help="A file that stays where it is: file:///…, https://… or s3://…. Its size and checksum are recorded. Can be "
    "repeated.",
)
@click.option("--description", help="Description of the version.")
@click.option("--alias", "aliases", multiple=True, help="An alias in the project. Can be repeated.")
@click.option("--ttl", type=TtlType(of_version=True), help="Time after which the version expires, such as 30d.")
@wait_option
@api_command
def log(
    client: Client,
    output: Output,
    artifact: tuple[str, str],
    *,
    artifact_type: str,
    metadata: dict[str, Any] | None,
    pairs: tuple[str, ...],
    digest: str | None,
    files: tuple[Path, ...],
    folders: tuple[Path, ...],
    references: tuple[str, ...],
    description: str | None,
    aliases: tuple[str, ...],
    ttl: int | None,
    finish: Finish,
) -> None:
    """
    Log a version of PROJECT/ARTIFACT.

    No version is created if the content equals that of the latest version. The digest decides what is equal.
    """
    project, name = artifact
    body: dict[str, Any] = {
        "name": name,
        "artifact_type": artifact_type,
        "metadata": {**(metadata or {}), **parse_assignments(pairs)},
        "aliases": list(aliases),
        "description": description or "",
        "ttl_seconds": ttl,
    }
    if files or folders or references:
        if digest:
            raise click.UsageError("--digest: the digest is computed from the files; leave --digest out")
        draft = _draft(files, folders, references)
        body["id"] = new_id("ver", SystemClock().now())
        logged = log_version(client, project, body, list(draft.files.values()), what=name)
    else:
        if digest:
            body["digest"] = digest
        logged = client.post(api_path("projects", project, "artifacts"), body)
    version = f"{logged['reference']} ({logged['digest']})"
    finish(
        client,
        output,
        logged,
        f"logged {version}" if logged["event_ids"] else f"no new version: {version} has this content already",
    )


def _draft(files: tuple[Path, ...], folders: tuple[Path, ...], references: tuple[str, ...]) -> Draft:
    draft = Draft()
    for path, file in _paths_in_artifact(files).items() if files else ():
        draft.add(path, file)
    for folder in folders:
        draft.add_folder(folder, None, overwrite=False)
    for reference in references:
        for entry in find_references(reference, None, checksum=True, max_objects=None):
            draft.add_entry(entry, None)
    return draft


def _paths_in_artifact(files: tuple[Path, ...]) -> dict[str, Path]:
    """Return the files by their paths relative to the directory that contains all of them."""
    absolute = [file.absolute() for file in files]
    directory = Path(os.path.commonpath([file.parent for file in absolute]))
    return {file.relative_to(directory).as_posix(): file for file in absolute}


@artifacts.command("list")
@click.argument("artifact", type=ARTIFACT)
@filter_options("alias", "tag", "metadata")
@limit_option(100)
@api_command
def list_versions(client: Client, output: Output, artifact: tuple[str, str], limit: int, **filters: Any) -> None:
    """List the versions of PROJECT/ARTIFACT, newest first."""
    project, name = artifact
    versions = client.items(api_path("projects", project, "artifacts", name, "versions"), limit=limit, **filters)
    columns = {
        "version": lambda version: version["reference"],
        "type": lambda version: version["artifact_type"],
        "aliases": lambda version: version["aliases"],
        "tags": lambda version: version["tags"],
        "logged": lambda version: local_time(version["created_at"]),
        "digest": lambda version: version["digest"],
    }
    output.rows(
        versions,
        columns,
        empty=f"{project}/{name} has no versions{' that pass the filters' if any(filters.values()) else ''}",
        optional=("digest", "tags", "type", "logged"),
        wrapped="aliases",
    )


@artifacts.command()
@click.argument("artifact", type=ARTIFACT)
@click.argument("name")
@api_command
def rename(client: Client, output: Output, artifact: tuple[str, str], name: str) -> None:
    """Rename PROJECT/ARTIFACT to NAME. Its versions, aliases and links stay."""
    project, old_name = artifact
    renamed = client.patch(api_path("projects", project, "artifacts", old_name), {"name": name})
    output.result(renamed, f"renamed {project}/{old_name} to {renamed['reference']}")


@artifacts.command()
@click.argument("target", metavar="PROJECT/ARTIFACT[:VERSION]")
@click.argument("ttl", metavar="TTL")
@api_command
def ttl(client: Client, output: Output, target: str, ttl: str) -> None:
    """
    Set after which time a version expires, or all versions of an artifact that have no TTL of their own.

    TTL is a duration such as 30d or 12h, counted from when a version was logged, or `never`. A version can also
    `inherit` the TTL of its artifact. A version with an alias other than `latest` does not expire, nor one that is
    linked to a collection without a TTL.
    """
    context = click.get_current_context()
    reference: Reference = ReferenceType("PROJECT/ARTIFACT:VERSION", scopes="projects", default_version="").convert(
        target, None, context
    )
    seconds = TtlType(of_version=bool(reference.version)).convert(ttl, None, context)
    path = artifact_path(reference, *(("versions", reference.version) if reference.version else ()))
    changed = client.patch(path, {"ttl_seconds": seconds})
    output.result(changed, f"{changed['reference']}: ttl {ttl}")


@artifacts.command()
@click.argument("version", type=ARTIFACT_VERSION)
@api_command
def links(client: Client, output: Output, version: Reference) -> None:
    """List the versions of collections that are links to VERSION (project/artifact:v3)."""
    listed = client.items(artifact_path(version, "versions", version.version, "links"), limit=1_000)
    columns = {
        "version": lambda version: version["reference"],
        "aliases": lambda version: version["aliases"],
        "linked": lambda version: local_time(version["linked_at"]),
        "by": lambda version: version["linked_by"],
    }
    output.rows(listed, columns, empty=f"{version} is not linked")


@artifacts.command()
@click.argument("version", type=ARTIFACT_VERSION)
@api_command
def show(client: Client, output: Output, version: Reference) -> None:
    """Show VERSION (project/artifact:v3 or project/artifact:ALIAS)."""
    shown = client.get(artifact_path(version, "versions", version.version))
    files: list[str] | str | None = None if shown["is_stored"] else DIGEST_ONLY
    if shown["file_count"]:
        path = artifact_path(version, "versions", version.version, "files")
        files = [file["path"] for file in client.items(path, limit=_SHOWN_FILES)]
        if shown["file_count"] > _SHOWN_FILES:
            files.append(f"… {shown['file_count']:,} in all")
    if output.as_json:
        output.json(shown)
        return
    output.fields(
        (
            ("artifact", shown["reference"]),
            ("type", shown["artifact_type"]),
            ("digest", shown["digest"]),
            ("aliases", shown["aliases"]),
            ("tags", shown["tags"]),
            ("metadata", shown["metadata"]),
            ("description", shown["description"]),
            ("files", files),
            ("run", shown["run"]),
            ("ttl", show_ttl(shown["ttl_seconds"])),
            ("logged", f"{local_time(shown['created_at'])} by {shown['created_by']}"),
        )
    )


for command in (files, diff, usage, verify, delete):
    artifacts.add_command(command)
artifacts.add_command(
    alias_group(
        artifact_path,
        ARTIFACT_VERSION,
        group_help="Move an alias in the project to an artifact version, or remove it. Collections have aliases of "
        "their own.",
    )
)
artifacts.add_command(
    tag_group(
        artifact_path,
        ARTIFACT_VERSION,
        group_help="Add a tag to an artifact version, or remove it. The tags appear on all versions linked to it.",
    )
)
