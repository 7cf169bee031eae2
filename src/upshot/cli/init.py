"""`upshot init`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from upshot.actions.catalog import load_catalog
from upshot.automations.json_schema import json_schema
from upshot.cli.settings import settings_with
from upshot.client.client_settings import settings_file
from upshot.client.endpoint import read_endpoint
from upshot.console import Output
from upshot.embedded.data_dir import DataDir
from upshot.errors import ConfigError
from upshot.private_files import write_private
from upshot.receivers import DEFAULT_PORT, SIGNING_SECRET
from upshot.settings import Settings

_RECEIVER = f"127.0.0.1:{DEFAULT_PORT}"
_SECRET = "HOOK_SECRET"  # noqa: S105 - a name
_SUFFIXES = {".yaml", ".yml"}
_SCHEMA = "automation.schema.json"
_AUTOMATION = f"""\
# yaml-language-server: $schema={_SCHEMA}
# Calls a webhook when a version gets the alias `production`. Change it: Upshot loads it again within a second.
name: tell-my-service
on:
  alias-added:
    registry: model
    alias: production
steps:
  - uses: webhook
    with:
      url: http://{_RECEIVER}/hooks/models  # where `upshot receivers` listens
      signing-secret: "{{{{ secrets.{_SECRET} }}}}"
      json:
        what: "{{{{ event.kind }}}}"
        model: "{{{{ collection.name }}}}"
        version: "{{{{ version.name }}}}"
        metadata: "{{{{= version.metadata }}}}"
        promoted-by: "{{{{ actor.name }}}}"
"""
_SETTINGS = f"""\
# Settings of the Upshot that uses this data directory. Environment variables take precedence.
# Actions may reach this private address, where `upshot receivers` listens:
UPSHOT_EGRESS_ALLOW={_RECEIVER}
"""


@click.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data directory.  [default: .upshot]")
@click.option(
    "--automations",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of automation files.  [default: automations]",
)
def init(**options: Any) -> None:
    """
    Write a first automation and what it needs.

    The automation calls `upshot receivers`, a receiver on this machine, when a version gets the alias `production`.
    The command also writes the settings file and the secret that the automation needs. It changes no file that
    exists.
    """
    settings = settings_with(**options)
    output = Output(as_json=False)
    _write_automation(settings, output)
    data_dir = DataDir(settings.data)
    _write_if_missing(
        output,
        settings_file(settings.data),
        f"allows automations to reach {_RECEIVER}",
        lambda path: write_private(path, _SETTINGS),
    )
    _write_if_missing(
        output,
        settings.data / data_dir.secrets.name / _SECRET,
        "the secret that signs its requests",
        lambda path: write_private(path, f"{SIGNING_SECRET}\n"),
    )
    if _RECEIVER not in settings_with(**options).egress_allow:
        output.line(
            output.state("warn"),
            f"  UPSHOT_EGRESS_ALLOW does not allow {_RECEIVER}; add it to the environment variable, or to "
            f"{settings_file(settings.data)}",
        )
    if (endpoint := read_endpoint(settings.data)) is not None:
        output.line(
            output.state("warn"), f"  restart the Upshot at {endpoint.url}: it reads its settings when it starts"
        )
    _print_next_steps(output, options)


def _write_automation(settings: Settings, output: Output) -> None:
    directory = settings.automations
    try:
        directory.mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in directory.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise ConfigError(
            f"{directory}: {error.strerror}; choose a directory that you can write to with --automations"
        ) from error
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        output.line(f"kept   {directory}: it has {others[0]}{more} already, so no automation is added")
        return
    path = directory / "first.yaml"
    _write_if_missing(output, path, "a first automation", lambda path: path.write_text(_AUTOMATION))
    schema = json.dumps(json_schema(load_catalog()), indent=2)
    _write_if_missing(
        output, directory / _SCHEMA, "its schema, for editors", lambda path: path.write_text(f"{schema}\n")
    )


def _write_if_missing(output: Output, path: Path, what: str, write: Callable[[Path], Any]) -> None:
    if path.exists():
        output.line(f"kept   {path}: it exists already")
        return
    try:
        write(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; choose a directory that you can write to") from error
    output.line(f"wrote  {path}: {what}")


def _print_next_steps(output: Output, options: dict[str, Any]) -> None:
    given = {name: str(value) for name, value in options.items() if value is not None}
    up = shlex.join(["upshot", "up", *(word for name, value in given.items() for word in (f"--{name}", value))])
    data = shlex.join(["--data", given["data"]]) if "data" in given else ""
    output.line()
    output.line("Next, in three terminals:")
    output.line("  upshot receivers   prints what the automation sends")
    output.line(f"  {up:<16}   runs Upshot")
    for command in (
        "upshot registry artifacts log fraud/xgb --set accuracy:=0.93",
        "upshot registry link fraud/xgb:v0 model/fraud",
        "upshot registry alias set model/fraud:v0 production --wait",
    ):
        output.line(f"  {command} {data}".rstrip())
