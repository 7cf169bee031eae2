"""`upshot sync`."""

from __future__ import annotations

from pathlib import Path

import click

from upshot.cli.api_commands import api_command
from upshot.client.addresses import ApiError
from upshot.client.client_settings import read_client_settings
from upshot.client.http import Client
from upshot.client.login import Server
from upshot.console import Output
from upshot.errors import Unavailable, UpshotError
from upshot.sdk.connection import use_server
from upshot.sdk.recording import RUNS_FOLDER
from upshot.sdk.sync import STATE_NAME, InUse, Report, find_folders, sync_folder
from upshot.sdk.transport import is_unavailable

_UNAUTHORIZED = 401


@click.command(short_help="Bring in runs that were kept without a server.")
@click.argument("paths", metavar="[DIR...]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show what would be brought in, and change nothing.")
@click.option("--keep", is_flag=True, help="Keep the folders. They are not brought in again.")
@api_command
def sync(client: Client, output: Output, paths: tuple[Path, ...], *, dry_run: bool, keep: bool) -> None:
    """
    Bring in the runs in DIR, which were kept while there was no server, each once only.

    DIR is the folder of a run or a directory of such folders. By default, UPSHOT_DIR, or .upshot-runs. A folder is
    removed when everything in it has been brought in. An interrupted sync continues where it stopped.
    """
    use_server(Server(client.url, client.token, is_local=client.is_local))
    reports: list[Report] = []
    failures: list[str] = []
    for folder in _find(paths):
        try:
            report = sync_folder(folder, dry_run=dry_run, keep=keep)
        except InUse as error:
            click.echo(f"note: {error}", err=True)
        except UpshotError as error:
            failures.append(str(error))
            if _say_failure(error):
                break
        else:
            if report is None:
                continue
            reports.append(report)
            _print(output, report, dry_run=dry_run)
    if output.as_json:
        output.json([_to_json(report) for report in reports])
    elif not (reports or failures):
        output.line("nothing to bring in")
    if failures or any(report.rejected for report in reports):
        raise click.exceptions.Exit(1)


def _find(paths: tuple[Path, ...]) -> list[Path]:
    directory = read_client_settings().dir or Path(RUNS_FOLDER)
    return find_folders(list(paths) or ([directory] if directory.is_dir() else []))


def _say_failure(error: UpshotError) -> bool:
    """Print an error. Return whether the server would answer the next run in the same way."""
    click.echo(f"Error: {error}", err=True)
    is_api_error = isinstance(error, ApiError) and (error.status == _UNAUTHORIZED or is_unavailable(error))
    if not is_api_error and not isinstance(error, Unavailable):
        return False
    click.echo("note: nothing was lost; sync again later, which continues here", err=True)
    return True


def _print(output: Output, report: Report, *, dry_run: bool) -> None:
    if output.as_json:
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(report.counts.items()))
    output.line(f"{report.run}: {'would bring in' if dry_run else 'brought in'} {counts or 'nothing'}")
    for alias in report.kept_aliases:
        output.line(f"  {alias} was moved on the server since then, and stays where it is")
    for reason in report.rejected:
        output.line(f"  not brought in: {reason}")
    if report.rejected:
        output.line(f"  {report.folder} is kept; remove it, or {STATE_NAME} in it to try again")


def _to_json(report: Report) -> dict[str, object]:
    return {
        "run": report.run,
        "folder": str(report.folder),
        "records": report.counts,
        "kept_aliases": report.kept_aliases,
        "rejected": report.rejected,
    }
