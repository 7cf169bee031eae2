"""`upshot automations`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.client.http import Client, api_path
from upshot.console import Output


@click.group()
def automations() -> None:
    """List and show the automations in force, and the errors in automation files."""


@automations.command("list")
@api_command
def list_automations(client: Client, output: Output) -> None:
    """List the automations in force, and the errors in automation files."""
    loaded = client.items("/automations", limit=100_000)
    broken = client.get("/automations", limit=1)["broken"]
    if output.as_json:
        output.json({"items": loaded, "broken": broken})
        return
    columns = {
        "automation": lambda automation: automation["name"],
        "on": lambda automation: ", ".join(trigger["kind"] for trigger in automation["on"]),
        "steps": lambda automation: ", ".join(step["name"] or step["uses"] for step in automation["steps"]),
        "enabled": lambda automation: "yes" if automation["enabled"] else "no",
        "file": lambda automation: f"{_location(automation)}{' (last sound revision)' * automation['kept']}",
    }
    output.rows(loaded, columns, empty="no automations are loaded")
    for diagnostic in broken:
        output.line(output.state("broken"), f"  {_location(diagnostic)}: {diagnostic['reason']}")
    if names := sorted({name for diagnostic in broken for name in diagnostic["kept"]}):
        output.line(f"until these errors are fixed, the last sound revision stays in force: {', '.join(names)}")


@automations.command()
@click.argument("automation")
@api_command
def show(client: Client, output: Output, automation: str) -> None:
    """Show a loaded automation."""
    shown = client.get(api_path("automations", automation))
    if output.as_json:
        output.json(shown)
        return
    output.fields(
        (
            ("automation", shown["name"]),
            ("description", shown["description"] or None),
            ("file", _location(shown)),
            ("revision", f"{shown['revision']}{' (last sound revision)' * shown['kept']}"),
            ("enabled", "yes" if shown["enabled"] else "no"),
        )
    )
    output.line()
    output.text(json.dumps(shown["source"], indent=2, ensure_ascii=False))


def _location(item: Mapping[str, Any]) -> str:
    return item["path"] if item["line"] is None else f"{item['path']}:{item['line']}"
