"""The client of a Docker engine, on a fake engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from upshot.backends.docker.client import DockerApiError, DockerClient, DockerServerError
from upshot.backends.docker.options import read_options
from upshot.backends.protocol import EngineUnavailable

VERSION = {"ApiVersion": "1.41", "Components": [{"Name": "Engine"}]}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def version(request: web.Request) -> web.Response:
    """Answer like a Docker engine."""
    return web.json_response(VERSION)


@asynccontextmanager
async def fake_engine(socket: Path, **handlers: Handler) -> AsyncIterator[None]:
    """Serve the given handlers, by path, on a socket."""
    app = web.Application()
    for path, handler in {"version": version, **handlers}.items():
        app.router.add_get("/version" if path == "version" else f"/v1.41/{path}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected(tmp_path: Path, **handlers: Handler) -> AsyncIterator[DockerClient]:
    """Start a fake engine, and yield a client of it."""
    client = DockerClient(read_options({"host": f"unix://{tmp_path}/engine.sock", "timeout": "1s"}))
    async with fake_engine(tmp_path / "engine.sock", **handlers):
        yield client
        await client.close()


def respond(body: bytes | str, status: int = 200) -> Handler:
    """Return a handler with a fixed response."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body.encode() if isinstance(body, str) else body, status=status)

    return handler


@pytest.mark.parametrize("body", ["", "<html>", "[]", "null", '"text"', "{}", b"\xff"])
async def test_server_that_is_not_an_engine(tmp_path, body):
    """If the response to /version is not an engine's, the error says so and names the address."""
    async with connected(tmp_path, version=respond(body)) as client:
        with pytest.raises(EngineUnavailable, match=r"engine\.sock does not answer like a Docker engine"):
            await client.request_json("info")


async def test_response_that_is_not_json(tmp_path):
    """A later response that is not JSON is reported in the same way."""
    async with connected(tmp_path, info=respond("<html>")) as client:
        with pytest.raises(EngineUnavailable, match="its response is not JSON"):
            await client.request_json("info")


@pytest.mark.parametrize("bug", [TypeError("a bug"), AttributeError("a bug"), ValueError("a bug"), KeyError("a bug")])
async def test_programming_error(tmp_path, bug):
    """An error of Upshot's own code while it reads a response is not reported as the engine's fault."""
    async with connected(tmp_path, info=respond("{}")) as client:
        with pytest.raises(type(bug), match="a bug"):
            async with client.request("info"):
                raise bug


async def test_programming_error_in_the_client(tmp_path, monkeypatch):
    """An error of the client's own code while it connects is not reported as the engine's fault."""
    async with connected(tmp_path) as client:
        monkeypatch.setattr(client, "_parse_json", None)
        with pytest.raises(TypeError):
            await client.request_json("info")


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (404, '{"message": "no such container"}', DockerApiError, "no such container"),
        (409, "in use", DockerApiError, "in use"),
        (400, '["odd"]', DockerApiError, "odd"),
        (404, "", DockerApiError, "it answers 404 Not Found"),
        (500, '{"message": "disk full"}', DockerServerError, "disk full"),
        (500, '{"message": "transport is closing: unavailable"}', EngineUnavailable, "unavailable"),
        (503, "starting", EngineUnavailable, "starting"),
    ],
)
async def test_error_responses(tmp_path, status, body, error, message):
    """The class of the error tells a rejected request from a broken and from an unavailable engine."""
    async with connected(tmp_path, info=respond(body, status)) as client:
        with pytest.raises(error, match=message) as raised:
            await client.request_json("info")

        assert type(raised.value) is error


async def test_json_lines(tmp_path):
    """Each line of a stream is parsed as it arrives, and an incomplete last line counts."""
    async with connected(tmp_path, events=respond('{"a": 1}\n\n{"a": 2}\n{"a": 3}')) as client:
        events = client.stream_json("events", params={}, idle_seconds=5)

        assert [event["a"] async for event in events] == [1, 2, 3]


async def test_slow_engine(tmp_path):
    """An engine that does not answer in time is unavailable."""

    async def begin_and_hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{")
        await asyncio.sleep(30)
        return response

    async with connected(tmp_path, info=begin_and_hang) as client:
        with pytest.raises(EngineUnavailable, match="did not answer within 1 s"):
            await client.request_json("info")


async def test_engine_that_is_replaced(tmp_path):
    """After a lost connection the client asks for the version again, since another engine may answer."""
    socket = tmp_path / "engine.sock"
    client = DockerClient(read_options({"host": f"unix://{socket}"}))
    async with fake_engine(socket):
        assert not await client.is_podman()
    with pytest.raises(EngineUnavailable):
        await client.request_json("info")

    podman = '{"ApiVersion": "1.41", "Components": [{"Name": "Podman Engine"}]}'
    async with fake_engine(socket, version=respond(podman)):
        assert await client.is_podman()
        await client.close()


async def test_missing_socket(tmp_path):
    """If the socket does not exist, the error says what to do."""
    client = DockerClient(read_options({"host": f"unix://{tmp_path}/engine.sock"}))

    with pytest.raises(EngineUnavailable, match=r"there is no socket .* install and start an engine"):
        await client.is_podman()
