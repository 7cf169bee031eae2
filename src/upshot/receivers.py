"""
Local fakes of the systems that actions call. They respond as the real systems do; tests can make them misbehave.

| path | fake of | responses |
|---|---|---|
| `/github/repos/{owner}/{repo}/dispatches` | GitHub's `repository_dispatch` | 204, 401, 404, 422 as GitHub does |
| `/slack/services/{…}` | a Slack incoming webhook | 200 `ok`, 400 `invalid_payload`, 404 `no_service` |
| `/slack/api/chat.postMessage` | Slack's Web API | 200 with `ok` true or false |
| anything else | a webhook receiver | 200; 401 if the request has a signature that is wrong |

Start them with `async with Receivers() as receivers`, with `with ReceiversThread() as receivers` in code
without an event loop, or with `python -m upshot.receivers --port 9000`, which prints every request.
"""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import threading
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import click
from aiohttp import web

from upshot.actions.standard_webhooks import parse_secret, verification_error
from upshot.clock import Clock, SystemClock, format_time
from upshot.errors import ConfigError
from upshot.printable import escape

GITHUB_TOKEN = "ghp_fake"  # noqa: S105 - the fake's, not a secret
DEFAULT_PORT = 9000
SLACK_TOKEN = "xoxb-fake"  # noqa: S105 - the fake's, not a secret
SIGNING_SECRET = "whsec_c3RhbmQtaW4gc2VjcmV0LCAzMiBieXRlcyBsb25nISE="  # noqa: S105 - the fake's, not a secret
SLACK_WEBHOOK_PATH = "/slack/services/T000/B000/fake"
MAX_REQUEST_BYTES = 4 * 1024 * 1024
ENDLESS_CHUNK = b"x" * 65536
TRICKLE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Behaviour:
    """Replaces the usual response to a request."""

    respond: Callable[[web.Request], Awaitable[web.StreamResponse]]
    status: int | None = None  #: status of the response; None if there is no valid response


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived, with the result of its verification."""

    method: str
    path: str
    headers: Mapping[str, str]  #: names in lower case
    body: bytes
    time: datetime
    status: int | None  #: status of the response; None if there is no valid response
    verified: bool  #: headers, token and signature are correct
    reason: str | None  #: why it is not verified; None if it is

    @property
    def json(self) -> Any:
        """The parsed body; raises ValueError if it is not JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class _Reply:
    """The usual response to a request."""

    status: int
    reason: str | None = None  #: why the request is not verified; None if it is
    data: Any = None
    text: str | None = None

    def response(self) -> web.Response:
        if self.data is not None:
            return web.json_response(self.data, status=self.status)
        return web.Response(status=self.status, text=self.text)


