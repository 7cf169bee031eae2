"""`upshot registry`: collections, artifacts, links, aliases, tags, metadata and history."""

from __future__ import annotations

import click

from upshot.cli.lazy import LazyGroup

_COMMANDS = {
    "collections": ("upshot.cli.collections:collections", "List, create, show, update and delete collections."),
    "artifacts": ("upshot.cli.artifacts:artifacts", "The same as `upshot artifacts`."),
    "link": ("upshot.cli.versions:link", "Link an artifact version to a collection."),
    "unlink": ("upshot.cli.versions:unlink", "Remove a version from its collection."),
    "versions": ("upshot.cli.versions:versions", "List the versions of a collection."),
    "show": ("upshot.cli.versions:show", "Show a version."),
    "alias": ("upshot.cli.versions:alias", "Move an alias to a version, or remove it."),
    "tag": ("upshot.cli.versions:tag", "Add a tag to a version or a collection, or remove it."),
    "stage": ("upshot.cli.versions:stage", "Move a version to a stage, as in MLflow."),
    "metadata": ("upshot.cli.versions:metadata", "Change the metadata of a version."),
    "projects": ("upshot.cli.projects:projects", "List and rename projects."),
    "protect": ("upshot.cli.versions:protect", "Set which aliases only an admin may move."),
    "history": ("upshot.cli.versions:history", "List who changed what, newest first."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def registry() -> None:
    """
    Manage collections, artifacts, links, aliases, tags and metadata.

    Write a version as REGISTRY/COLLECTION:v3 or REGISTRY/COLLECTION:ALIAS, and an artifact version as
    PROJECT/ARTIFACT:v3 or PROJECT/ARTIFACT:ALIAS. Without `:…`, the latest version is used.
    """
