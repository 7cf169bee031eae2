"""`upshot registry`: collections, artifacts, links, aliases, tags, metadata, history."""

from __future__ import annotations

import click

from upshot.cli.lazy import LazyGroup

_COMMANDS = {
    "collections": ("upshot.cli.collections:collections", "List, make, show, describe and delete collections."),
    "artifacts": ("upshot.cli.artifacts:artifacts", "Log artifact versions; list, show, name and tag them."),
    "link": ("upshot.cli.versions:link", "Link an artifact version to a collection."),
    "unlink": ("upshot.cli.versions:unlink", "Take a version out of its collection."),
    "versions": ("upshot.cli.versions:versions", "List the versions of a collection."),
    "show": ("upshot.cli.versions:show", "Show one version."),
    "alias": ("upshot.cli.versions:alias", "Give an alias to a version, or take it away."),
    "tag": ("upshot.cli.versions:tag", "Tag a version or a collection, or take a tag away."),
    "metadata": ("upshot.cli.versions:metadata", "Change the metadata of a version."),
    "history": ("upshot.cli.versions:history", "Who changed what, and when."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def registry() -> None:
    """
    Collections, artifacts, links, aliases, tags, metadata, history.

    A version is written REGISTRY/COLLECTION:v3 or REGISTRY/COLLECTION:ALIAS, an artifact version
    PROJECT/ARTIFACT:v3; without `:…`, the latest is meant.
    """
