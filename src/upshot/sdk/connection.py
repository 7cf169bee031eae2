"""The connection of a program to its server. The HTTP library is loaded with the first request."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING

from upshot.client.client_settings import ClientSettings, read_client_settings
from upshot.client.login import Server, check_url, find_server, read_login, store_login
from upshot.sdk.sdk_errors import InvalidArgument

if TYPE_CHECKING:
    from upshot.client.blob_cache import BlobCache
    from upshot.client.http import Client

_lock = threading.Lock()
_given: dict[str, Server] = {}  # what `login` was called with, under one key
_clients: dict[tuple[int, Server], Client] = {}


def read_settings() -> ClientSettings:
    """
    Read the settings of the environment.

    Raises:
        ConfigError: One is invalid.
    """
    return read_client_settings()


def client() -> Client:
    """
    Return the client of this process.

    Raises:
        ConfigError: Nothing says where the server is.
    """
    from upshot.client.http import Client

    with _lock:
        server = _find_server()
        key = (os.getpid(), server)  # a forked process must not use its parent's connections
        if key not in _clients:
            _clients[key] = Client(server.url, server.token, is_local=server.is_local)
        return _clients[key]


def new_client() -> Client:
    """
    Return a client with connections of its own, for a thread.

    Raises:
        ConfigError: Nothing says where the server is.
    """
    from upshot.client.http import Client

    server = _find_server()
    return Client(server.url, server.token, is_local=server.is_local)


def use_server(server: Server) -> None:
    """Use a server in this process, whatever the settings and the login say."""
    with _lock:
        _given["login"] = server


def _find_server() -> Server:
    return _given.get("login") or find_server(read_settings())


def login(
    key: str | None = None,
    relogin: bool | None = None,
    host: str | None = None,
    force: bool | None = None,
    timeout: int | None = None,
    verify: bool = True,
    referrer: str | None = None,
    prompt: bool = True,
    **ignored: object,
) -> bool:
    """
    Check the connection to the server, and keep the login for later programs.

    Args:
        key: The token of the server. By default, UPSHOT_TOKEN, or the one that was kept.
        relogin: Forget what was kept.
        host: The URL of the server. By default, UPSHOT_URL, or the one that was kept.
        force: Has no effect, as the arguments after it.
        timeout: Has no effect.
        verify: Has no effect: the token is always checked.
        referrer: Has no effect.
        prompt: Has no effect.
        ignored: Have no effect.

    Returns:
        True.

    Raises:
        ConfigError: Nothing says where the server is.
        ApiError: The server rejected the token.
        Unavailable: No server answers.
    """
    from upshot.client.http import Client

    settings = read_settings()
    server = find_server(settings, url=check_url(host) if host else None, token=key)
    with Client(server.url, server.token, is_local=server.is_local) as checked:
        checked.get("/registries")
    if key is not None or host is not None:
        if relogin or read_login() != server:
            store_login(Server(server.url, server.token))
        with _lock:
            _given["login"] = server
    return True


def blob_cache() -> BlobCache | None:
    """Return the cache of downloaded files, or None if the settings say that there is none."""
    from upshot.client.blob_cache import BlobCache, cache_location

    settings = read_settings()
    if not settings.cache_gb:
        return None
    return BlobCache(*cache_location(settings.cache_dir, settings.cache_gb, data=settings.data))


def check_entity(entity: str | None) -> None:
    """
    Check the entity of a run or a reference: an installation is one entity.

    Raises:
        InvalidArgument: UPSHOT_ENTITY names another entity.
    """
    own = read_settings().entity
    if entity and own and entity != own:
        raise InvalidArgument(f"entity {entity!r}: this installation is {own!r} (UPSHOT_ENTITY); leave the entity out")


def say(text: str) -> None:
    """Print a note on standard error. A program without one does not notice."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
        print(f"upshot: {text}", file=sys.stderr)  # noqa: T201 - a note to the user of a program


@cache
def say_once(text: str) -> None:
    """Print a note on standard error, the first time only."""
    say(text)
