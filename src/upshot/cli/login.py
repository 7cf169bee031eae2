"""`upshot login`."""

from __future__ import annotations

import sys

import click

from upshot.client.client_settings import read_client_settings
from upshot.client.http import Client
from upshot.client.login import Server, check_url, find_server, login_path, store_login
from upshot.errors import ConfigError


@click.command()
@click.argument("key", required=False)
@click.option("--host", metavar="URL", help="URL of the server. By default: UPSHOT_URL, or the login that was kept.")
@click.option("--relogin", is_flag=True, help="Ask for the token again, and replace the login that was kept.")
def login(key: str | None, host: str | None, *, relogin: bool) -> None:
    """
    Check the token KEY of a server, and keep both for later commands and programs of this user.

    Without KEY, UPSHOT_TOKEN or the login that was kept is checked. KEY can also be `-`, which reads it from standard
    input. The login is kept in a file that only you can read.
    """
    if key == "-":
        key = sys.stdin.readline().strip()
    elif relogin and key is None:
        key = click.prompt("Token", hide_input=True, err=True)
    if key == "":
        raise ConfigError("the token is empty; give the token of the server, which is in UPSHOT_TOKEN where it runs")
    server = find_server(read_client_settings(with_file=True), url=check_url(host) if host else None, token=key)
    with Client(server.url, server.token, is_local=server.is_local) as client:
        client.get("/registries")
    store_login(Server(server.url, server.token))
    click.echo(f"logged in to {server.url}; the login is kept in {login_path()}")
