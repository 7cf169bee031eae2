"""The parts of a server one by one: `upshot serve`, `upshot worker`, `upshot migrate`."""

from __future__ import annotations

from pathlib import Path

import click

from upshot.cli.configuration import settings_with
from upshot.embedded.endpoint import read_endpoint
from upshot.embedded.lifeline import stop_when_stdin_ends
from upshot.settings import Settings

_SPARE_SECONDS = 5.0  # beyond `stop_seconds`, before a part that outlived its supervisor is killed

_data = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder.")
_automations = click.option(
    "--automations", type=click.Path(path_type=Path, file_okay=False), help="Folder of automation files."
)
_until_stdin_ends = click.option(
    "--until-stdin-ends", is_flag=True, help="Stop when standard input ends, as a supervisor's child should."
)


def _joined(settings: Settings) -> Settings:
    """With the Redis of the `upshot up` that runs on this data, where no other is named: so a second worker joins it."""
    running = None if settings.redis_url else read_endpoint(settings.data)
    return settings.model_copy(update={"redis_url": running.redis_url}) if running else settings
