"""`upshot up`."""

from __future__ import annotations

from pathlib import Path

import click

from upshot.cli.configuration import settings_with
from upshot.embedded.up import up as run_up


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes any free one.  [default: 8080]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder.  [default: .upshot]")
@click.option(
    "--automations",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of automation files.  [default: automations]",
)
def up(port: int | None, host: str | None, data: Path | None, automations: Path | None) -> None:
    """
    Run everything on this machine, in the foreground.

    Redis (or yours: UPSHOT_REDIS_URL), the database (or yours: UPSHOT_DATABASE_URL), the web process
    and a worker. Other commands find it through the data folder. Ctrl-C stops it: what is in flight
    is finished first.
    """
    run_up(settings_with(port=port, host=host, data=data, automations=automations))
