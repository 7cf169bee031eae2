"""
Local stand-ins for the systems that actions talk to, behaving as those do; and rude ones, for tests.

| path | stands for | answers |
|---|---|---|
| `/github/repos/{owner}/{repo}/dispatches` | GitHub's `repository_dispatch` | 204, 401, 404, 422 as GitHub does |
| `/slack/services/{…}` | a Slack incoming webhook | 200 `ok`, 400 `invalid_payload`, 404 `no_service` |
| `/slack/api/chat.postMessage` | Slack's Web API | 200 with `ok` true or false |
| anything else | a receiver of webhooks | 200; 401 where a signature is there and does not verify |

`async with Receivers() as receivers: receivers.url`, `with ReceiversThread() as receivers:` from code
without a loop, or `python -m upshot.receivers --port 9000`, which prints what it receives.
"""

from __future__ import annotations

import asyncio
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

from upshot.actions.standard_webhooks import find_fault, read_secret
from upshot.clock import Clock, SystemClock, format_time

GITHUB_TOKEN = "ghp_stand_in"  # noqa: S105 - of the stand-in, no secret
SLACK_TOKEN = "xoxb-stand-in"  # noqa: S105 - of the stand-in, no secret
SIGNING_SECRET = "whsec_c3RhbmQtaW4gc2VjcmV0LCAzMiBieXRlcyBsb25nISE="  # noqa: S105 - of the stand-in, no secret
SLACK_WEBHOOK_PATH = "/slack/services/T000/B000/standin"
MAX_REQUEST_BYTES = 4 * 1024 * 1024
ENDLESS_CHUNK = b"x" * 65536
TRICKLE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Behaviour:
    """What is done instead of answering as usual."""

    act: Callable[[web.Request], Awaitable[web.StreamResponse]]
    status: int | None = None  #: that it answers; None: it is rude


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived, and what was made of it."""

    method: str
    path: str
    headers: Mapping[str, str]  #: names in lower case
    body: bytes
    time: datetime
    status: int | None  #: that it is answered with; None where the answer is rude
    verified: bool  #: headers, token and signature are as they must be
    reason: str | None  #: why it is not verified; None when it is

    @property
    def json(self) -> Any:
        """The body as data; raises ValueError when it is no JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: int
    reason: str | None = None  #: None: verified
    data: Any = None
    text: str | None = None

    def response(self) -> web.Response:
        if self.data is not None:
            return web.json_response(self.data, status=self.status)
        return web.Response(status=self.status, text=self.text)