class Receivers:
    """
    All fakes on one port.

    Args:
        port: Port to listen on; 0 for any free port.
        host: Address to listen on.
        signing_secret: Verifies signed webhooks.
        clock: Returns the current time.
        on_received: Called with each request once its whole body has arrived.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        signing_secret: str = SIGNING_SECRET,
        clock: Clock | None = None,
        on_received: Callable[[Received], None] | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._key = parse_secret(signing_secret)
        self._clock = clock or SystemClock()
        self._on_received = on_received
        self._next: defaultdict[str, deque[_Behaviour]] = defaultdict(deque)
        self._always: dict[str, _Behaviour] = {}
        self._delays: dict[str, float] = {}
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()
        self.requests: list[Received] = []  #: in the order in which they arrived

    # --- addresses --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://{self._host}:{self._port}"

    @property
    def github_api_url(self) -> str:
        """Value for `UPSHOT_GITHUB_API_URL`."""
        return f"{self.url}/github"

    @property
    def slack_api_url(self) -> str:
        """Value for `UPSHOT_SLACK_API_URL`."""
        return f"{self.url}/slack/api"

    @property
    def slack_webhook_url(self) -> str:
        """URL of the only incoming webhook that the fake accepts."""
        return f"{self.url}{SLACK_WEBHOOK_PATH}"

    def received(self, path: str) -> list[Received]:
        """Return the requests whose path starts with this text."""
        return [request for request in self.requests if request.path.startswith(path)]

    # --- behaviour --------------------------------------------------------------------------------

    def fail_times(self, times: int, status: int, *, path: str, headers: Mapping[str, str] | None = None) -> None:
        """Respond to the next requests for this path with this status, and then as usual."""

        async def fail(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, headers=headers, text=f"the fake receiver responds with {status}")

        self._next[path].extend([_Behaviour(fail, status)] * times)

    def delay(self, seconds: float, *, path: str) -> None:
        """Delay every response to this path from now on."""
        self._delays[path] = seconds

    def misbehave(self, how: str, *, path: str, times: int | None = None) -> None:
        """
        Break the rules of HTTP on this path.

        Args:
            how: `hang` (never responds), `reset` (resets the connection), `garbage` (sends something that is not
                HTTP), `trickle` (sends an endless header byte by byte), `endless` (sends an endless body).
            path: The whole path.
            times: Number of requests; None for all from now on.
        """
        behaviours = {
            "hang": self._hang,
            "reset": _reset,
            "garbage": _garbage,
            "trickle": self._trickle,
            "endless": self._endless,
        }
        behaviour = _Behaviour(behaviours[how])
        if times is None:
            self._always[path] = behaviour
        else:
            self._next[path].extend([behaviour] * times)

    def reset(self, *, path: str) -> None:
        """Respond to this path as usual again."""
        for behaviours in (self._next, self._always, self._delays):
            behaviours.pop(path, None)

    # --- running ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=MAX_REQUEST_BYTES)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        reply = self._usual_reply(request, body)
        queued = self._next.get(request.path)
        behaviour = queued.popleft() if queued else self._always.get(request.path)
        received = Received(
            method=request.method,
            path=request.path_qs,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            time=self._clock.now(),
            status=behaviour.status if behaviour else reply.status,
            verified=reply.reason is None,
            reason=reply.reason,
        )
        self.requests.append(received)
        if self._on_received:
            self._on_received(received)
        if seconds := self._delays.get(request.path):
            await asyncio.sleep(seconds)
        return await behaviour.respond(request) if behaviour else reply.response()

    # --- usual replies ----------------------------------------------------------------------------

    def _usual_reply(self, request: web.Request, body: bytes) -> _Reply:
        path = request.path
        if path.startswith("/github/repos/") and path.endswith("/dispatches"):
            return _github_reply(request, body)
        if path == "/slack/api/chat.postMessage":
            return _slack_api_reply(request, body)
        if path.startswith("/slack/services/"):
            return _slack_webhook_reply(path, body)
        return self._webhook_reply(request, body)

    def _webhook_reply(self, request: web.Request, body: bytes) -> _Reply:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if "webhook-signature" not in headers:
            return _Reply(200, reason="not signed", data={"received": True})
        error = verification_error(self._key, headers, body, now=self._clock.now())
        return _Reply(200 if error is None else 401, reason=error, data={"received": error is None, "reason": error})

    # --- misbehaviour -----------------------------------------------------------------------------

    async def _hang(self, _request: web.Request) -> web.StreamResponse:
        await self._stopping.wait()
        return web.Response()

    async def _trickle(self, request: web.Request) -> web.StreamResponse:
        transport = _transport(request)
        transport.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not (transport.is_closing() or self._stopping.is_set()):
            transport.write(b"x")
            await asyncio.sleep(TRICKLE_SECONDS)
        transport.abort()
        return web.Response()

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not self._stopping.is_set():
            await response.write(ENDLESS_CHUNK)
        return response


def _transport(request: web.Request) -> asyncio.Transport:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the sender closed the connection")
    return transport


async def _reset(request: web.Request) -> web.StreamResponse:
    _transport(request).abort()
    return web.Response()


async def _garbage(request: web.Request) -> web.StreamResponse:
    transport = _transport(request)
    transport.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    transport.close()
    return web.Response()


# --- GitHub --------------------------------------------------------------------------------------

_GITHUB_MAX_EVENT_TYPE_CHARS = 100
_GITHUB_MAX_KEYS = 10
_GITHUB_MAX_PAYLOAD_BYTES = 64 * 1024


def _github_error(status: int, message: str) -> _Reply:
    data = {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
    return _Reply(status, reason=message, data=data)


def _github_reply(request: web.Request, body: bytes) -> _Reply:
    """Reply as api.github.com does to `POST /repos/{owner}/{repo}/dispatches`."""
    if request.method != "POST" or "missing" in request.path:
        return _github_error(404, "Not Found")
    if not request.headers.get("User-Agent"):
        return _github_error(
            403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent"
        )
    if request.headers.get("Authorization") not in {f"Bearer {GITHUB_TOKEN}", f"token {GITHUB_TOKEN}"}:
        return _github_error(401, "Bad credentials")
    try:
        dispatch = json.loads(body)
    except ValueError:
        return _github_error(400, "Problems parsing JSON")
    if error := _dispatch_error(dispatch):
        return _github_error(422, f"Invalid request.\n\n{error}")
    for name, value in (("Accept", "application/vnd.github+json"), ("X-GitHub-Api-Version", "2022-11-28")):
        if request.headers.get(name) != value:  # GitHub accepts it, but a test or a user should notice
            return _Reply(204, reason=f"{name} is not {value}")
    return _Reply(204)


def _dispatch_error(dispatch: Any) -> str | None:
    if not isinstance(dispatch, dict) or not isinstance(dispatch.get("event_type"), str):
        return '"event_type" wasn\'t supplied.'
    if not 0 < len(dispatch["event_type"]) <= _GITHUB_MAX_EVENT_TYPE_CHARS:
        return "event_type is too long (maximum is 100 characters)"
    payload = dispatch.get("client_payload", {})
    if not isinstance(payload, dict):
        return "For 'properties/client_payload', input is not an object."
    if len(payload) > _GITHUB_MAX_KEYS:
        return f"No more than {_GITHUB_MAX_KEYS} properties are allowed; {len(payload)} were supplied."
    if len(json.dumps(payload, separators=(",", ":")).encode()) >= _GITHUB_MAX_PAYLOAD_BYTES:
        return "client_payload is too large."
    return None


# --- Slack ---------------------------------------------------------------------------------------

_SLACK_MAX_BLOCKS = 50


def _message_error(message: Any) -> str | None:
    if not isinstance(message, dict):
        return "invalid_payload"
    if not message.get("text") and not message.get("blocks"):
        return "no_text"
    blocks = message.get("blocks", [])
    if not isinstance(blocks, list) or len(blocks) > _SLACK_MAX_BLOCKS:
        return "invalid_blocks"
    return None


def _read_slack(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _slack_webhook_reply(path: str, body: bytes) -> _Reply:
    """Reply as hooks.slack.com does, with plain text."""
    if path != SLACK_WEBHOOK_PATH:
        return _Reply(404, reason="no_service", text="no_service")
    error = _message_error(_read_slack(body))
    return _Reply(200, text="ok") if error is None else _Reply(400, reason=error, text=error)


def _slack_api_reply(request: web.Request, body: bytes) -> _Reply:
    """Reply as slack.com/api does: always with 200, while `ok` tells success from failure."""
    message = _read_slack(body)
    error = _message_error(message)
    if request.headers.get("Authorization") != f"Bearer {SLACK_TOKEN}":
        error = "invalid_auth"
    elif error is None and not str(message.get("channel", "")).startswith(("C", "#")):
        error = "channel_not_found"
    if error:
        return _Reply(200, reason=error, data={"ok": False, "error": error})
    return _Reply(200, data={"ok": True, "channel": message["channel"], "ts": "1767268800.000100"})


# --- use from code without an event loop, and from a shell ---------------------------------------


class ReceiversThread:
    """All fakes in a thread with its own event loop, for code without one. Takes the arguments of `Receivers`."""

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upshot-receivers", daemon=True)
        self._receivers: Receivers | None = None

    def __enter__(self) -> Receivers:
        self._thread.start()
        self._receivers = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self._receivers

    async def _open(self) -> Receivers:
        return await Receivers(**self._arguments).__aenter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._receivers is not None:
            asyncio.run_coroutine_threadsafe(self._receivers.__aexit__(None, None, None), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def describe(request: Received) -> str:
    """Return a readable description of the request."""
    verified = "verified" if request.verified else f"not verified: {request.reason}"
    status = request.status if request.status is not None else "no response"
    head = f"{format_time(request.time)}  {request.method} {request.path}  → {status}  {verified}"
    names = ("webhook-id", "webhook-signature", "x-github-api-version")
    lines = [f"    {name}: {request.headers[name]}" for name in names if name in request.headers]
    return escape("\n".join([head, *lines, f"    {request.body.decode('utf-8', 'replace')}"]), keep="\n\t")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="Port to listen on; 0 for any free port.")
@click.option("--signing-secret", default=SIGNING_SECRET, help="Verifies signed webhooks.")
def main(host: str, port: int, signing_secret: str) -> None:
    """Receive the requests that automations send, verify them and print them."""

    async def run() -> None:
        stop = asyncio.Event()
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        async with Receivers(
            host=host, port=port, signing_secret=signing_secret, on_received=lambda r: click.echo(describe(r))
        ) as receivers:
            click.echo(f"receiving on {receivers.url}")
            await stop.wait()

    try:
        asyncio.run(run())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is in use; choose another one with --port") from error
        raise


if __name__ == "__main__":
    main()
