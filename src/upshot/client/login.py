"""The server that a program talks to, and the login that `upshot login` keeps for it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from upshot.client.client_settings import ClientSettings
from upshot.client.endpoint import endpoint_path, read_endpoint
from upshot.errors import ConfigError, InvalidInput
from upshot.private_files import write_private

_OF_WANDB = ("WANDB_API_KEY", "WANDB_BASE_URL")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens, and its token."""

    url: str
    token: str | None
    is_local: bool = False  #: it is this machine's `upshot up`, so proxy settings are ignored


def login_path() -> Path:
    """Return the path of the file with the login."""
    return Path("~/.config/upshot/login.json").expanduser()


def store_login(server: Server) -> None:
    """Keep a login for later programs of this user. Only the user can read the file."""
    path = login_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, json.dumps({"url": server.url, "token": server.token}) + "\n")


def read_login() -> Server | None:
    """
    Return the login that was kept, or None.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = login_path()
    try:
        fields = json.loads(path.read_text())
        return Server(str(fields["url"]), fields["token"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: this is not a login ({error}); remove it, and run `upshot login` again") from error


class NoServer(ConfigError):
    """Nothing says where the server is."""


def find_server(settings: ClientSettings, *, url: str | None = None, token: str | None = None) -> Server:
    """
    Return the server to talk to: the arguments, UPSHOT_URL and UPSHOT_TOKEN, the login, this directory's `upshot up`.

    Args:
        settings: UPSHOT_URL, UPSHOT_TOKEN and UPSHOT_DATA.
        url: URL of the server, if the program names it.
        token: Token, if the program names it.

    Raises:
        NoServer: There is none of them.
    """
    token = token or settings.token
    url = url or settings.url
    login = read_login()
    if url is not None:
        url = check_url(url)
        return Server(url, token or (login.token if login and login.url == url else None))
    if login is not None:
        return Server(login.url, token or login.token)
    endpoint = read_endpoint(settings.data)
    if endpoint is not None:
        return Server(endpoint.url, token or endpoint.token, is_local=True)
    note = ""
    if any(name in os.environ for name in _OF_WANDB):  # noqa: TID251 - variables of another program are not settings
        note = "; WANDB_API_KEY and WANDB_BASE_URL are not used, because a key of W&B is for W&B only"
        print(f"upshot: {note[2:]}", file=sys.stderr)  # noqa: T201 - a note to the user of a program
    raise NoServer(
        f"no server: set UPSHOT_URL and UPSHOT_TOKEN, run `upshot login`, or start `upshot up` here "
        f"({endpoint_path(settings.data)} does not exist){note}"
    )


def check_url(url: str) -> str:
    """
    Validate the URL of a server, and return it without a slash at its end.

    Raises:
        InvalidInput: It is not an HTTP URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInput(f"host {url!r}: write the URL of the server, such as https://upshot.example.com")
    return url.rstrip("/")
