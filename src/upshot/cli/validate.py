"""`upshot validate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.automations.folder import AutomationFolder
from upshot.cli.configuration import settings_with
from upshot.cli.output import Output


@click.command()
@click.argument(
    "folder", metavar="[DIR]", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def validate(folder: Path | None, as_json: bool) -> None:
    """
    Check a folder of automations (./automations, or UPSHOT_AUTOMATIONS): every mistake at once.

    Each is printed as `file:line: what is wrong and what would be right`. Needs no server. Exits 1 if
    anything is wrong.
    """
    settings = settings_with(automations=folder)
    loaded = AutomationFolder(settings.automations, load_catalog(EgressRules.parse(settings.egress_allow))).current
    output = Output(as_json=as_json)
    if as_json:
        output.data(
            {
                "automations": [{"name": one.name, "path": one.path, "line": one.line} for one in loaded.automations],
                "broken": [{"path": one.path, "line": one.line, "reason": one.reason} for one in loaded.broken],
            }
        )
    else:
        for automation in loaded.automations:
            output.line(f"{automation.path}:{automation.line}: {automation.name}: ", output.state("ok"))
        for finding in loaded.broken:
            output.line(str(finding))
        output.line(f"{len(loaded.automations)} automations are sound; {len(loaded.broken)} mistakes found")
    sys.exit(1 if loaded.broken else 0)