class Receivers:
    """
    The stand-ins on one port.

    Args:
        port: 0 for any free one.
        host: Where to listen.
        signing_secret: With which signed webhooks are verified.
        clock: Tells the time.
        on_received: Called with each request when all of it has arrived.
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
        self._key = read_secret(signing_secret)
        self._clock = clock or SystemClock()
        self._on_received = on_received
        self._next: defaultdict[str, deque[_Behaviour]] = defaultdict(deque)
        self._always: dict[str, _Behaviour] = {}
        self._delays: dict[str, float] = {}
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()
        self.requests: list[Received] = []  #: in the order in which they arrived

    # --- where it is ------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://{self._host}:{self._port}"

    @property
    def github_api_url(self) -> str:
        """What `UPSHOT_GITHUB_API_URL` is set to."""
        return f"{self.url}/github"

    @property
    def slack_api_url(self) -> str:
        """What `UPSHOT_SLACK_API_URL` is set to."""
        return f"{self.url}/slack/api"

    @property
    def slack_webhook_url(self) -> str:
        """An incoming webhook that exists."""
        return f"{self.url}{SLACK_WEBHOOK_PATH}"

    def received(self, path: str) -> list[Received]:
        """The requests whose path begins so."""
        return [request for request in self.requests if request.path.startswith(path)]

    # --- how it behaves ---------------------------------------------------------------------------

    def fail_times(self, times: int, status: int, *, path: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer the next requests of this path with a status, then as usual."""

        async def fail(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, headers=headers, text=f"stand-in answers {status}")

        self._next[path].extend([_Behaviour(fail, status)] * times)

    def delay(self, seconds: float, *, path: str) -> None:
        """Answer this path so much later, from now on."""
        self._delays[path] = seconds

    def be_rude(self, how: str, *, path: str, times: int | None = None) -> None:
        """
        Break the rules on this path.

        Args:
            how: `hang` (never answers), `reset` (cuts the connection), `garbage` (no HTTP), `trickle`
                (a head that never ends, byte by byte), `endless` (a body that never ends).
            path: The whole path.
            times: For so many requests; None for all from now on.
        """
        acts = {
            "hang": self._hang,
            "reset": _reset,
            "garbage": _garbage,
            "trickle": self._trickle,
            "endless": self._endless,
        }
        behaviour = _Behaviour(acts[how])
        if times is None:
            self._always[path] = behaviour
        else:
            self._next[path].extend([behaviour] * times)

    def be_good(self, *, path: str) -> None:
        """Answer this path as usual again."""
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
        verdict = self._judge(request, body)
        queued = self._next.get(request.path)
        behaviour = queued.popleft() if queued else self._always.get(request.path)
        self._keep(request, body, verdict, behaviour.status if behaviour else verdict.status)
        if seconds := self._delays.get(request.path):
            await asyncio.sleep(seconds)
        return await behaviour.act(request) if behaviour else verdict.response()

    def _keep(self, request: web.Request, body: bytes, verdict: _Verdict, status: int | None) -> None:
        received = Received(
            method=request.method,
            path=request.path_qs,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            time=self._clock.now(),
            status=status,
            verified=verdict.reason is None,
            reason=verdict.reason,
        )
        self.requests.append(received)
        if self._on_received:
            self._on_received(received)

    # --- what is right ----------------------------------------------------------------------------

    def _judge(self, request: web.Request, body: bytes) -> _Verdict:
        path = request.path
        if path.startswith("/github/repos/") and path.endswith("/dispatches"):
            return _judge_github(request, body)
        if path == "/slack/api/chat.postMessage":
            return _judge_slack_api(request, body)
        if path.startswith("/slack/services/"):
            return _judge_slack_webhook(path, body)
        return self._judge_webhook(request, body)

    def _judge_webhook(self, request: web.Request, body: bytes) -> _Verdict:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if "webhook-signature" not in headers:
            return _Verdict(200, reason="not signed", data={"received": True})
        fault = find_fault(self._key, headers, body, now=self._clock.now())
        return _Verdict(200 if fault is None else 401, reason=fault, data={"received": fault is None, "reason": fault})

    # --- what is rude -----------------------------------------------------------------------------

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
        raise ConnectionResetError("the sender has hung up")
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


