"""The processes of a server one by one: `upshot serve`, `upshot worker`, `upshot migrate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from upshot import gc_tuning
from upshot.cli.settings import settings_with, warn_of_environment, with_running_endpoint
from upshot.cli.whole_number import WholeNumber
from upshot.embedded.parent_watchdog import stop_when_stdin_ends
from upshot.logs import configure
from upshot.private_files import make_files_private
from upshot.settings import Settings

_SPARE_SECONDS = 10.0  # beyond `stop_seconds`, before a process that outlived its supervisor is killed

_data = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data directory.")
_automations = click.option(
    "--automations", type=click.Path(path_type=Path, file_okay=False), help="Directory of automation files."
)
_until_stdin_ends = click.option(
    "--until-stdin-ends", is_flag=True, help="Stop when standard input ends. Supervisors use it to stop orphans."
)


@click.command()
@click.option("--port", type=WholeNumber(0, 65535), help="Port to listen on; 0 chooses a free port.")
@click.option("--host", help="Address to listen on. If it is not a loopback address, UPSHOT_TOKEN must be set.")
@_data
@_automations
@click.option(
    "--fd",
    "fds",
    type=WholeNumber(0),
    multiple=True,
    hidden=True,
    help="File descriptor of an open socket to listen on, inherited from a supervisor that keeps the port.",
)
@_until_stdin_ends
def serve(*, fds: tuple[int, ...], until_stdin_ends: bool, **options: Any) -> None:
    """Run only the web process: the REST API, health checks and metrics."""
    settings = _prepare(until_stdin_ends, **options)
    from upshot.web.serve import serve as run_web
    from upshot.wiring.web import build_web

    deps = build_web(settings)
    gc_tuning.freeze_startup_objects()
    run_web(deps, fds=fds)


@click.command()
@_data
@_automations
@click.option("--in-flight", type=WholeNumber(1), help="Number of steps that may run at the same time.")
@click.option(
    "--queues",
    metavar="NAME[,NAME]",
    help="Queues of jobs that this worker takes. Include `events` to answer events as well. By default: everything.",
)
@click.option(
    "--heartbeat-file",
    type=click.Path(path_type=Path, dir_okay=False),
    hidden=True,
    help="File to touch while the event loop runs, for a supervisor that replaces a worker that hangs.",
)
@_until_stdin_ends
def worker(*, until_stdin_ends: bool, in_flight: int | None, heartbeat_file: Path | None, **options: Any) -> None:
    """
    Run only a worker.

    It joins the other workers that use the same Redis and database. If `upshot up` runs on the data directory,
    the worker reads both addresses from there.
    """
    settings = _prepare(until_stdin_ends, worker_in_flight=in_flight, **options)
    from upshot.worker.process import main as run_worker

    sys.exit(run_worker(settings, heartbeat_file or settings.heartbeat_file))


@click.command()
@_data
def migrate(data: Path | None) -> None:
    """
    Upgrade the database schema.

    `serve` and `worker` do the same when they start. Use this command if they do not have the permission.
    """
    make_files_private()
    warn_of_environment()
    settings = settings_with(data=data)
    from upshot.wiring.parts import open_database

    open_database(settings).close()
    click.echo("the database schema is up to date")


def _prepare(until_stdin_ends: bool, /, **options: Any) -> Settings:
    make_files_private()
    if not until_stdin_ends:  # otherwise, the supervisor has done it
        warn_of_environment()
    settings = with_running_endpoint(settings_with(**options))
    if until_stdin_ends:
        stop_when_stdin_ends(settings.stop_seconds + _SPARE_SECONDS)
    configure(settings.log_level, settings.log_format)
    return settings
