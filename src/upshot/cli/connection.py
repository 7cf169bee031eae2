"""The connection of a command to a running Upshot."""

from __future__ import annotations

from pathlib import Path

from upshot.client.client_settings import read_client_settings
from upshot.client.endpoint import endpoint_path, read_endpoint
from upshot.client.http import Client
from upshot.client.login import find_server, read_login
from upshot.errors import ConfigError


def connect(data: Path | None = None) -> Client:
    """
    Return a client for UPSHOT_URL, the login that was kept, or the `upshot up` that runs on the data directory.

    Args:
        data: The data directory. If it is given, UPSHOT_URL and the login are ignored.

    Raises:
        ConfigError: UPSHOT_URL is not set, there is no login, and no Upshot runs on the data directory.
    """
    settings = read_client_settings(data=data, with_file=True)
    if data is None and (settings.url is not None or read_login() is not None):
        server = find_server(settings)
        return Client(server.url, server.token, is_local=server.is_local)
    endpoint = read_endpoint(settings.data)
    if endpoint is None:
        raise ConfigError(
            f"no Upshot answers: start `upshot up` here, or set UPSHOT_URL "
            f"({endpoint_path(settings.data)} does not exist)"
        )
    return Client(endpoint.url, settings.token or endpoint.token, is_local=True)
