"""The parts of a server one by one: `upshot serve`, `upshot worker`, `upshot migrate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from upshot import gc_tuning
from upshot.cli.settings import joined, settings_with
from upshot.embedded.parent_watchdog import stop_when_stdin_ends
from upshot.logs import configure
from upshot.settings import Settings

_SPARE_SECONDS = 10.0  # beyond `stop_seconds`, before a part that outlived its supervisor is killed

_data = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder.")
_automations = click.option(
    "--automations", type=click.Path(path_type=Path, file_okay=False), help="Folder of automation files."
)
_until_stdin_ends = click.option(
    "--until-stdin-ends", is_flag=True, help="Stop when standard input ends, as a supervisor's child should."
)


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes any free one.")
@click.option("--host", help="Address to listen on; beyond loopback, UPSHOT_TOKEN must be set.")
@_data
@_automations
@click.option(
    "--fd", "fds", type=int, multiple=True, hidden=True, help="Listen on this open socket: a supervisor holds the port."
)
@_until_stdin_ends
def serve(*, fds: tuple[int, ...], until_stdin_ends: bool, **options: Any) -> None:
    """Run the web process alone: the REST API, health and metrics."""
    settings = _begin(until_stdin_ends, **options)
    from upshot.web.serve import serve as run_web
    from upshot.wiring.web import build_web

    house = build_web(settings)
    gc_tuning.freeze_startup_objects()
    run_web(house, fds=fds)


@click.command()
@_data
@_automations
@click.option("--in-flight", type=click.IntRange(1), help="Steps to perform at the same time.")
@click.option(
    "--queues",
    metavar="NAME[,NAME]",
    help="Take only these queues of jobs; `events` among them answers events. Left out, it takes everything.",
)
@_until_stdin_ends
def worker(*, until_stdin_ends: bool, in_flight: int | None, **options: Any) -> None:
    """
    Run a worker alone.

    It joins the other workers of the same Redis and database; beside a running `upshot up` it finds
    both through the data folder.
    """
    settings = _begin(until_stdin_ends, worker_in_flight=in_flight, **options)
    from upshot.worker.process import main as run_worker

    sys.exit(run_worker(settings))


@click.command()
@_data
def migrate(data: Path | None) -> None:
    """
    Bring the database to the present form.

    `serve` and `worker` do so as well when they start; run it alone where they may not.
    """
    settings = settings_with(data=data)
    from upshot.wiring.parts import open_database

    open_database(settings).close()
    click.echo("the database is up to date")


def _begin(until_stdin_ends: bool, /, **options: Any) -> Settings:
    settings = joined(settings_with(**options))
    if until_stdin_ends:
        stop_when_stdin_ends(settings.stop_seconds + _SPARE_SECONDS)
    configure(settings.log_level, settings.log_format)
    return settings
