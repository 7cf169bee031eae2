"""`upshot schema`."""

from __future__ import annotations

import click

from upshot.actions.catalog import load_catalog
from upshot.automations.json_schema import json_schema
from upshot.console import Output


@click.command()
def schema() -> None:
    r"""
    Print a JSON Schema of automation files, for editors.

    Write it beside the automations, and name it in the first line of each file, so that an editor with
    yaml-language-server completes and checks it:

    \b
        upshot schema > automations/automation.schema.json
        # yaml-language-server: $schema=automation.schema.json

    The schema contains the actions that are installed here. No server is needed.
    """
    Output(as_json=True).json(json_schema(load_catalog()))
