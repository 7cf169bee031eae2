"""Requests go through the proxy of the operator, and only to addresses that the egress rules allow."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.flow.actions.raw_http import OK, listening, open_egress, post, read_request
from upshot.errors import Blocked, Unreachable


class Proxy:
    """A proxy that tunnels connections, and records what it was asked for."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.answer = answer
        self.heads: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        writer.write(self.answer)
        if b" 200 " not in self.answer:
            return
        host, _, port = head.split()[1].rpartition(":")
        upstream_reader, upstream_writer = await asyncio.open_connection(host.strip("[]"), int(port))
        await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))

    @property
    def targets(self) -> list[str]:
        return [head.split()[1] for head in self.heads]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()


@asynccontextmanager
async def receiver(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Yield the port of a receiver, and the requests that it gets."""
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                seen.append(await read_request(reader))
                writer.write(OK)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


async def test_the_proxy_is_asked_for_the_checked_address():
    """The worker looks the name up. The request still names the host, and the connection is used again."""
    proxy = Proxy()
    async with (
        listening(proxy.handle) as url,
        receiver() as (port, seen),
        open_egress(f"localhost:{port}", url.replace("http://", "http://me:p%40ss@")) as egress,
    ):
        for _ in range(2):
            response = await post(egress, f"http://localhost:{port}/path")
            assert (response.status, response.text) == (200, "ok")

    assert proxy.targets == [f"127.0.0.1:{port}"]
    assert f"Basic {base64.b64encode(b'me:p@ss').decode()}" in proxy.heads[0]
    assert len(seen) == 2
    assert seen[0].startswith(b"POST /path HTTP/1.1")
    assert f"Host: localhost:{port}".encode() in seen[0]
    assert b"Proxy-Authorization" not in seen[0]


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://169.254.169.254/"])
async def test_the_proxy_is_not_asked_for_a_forbidden_address(url):
    """An address in the URL and an address that a name leads to are both checked before the proxy is connected to."""
    proxy = Proxy()
    async with listening(proxy.handle) as proxy_url, receiver() as (port, seen), open_egress("", proxy_url) as egress:
        with pytest.raises(Blocked):
            await post(egress, url.format(port=port))

    assert proxy.heads == []
    assert seen == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return a certificate for localhost that nobody has signed."""
    path = tmp_path_factory.mktemp("tls") / "pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{path}.crt", path)
    return context, f"{path}.crt"


async def test_the_certificate_of_the_receiver_is_checked(certificate):
    """TLS is between the worker and the receiver. The proxy sees neither request nor secret."""
    proxy = Proxy()
    async with (
        listening(proxy.handle) as url,
        receiver(certificate[0]) as (port, seen),
        open_egress(f"localhost:{port}", url) as egress,
    ):
        with pytest.raises(Unreachable, match="certificate is invalid"):
            await post(egress, f"https://localhost:{port}/")

    assert proxy.targets == [f"127.0.0.1:{port}"]
    assert seen == []


async def test_https_goes_through_the_tunnel(certificate, monkeypatch):
    """With a certificate that is trusted, the request arrives. The proxy has seen only the address."""
    server, path = certificate
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=path))
    proxy = Proxy()
    async with (
        listening(proxy.handle) as url,
        receiver(server) as (port, seen),
        open_egress(f"localhost:{port}", url) as egress,
    ):
        assert (await post(egress, f"https://localhost:{port}/x")).status == 200

    assert seen[0].startswith(b"POST /x HTTP/1.1")
    assert proxy.targets == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "answered 403 to the request for 127.0.0.1:"),
        (b"HTTP/1.1 407 Auth\r\n\r\n", "check the user and password in UPSHOT_EGRESS_PROXY"),
        (b"SSH-2.0-x\r\n\r\n", "is not an HTTP proxy"),
        (b"HTTP/1.1 502 Bad", "did not answer the request"),
        (b"", "did not answer the request"),
    ],
)
async def test_a_proxy_that_refuses_is_named(answer, reason):
    """The receiver has read nothing, so another attempt follows. The message names the proxy and no password."""
    proxy = Proxy(answer)
    async with (
        listening(proxy.handle) as url,
        open_egress("127.0.0.0/8", url.replace("http://", "http://me:hunter22@")) as egress,
    ):
        with pytest.raises(Unreachable, match=reason) as raised:
            await post(egress, "http://127.0.0.1:9/")

    assert url.removeprefix("http://") in str(raised.value)
    assert "hunter22" not in str(raised.value)


async def test_a_proxy_that_does_not_exist_is_named():
    """Nothing listens there."""
    async with open_egress("127.0.0.0/8", "http://127.0.0.1:9") as egress:
        with pytest.raises(Unreachable, match=r"the proxy 127\.0\.0\.1:9 cannot be reached"):
            await post(egress, "http://127.0.0.1:10/")


async def test_a_proxy_that_hangs_does_not_outlast_the_timeout():
    """The timeout of the step covers the proxy, too."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with listening(hang) as url, open_egress("127.0.0.0/8", url) as egress:
        with pytest.raises(Unreachable, match="no connection within"):
            await egress.send("POST", "http://127.0.0.1:9/", headers={}, body=b"", timeout_seconds=0.2)
