"""`upshot automations`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.cli.ids import complete_automation
from upshot.client.http import Client, api_path
from upshot.console import Output
from upshot.printable import escape


@click.group()
def automations() -> None:
    """List and show the automations in force, and the errors in automation files."""


@automations.command("list")
@click.option("--broken", "only_broken", is_flag=True, help="List only the errors in automation files.")
@api_command
def list_automations(client: Client, output: Output, *, only_broken: bool) -> None:
    """
    List the automations in force, and the errors in automation files.

    With `--json`, standard output is a list of automations, and standard error has the errors. `--broken` lists
    only the errors, also as JSON.
    """
    broken = client.get("/automations", limit=1)["broken"]
    if only_broken:
        columns = {"place": _location, "reason": lambda diagnostic: diagnostic["reason"]}
        output.rows(broken, columns, empty="there are no errors", wrapped="reason")
        return
    loaded = client.items("/automations", limit=100_000)
    columns = {
        "automation": lambda automation: automation["name"],
        "on": lambda automation: ", ".join(trigger["kind"] for trigger in automation["on"]),
        "steps": lambda automation: ", ".join(step["name"] or step["uses"] for step in automation["steps"]),
        "enabled": lambda automation: "yes" if automation["enabled"] else "no",
        "file": lambda automation: f"{_location(automation)}{' (last sound revision)' * automation['kept']}",
    }
    output.rows(loaded, columns, empty="no automations are loaded", optional=("enabled", "steps", "on"))
    for diagnostic in broken:
        text = f"{_location(diagnostic)}: {diagnostic['reason']}"
        if output.as_json:
            click.echo(escape(f"broken: {text}"), err=True)
        else:
            output.line(output.state("broken"), f"  {text}")
    kept = sorted({name for diagnostic in broken for name in diagnostic["kept"]})
    if kept and not output.as_json:
        output.line(f"until these errors are fixed, the last sound revision stays in force: {', '.join(kept)}")


@automations.command()
@click.argument("automation", shell_complete=complete_automation)
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
