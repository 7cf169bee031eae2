"""`upshot registry projects`."""

from __future__ import annotations

import click

from upshot.cli.api_commands import api_command, limit_option
from upshot.client.http import Client, api_path
from upshot.console import Output


@click.group()
def projects() -> None:
    """List and rename projects."""


@projects.command("list")
@limit_option(100)
@api_command
def list_projects(client: Client, output: Output, limit: int) -> None:
    """List the projects, by name."""
    listed = client.items("/projects", limit=limit)
    output.rows(
        listed,
        {"project": lambda project: project["name"]},
        empty="there are no projects yet; logging an artifact creates one",
    )


@projects.command()
@click.argument("project")
@click.argument("name")
@api_command
def rename(client: Client, output: Output, project: str, name: str) -> None:
    """Rename PROJECT to NAME. Its artifacts keep their versions, aliases and links."""
    renamed = client.patch(api_path("projects", project), {"name": name})
    output.result(renamed, f"renamed project {project} to {name}")