def _github_says(status: int, message: str) -> _Verdict:
    data = {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
    return _Verdict(status, reason=message, data=data)


def _judge_github(request: web.Request, body: bytes) -> _Verdict:
    """As api.github.com answers `POST /repos/{owner}/{repo}/dispatches`."""
    if request.method != "POST" or "missing" in request.path:
        return _github_says(404, "Not Found")
    if not request.headers.get("User-Agent"):
        return _github_says(
            403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent"
        )
    if request.headers.get("Authorization") not in {f"Bearer {GITHUB_TOKEN}", f"token {GITHUB_TOKEN}"}:
        return _github_says(401, "Bad credentials")
    try:
        asked = json.loads(body)
    except ValueError:
        return _github_says(400, "Problems parsing JSON")
    fault = _github_fault(asked)
    if fault:
        return _github_says(422, f"Invalid request.\n\n{fault}")
    for name, value in (("Accept", "application/vnd.github+json"), ("X-GitHub-Api-Version", "2022-11-28")):
        if request.headers.get(name) != value:  # GitHub itself is lenient here; whoever looks at the stand-in is not
            return _Verdict(204, reason=f"{name} is not {value}")
    return _Verdict(204)


def _github_fault(asked: Any) -> str | None:
    if not isinstance(asked, dict) or not isinstance(asked.get("event_type"), str):
        return '"event_type" wasn\'t supplied.'
    if not 0 < len(asked["event_type"]) <= _GITHUB_MAX_EVENT_TYPE_CHARS:
        return "event_type is too long (maximum is 100 characters)"
    payload = asked.get("client_payload", {})
    if not isinstance(payload, dict):
        return "For 'properties/client_payload', input is not an object."
    if len(payload) > _GITHUB_MAX_KEYS:
        return f"No more than {_GITHUB_MAX_KEYS} properties are allowed; {len(payload)} were supplied."
    if len(json.dumps(payload, separators=(",", ":")).encode()) >= _GITHUB_MAX_PAYLOAD_BYTES:
        return "client_payload is too large."
    return None


# --- Slack ---------------------------------------------------------------------------------------

_SLACK_MAX_BLOCKS = 50


def _slack_fault(message: Any) -> str | None:
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


def _judge_slack_webhook(path: str, body: bytes) -> _Verdict:
    """As hooks.slack.com answers: plain text."""
    if path != SLACK_WEBHOOK_PATH:
        return _Verdict(404, reason="no_service", text="no_service")
    fault = _slack_fault(_read_slack(body))
    return _Verdict(200, text="ok") if fault is None else _Verdict(400, reason=fault, text=fault)


def _judge_slack_api(request: web.Request, body: bytes) -> _Verdict:
    """As slack.com/api answers: 200, and `ok` says how it went."""
    message = _read_slack(body)
    fault = _slack_fault(message)
    if request.headers.get("Authorization") != f"Bearer {SLACK_TOKEN}":
        fault = "invalid_auth"
    elif fault is None and not str(message.get("channel", "")).startswith(("C", "#")):
        fault = "channel_not_found"
    if fault:
        return _Verdict(200, reason=fault, data={"ok": False, "error": fault})
    return _Verdict(200, data={"ok": True, "channel": message["channel"], "ts": "1767268800.000100"})


# --- from code without a loop, and from a shell --------------------------------------------------


class ReceiversThread:
    """The stand-ins on a thread with a loop of its own, for code that has none; takes what `Receivers` takes."""

    def __init__(self, **how: Any) -> None:
        self._how = how
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upshot-receivers", daemon=True)
        self._receivers: Receivers | None = None

    def __enter__(self) -> Receivers:
        self._thread.start()
        self._receivers = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self._receivers

    async def _open(self) -> Receivers:
        return await Receivers(**self._how).__aenter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._receivers is not None:
            asyncio.run_coroutine_threadsafe(self._receivers.__aexit__(None, None, None), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def describe(request: Received) -> str:
    """A request in words, for a person."""
    verdict = "verified" if request.verified else f"not verified: {request.reason}"
    answered = request.status if request.status is not None else "no answer"
    head = f"{format_time(request.time)}  {request.method} {request.path}  → {answered}  {verdict}"
    names = ("webhook-id", "webhook-signature", "x-github-api-version")
    lines = [f"    {name}: {request.headers[name]}" for name in names if name in request.headers]
    return "\n".join([head, *lines, f"    {request.body.decode('utf-8', 'replace')}"])


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9000, show_default=True, help="Port to listen on; 0 for any free one.")
@click.option("--signing-secret", default=SIGNING_SECRET, help="Verifies signed webhooks.")
def main(host: str, port: int, signing_secret: str) -> None:
    """Receive what automations send, look at it, and print it."""

    async def run() -> None:
        stop = asyncio.Event()
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        async with Receivers(
            host=host, port=port, signing_secret=signing_secret, on_received=lambda r: click.echo(describe(r))
        ) as receivers:
            click.echo(f"receiving on {receivers.url}")
            await stop.wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
