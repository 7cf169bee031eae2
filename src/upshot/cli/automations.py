"""`upshot automations`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.client.http import Client, path_of
from upshot.client.output import Output


@click.group()
def automations() -> None:
    """What is loaded, and what is broken."""


@automations.command("list")
@api_command
def list_automations(client: Client, output: Output) -> None:
    """List the automations that are loaded, and what is wrong in other files."""
    loaded = client.items("/automations", limit=100_000)
    broken = client.get("/automations", limit=1)["broken"]
    if output.as_json:
        output.data({"items": loaded, "broken": broken})
        return
    columns = {
        "automation": lambda one: one["name"],
        "on": lambda one: ", ".join(trigger["kind"] for trigger in one["on"]),
        "steps": lambda one: ", ".join(step["uses"] for step in one["steps"]),
        "enabled": lambda one: "yes" if one["enabled"] else "no",
        "file": _place,
    }
    output.rows(loaded, columns, none="no automations are loaded")
    for finding in broken:
        output.line(output.state("broken"), f"  {describe(finding)}")


@automations.command()
@click.argument("automation")
@api_command
def show(client: Client, output: Output, automation: str) -> None:
    """Show an automation as it is loaded."""
    one = client.get(path_of("automations", automation))
    if output.as_json:
        output.data(one)
        return
    output.fields(
        (
            ("automation", one["name"]),
            ("description", one["description"] or None),
            ("file", _place(one)),
            ("revision", one["revision"]),
            ("enabled", "yes" if one["enabled"] else "no"),
        )
    )
    output.line()
    output.text(json.dumps(one["source"], indent=2, ensure_ascii=False))


def _place(automation: Mapping[str, Any]) -> str:
    return f"{automation['path']}:{automation['line']}"


def describe(finding: Mapping[str, Any]) -> str:
    """What is wrong in a file, with its place."""
    place = finding["path"] if finding["line"] is None else f"{finding['path']}:{finding['line']}"
    return f"{place}: {finding['reason']}"
