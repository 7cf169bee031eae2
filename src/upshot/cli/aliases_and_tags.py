"""The `alias` and `tag` commands. They are the same for collections of a registry and artifacts of a project."""

from __future__ import annotations

from collections.abc import Callable

import click

from upshot.cli.api_commands import api_command
from upshot.cli.params import ReferenceType
from upshot.cli.waiting import Finish, wait_option
from upshot.client.http import Client
from upshot.console import Output
from upshot.domain.reference import Reference

PathOf = Callable[..., str]  #: builds an API path from a reference and more segments


def alias_group(path_of: PathOf, version_type: ReferenceType, *, group_help: str) -> click.Group:
    """
    Build the group `alias` with the commands `set` and `rm`.

    Args:
        path_of: Builds the API path of the collection or artifact that a reference names.
        version_type: The parameter type of a version.
        group_help: The help text of the group.
    """
    version_name = version_type.name
    alias_name = version_name.replace("VERSION", "ALIAS")

    @click.command(
        name="set",
        help=f"Move ALIAS to a version ({version_name}). The version that had it loses it.",
        short_help="Move an alias to a version.",
    )
    @click.argument("version", type=version_type, metavar=version_name)
    @click.argument("alias")
    @wait_option
    @api_command
    def set_alias(client: Client, output: Output, version: Reference, alias: str, finish: Finish) -> None:
        moved = client.put(path_of(version, "aliases", alias), {"version": version.version})
        finish(client, output, moved, f"{version.scope}/{version.name}:{alias} is now {moved['name']}")

    @click.command(name="rm", help=f"Remove an alias ({alias_name}).", short_help="Remove an alias.")
    @click.argument("reference", type=version_type, metavar=alias_name)
    @wait_option
    @api_command
    def remove_alias(client: Client, output: Output, reference: Reference, finish: Finish) -> None:
        removed = client.delete(path_of(reference, "aliases", reference.version))
        finish(
            client, output, removed, f"{reference.scope}/{reference.name} no longer has the alias {reference.version}"
        )

    return click.Group("alias", help=group_help, commands=[set_alias, remove_alias])


def tag_group(path_of: PathOf, target_type: ReferenceType, *, group_help: str) -> click.Group:
    """
    Build the group `tag` with the commands `add` and `rm`.

    Args:
        path_of: Builds the API path of the collection or artifact that a reference names.
        target_type: The parameter type of what is tagged. A reference without a version tags the collection itself.
        group_help: The help text of the group.
    """

    def tag_path(reference: Reference, tag: str) -> str:
        version = ("versions", reference.version) if reference.version else ()
        return path_of(reference, *version, "tags", tag)

    @click.command(name="add", help=f"Add TAG to {target_type.name}.")
    @click.argument("reference", type=target_type, metavar=target_type.name)
    @click.argument("tag")
    @wait_option
    @api_command
    def add_tag(client: Client, output: Output, reference: Reference, tag: str, finish: Finish) -> None:
        tagged = client.put(tag_path(reference, tag))
        finish(client, output, tagged, f"tagged {tagged['reference']} {tag}")

    @click.command(name="rm", help=f"Remove TAG from {target_type.name}.")
    @click.argument("reference", type=target_type, metavar=target_type.name)
    @click.argument("tag")
    @wait_option
    @api_command
    def remove_tag(client: Client, output: Output, reference: Reference, tag: str, finish: Finish) -> None:
        untagged = client.delete(tag_path(reference, tag))
        finish(client, output, untagged, f"{untagged['reference']} no longer has the tag {tag}")

    return click.Group("tag", help=group_help, commands=[add_tag, remove_tag])
