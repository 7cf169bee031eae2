"""`upshot health`: the health check of containers with a web process or a worker."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

import click

from upshot.cli.settings import settings_with
from upshot.clock import SystemClock
from upshot.net import is_loopback

#: silence of an event loop that counts as unhealthy; `upshot up` replaces a worker after the same time
MAX_SILENT_SECONDS = 30.0
_TIMEOUT_SECONDS = 4.0
_ALL_ADDRESSES = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared, not bound


@click.command()
def health() -> None:
    """
    Check the process in this container: exit code 0 means healthy.

    A worker touches the file that UPSHOT_HEARTBEAT_FILE names while its event loop runs. If the file exists, it must
    be recent. Otherwise the web process must answer `/healthz`.
    """
    settings = settings_with()
    file = settings.heartbeat_file
    if file is not None and file.exists():
        problem = _silence(file)
    else:
        host = "localhost" if is_loopback(settings.host) or settings.host in _ALL_ADDRESSES else settings.host
        problem = _web_problem(host, settings.port)
    if problem:
        click.echo(problem, err=True)
        sys.exit(1)


def _silence(file: Path) -> str | None:
    seconds = SystemClock().now().timestamp() - file.stat().st_mtime
    if seconds <= MAX_SILENT_SECONDS:
        return None
    return f"{file}: the worker's event loop has not run for {seconds:.0f} seconds; restart the worker"


def _web_problem(host: str, port: int) -> str | None:
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"the web process on {host} port {port} does not answer: {error}"
    finally:
        connection.close()
    return None if status == http.client.OK else f"the web process answers with status {status}"
