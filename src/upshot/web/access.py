"""
Who may come in: bearers of the token; without a token, programs of this machine.

A page in a browser of this machine is not such a program: it can be made to ask a server on
loopback, by a request across origins or by a name that it lets point here (DNS rebinding). So
without a token the `Host` must be a name of this machine, and an `Origin` must be our own.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from upshot.errors import ConfigError
from upshot.settings import Settings
from upshot.web.listening import is_loopback
from upshot.web.problems import Problem

API = "/api/v1"
# The document and its page say what the source code says to everybody; a browser bears no token there.
_OPEN_API = frozenset({f"{API}/openapi.json", f"{API}/docs"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def token_of(settings: Settings) -> str | None:
    """The token that requests must bear; None when there is none, an empty one included."""
    return (settings.token.get_secret_value() or None) if settings.token else None


def check_exposure(settings: Settings) -> None:
    """
    Refuse to serve other machines without a token.

    Raises:
        ConfigError: The server would listen beyond loopback, and no token is set.
    """
    if token_of(settings) is None and not is_loopback(settings.host):
        raise ConfigError(
            f"UPSHOT_HOST: {settings.host} can be reached from other machines, and no token is set; "
            "set UPSHOT_TOKEN, or listen on 127.0.0.1"
        )


def _host_name(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _is_of(origin: str, host: str) -> bool:
    scheme, separator, netloc = origin.partition("://")
    return bool(scheme and separator) and netloc.lower() == host.lower()


class Access:
    """The rule, made from the settings."""

    def __init__(self, settings: Settings) -> None:
        check_exposure(settings)
        token = token_of(settings)
        self._token = token.encode() if token else None
        self._metrics_open = is_loopback(settings.host)
        own = {settings.host.lower(), _host_name(urlsplit(settings.public_url or "").netloc)}
        self._hosts = _LOOPBACK_NAMES | {name for name in own if name}

    def check(self, path: str, headers: Headers) -> None:
        """
        Let a request pass.

        Raises:
            Problem: 401 without the right token; 403 from a foreign host or origin.
        """
        if self._token is None:
            self._check_source(headers)
        elif self._needs_token(path):
            self._check_token(self._token, headers.get("authorization", ""))

    def _needs_token(self, path: str) -> bool:
        if path == "/metrics":
            return not self._metrics_open
        return path.startswith("/api/") and path not in _OPEN_API

    @staticmethod
    def _check_token(token: bytes, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise Problem(
                401,
                "unauthorized",
                "header.authorization: no token; send `Authorization: Bearer TOKEN` with the server's token",
                headers={"WWW-Authenticate": 'Bearer realm="upshot"'},
            )
        if not hmac.compare_digest(given.strip().encode(), token):
            raise Problem(
                401,
                "unauthorized",
                "header.authorization: this is not the server's token; "
                "it is in UPSHOT_TOKEN where the server runs, or in its data folder's endpoint.json",
                headers={"WWW-Authenticate": 'Bearer realm="upshot", error="invalid_token"'},
            )

    def _check_source(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if _host_name(host) not in self._hosts:
            raise Problem(
                403,
                "forbidden",
                f"header.host: {host[:100]!r} is no name of this server, which has no token and so answers only to "
                f"{', '.join(sorted(self._hosts))}; set UPSHOT_TOKEN, or UPSHOT_PUBLIC_URL to the address in use",
            )
        origin = headers.get("origin")
        if origin is not None and not _is_of(origin, host):
            raise Problem(
                403,
                "forbidden",
                f"header.origin: a page of {origin[:100]!r} may not ask this server, which has no token; "
                "set UPSHOT_TOKEN",
            )
