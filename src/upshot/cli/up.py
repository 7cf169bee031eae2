"""`upshot up`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from upshot.cli.settings import settings_with, warn_of_environment
from upshot.cli.whole_number import WholeNumber
from upshot.embedded.parent_watchdog import stop_when_stdin_ends
from upshot.embedded.up import up as run_up
from upshot.private_files import make_files_private

_SPARE_SECONDS = 30.0  # beyond the time that its child processes may take to stop one after the other


@click.command()
@click.option("--port", type=WholeNumber(0, 65535), help="Port to listen on; 0 chooses a free port.  [default: 8080]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data directory.  [default: .upshot]")
@click.option(
    "--automations",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of automation files.  [default: automations]",
)
@click.option("--until-stdin-ends", is_flag=True, help="Stop when standard input ends.")
def up(*, until_stdin_ends: bool, **options: Any) -> None:
    """
    Run everything on this machine, in the foreground.

    Starts Redis (unless UPSHOT_REDIS_URL is set), the web process and a worker. The database is a SQLite file
    (unless UPSHOT_DATABASE_URL is set). Other commands find the server through the data directory. Ctrl-C stops
    everything after the requests in flight have finished.
    """
    make_files_private()
    warn_of_environment()
    settings = settings_with(**options)
    if until_stdin_ends:
        stop_when_stdin_ends(2 * settings.stop_seconds + _SPARE_SECONDS)
    run_up(settings)
