"""The egress: what it sends, which addresses it refuses, and how it reports failures."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from contextlib import suppress

import pytest

from tests.flow.actions.raw_http import OK, listening, open_egress, post, read_request
from upshot.errors import Blocked, Refused, Unreachable


async def _answer_ok(reader, writer):
    with suppress(asyncio.IncompleteReadError):  # the client has closed the connection
        while True:
            await read_request(reader)
            writer.write(OK)


async def test_a_request_arrives_unchanged():
    """Method, path, headers and body arrive unchanged. Only headers that HTTP needs and a User-Agent are added."""
    seen = []

    async def handle(reader, writer):
        seen.append(await read_request(reader))
        writer.write(b"HTTP/1.1 201 Created\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\n\r\nhello")

    async with open_egress() as egress, listening(handle) as url:
        response = await egress.send(
            "PUT", f"{url}/a%2Fb?c=d+e", headers={"X-Mine": "ü"}, body=b"body", timeout_seconds=5
        )
    head, _, body = seen[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert (line, body) == ("PUT /a%2Fb?c=d+e HTTP/1.1", b"body")
    names = {header.partition(":")[0].lower() for header in headers}
    assert names <= {"host", "x-mine", "user-agent", "accept-encoding", "accept", "content-length", "content-type"}
    assert "Accept-Encoding: identity" in headers
    assert "X-Mine: ü" in headers
    assert (response.status, response.text, response.headers["x-a"]) == (201, "hello", "1, 2")
    assert response.request["body"] == "body"
    assert response.timings.keys() == {"connect", "answer"}


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        pytest.param("/a%2Fb/c%28d%29?sp=%2Frun&sig=a%2Bb%3D%2Fz&t=%7Ex&c=%3A", None, id="encoded"),
        pytest.param("/a/(b)~c;d=e?x={y}|z&u='v'&w=%zz%c3%bc&+", None, id="not encoded"),
        pytest.param("/a/../b//c/./", None, id="dots"),
        pytest.param("/ü?n=é%C3%A9", "/%C3%BC?n=%C3%A9%C3%A9", id="beyond ASCII"),
        pytest.param("?a=b", "/?a=b", id="no path"),
        pytest.param("", "/", id="nothing"),
        pytest.param("/a?b#c", "/a?b", id="a fragment"),
    ],
)
async def test_a_url_is_sent_as_written(written, sent):
    """A signature can cover the spelling of a URL. The receipt shows the URL that was sent."""
    targets = []

    async def talk(reader, writer):
        targets.append((await read_request(reader)).split(b" ")[1].decode())
        writer.write(OK)

    async with open_egress() as egress, listening(talk) as url:
        response = await post(egress, f"{url}{written}")

    assert targets == [sent or written]
    assert response.request["url"] == f"{url}{targets[0]}"


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/", "http://localhost:{}/", "http://[::ffff:127.0.0.1]:{}/",
                                 "http://①②⑦.0.0.1:{}/", "http://LOCALHOST:{}/"])  # fmt: skip
async def test_a_private_address_is_not_connected_to(url):
    """A server at a private address receives no connection. The error names the setting that allows it."""
    connections = []

    async def handle(reader, writer):
        connections.append(writer)

    async with open_egress(allow="") as egress, listening(handle) as listener:
        with pytest.raises(Blocked, match="UPSHOT_EGRESS_ALLOW"):
            await post(egress, url.format(listener.rpartition(":")[2]))
    assert not connections


@pytest.mark.parametrize("url", ["http://2130706433:{}/", "http://0x7f.1:{}/", "http://127.1:{}/", "http://0:{}/",
                                 "http://127.0.0.1.:{}/", "http://a:b@127.0.0.1:{}/"])  # fmt: skip
async def test_a_disguised_address_is_refused_even_if_it_is_allowed(url):
    """Unusual notations of an address are not valid in URLs, so it does not matter how a parser reads them."""
    async with open_egress() as egress, listening(_answer_ok) as listener:
        with pytest.raises(Refused):
            await post(egress, url.format(listener.rpartition(":")[2]))


async def test_a_name_that_resolves_to_a_private_address_is_blocked(monkeypatch):
    """A name is blocked if one of its addresses is private, even if others are public."""

    def look_up(host, port, *_):
        answers = {"rebind.example": ["10.0.0.1"], "mixed.example": ["1.1.1.1", "169.254.169.254"]}[host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (response, port)) for response in answers]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async with open_egress() as egress:
        for host in ("rebind.example", "mixed.example"):
            with pytest.raises(Blocked, match=host):
                await post(egress, f"http://{host}/")


async def test_an_allowed_name_is_reached_and_stays_the_host():
    """`UPSHOT_EGRESS_ALLOW=localhost` allows that name, and no other name or address of the same machine."""
    seen = []

    async def handle(reader, writer):
        seen.append(await read_request(reader))
        writer.write(OK)

    async with open_egress(allow="localhost") as egress, listening(handle) as listener:
        port = listener.rpartition(":")[2]
        assert (await post(egress, f"http://localhost:{port}/")).status == 200
        with pytest.raises(Blocked):
            await post(egress, f"http://127.0.0.1:{port}/")
    assert f"Host: localhost:{port}\r\n".encode() in seen[0]


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    """A proxy would connect to addresses that the egress has not checked."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async with open_egress() as egress, listening(_answer_ok) as url:
        assert (await post(egress, url)).status == 200


async def test_connections_are_reused_and_cookies_are_not():
    """A second request uses the connection of the first one, but not its cookies."""
    connections, requests = [], []

    async def handle(reader, writer):
        connections.append(writer)
        while True:
            requests.append(await read_request(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

    async with open_egress() as egress, listening(handle) as url:
        await post(egress, url)
        await post(egress, url)
    assert len(connections) == 1
    assert b"cookie" not in requests[1].lower()


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/", "/elsewhere", "http://169.254.169.254/"])
async def test_redirects_are_not_followed(location):
    """A redirect is returned as a response. The action decides what it means."""
    requests = []

    async def handle(reader, writer):
        requests.append(await read_request(reader))
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    async with open_egress() as egress, listening(handle) as url:
        assert (await post(egress, url)).status == 302
    assert len(requests) == 1


def _moving(to, status=307):
    async def handle(reader, writer):
        while True:
            request = await read_request(reader)
            if request.startswith(b"POST /new "):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(request), request))
            else:
                writer.write(f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())

    return handle


@pytest.mark.parametrize("status", [301, 307, 308])
async def test_a_followed_redirect_keeps_method_and_body(status):
    """A redirect to the same host can be followed, with the same method and body. The receipt has the last URL."""
    async with open_egress() as egress, listening(_moving("/new", status)) as url:
        response = await post(egress, f"{url}/old", b"body", follow_redirects=True)
    assert response.status == 200
    assert response.text.endswith("\r\n\r\nbody")
    assert response.request["url"] == f"{url}/new"


@pytest.mark.parametrize("to", ["http://localhost:{port}/new", "https://127.0.0.1:{port}/new", "http://127.0.0.1:1/new",
                                "//169.254.169.254/new", "ftp://127.0.0.1/new", "http://[", ""])  # fmt: skip
async def test_a_redirect_to_elsewhere_is_never_followed(to):
    """A redirect to another host, scheme or port is not followed, so that it does not receive the token."""
    target = ""

    async def handle(reader, writer):
        await _moving(target)(reader, writer)

    async with open_egress() as egress, listening(handle) as url:
        target = to.format(port=url.rpartition(":")[2])
        assert (await post(egress, f"{url}/old", follow_redirects=True)).status == 307


async def test_redirects_end_after_three():
    """A loop of redirects ends after four requests."""
    count = 0

    async def handle(reader, writer):
        nonlocal count
        while True:
            await read_request(reader)
            count += 1
            writer.write(b"HTTP/1.1 301 Moved\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    async with open_egress() as egress, listening(handle) as url:
        assert (await post(egress, url, follow_redirects=True)).status == 301
    assert count == 4


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://127.0.0.1:1/", id="nobody listens"),
        pytest.param("http://no-such-name.invalid/", id="no such name"),
        pytest.param("http://[::1]:1/", id="nobody listens on IPv6"),
    ],
)
async def test_no_connection_means_that_nothing_was_sent(url):
    """Without a connection, the receiver cannot have read anything. The error contains the request."""
    async with open_egress() as egress:
        with pytest.raises(Unreachable) as raised:
            await post(egress, url)
    assert raised.value.request is not None
    assert raised.value.request["url"] == url


async def test_a_hanging_name_lookup_delays_no_other_request(monkeypatch):
    """Names are looked up in threads. Other requests continue, and the timeout ends a lookup that hangs."""
    real = socket.getaddrinfo
    end = threading.Event()

    def look_up(host, *rest):
        if host == "hanging.example":
            end.wait(30)
        return real(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    try:
        async with open_egress(allow="localhost") as egress, listening(_answer_ok) as url:
            hanging = asyncio.create_task(post(egress, "http://hanging.example/", timeout_seconds=0.5))
            await asyncio.sleep(0)
            await post(egress, url.replace("127.0.0.1", "localhost"), timeout_seconds=0.4)
            assert not hanging.done()
            with pytest.raises(Unreachable, match="no connection within"):
                await hanging
    finally:
        end.set()


async def test_a_receiver_without_tls_is_unreachable():
    """If the TLS handshake fails, nothing was sent."""
    async with open_egress() as egress, listening(_answer_ok) as url:
        with pytest.raises(Unreachable):
            await post(egress, url.replace("http:", "https:"), timeout_seconds=2)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return the files of a self-signed certificate for localhost and of its key."""
    directory = tmp_path_factory.mktemp("tls")
    pem, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", pem],
        check=True, capture_output=True,
    )  # fmt: skip
    return pem, key


def _tls_server(certificate, names):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    return asyncio.start_server(_answer_ok, "127.0.0.1", 0, ssl=context)


async def test_a_receiver_with_an_untrusted_certificate_is_unreachable(certificate):
    """Certificates are verified. If a certificate is invalid, nothing was sent."""
    server = await _tls_server(certificate, [])
    async with open_egress() as egress:
        with pytest.raises(Unreachable, match="certificate"):
            await post(egress, f"https://localhost:{server.sockets[0].getsockname()[1]}/")
    server.close()


async def test_tls_uses_the_host_of_the_url(certificate, monkeypatch):
    """The egress connects to the checked address, and uses the host of the URL for SNI and the certificate."""
    context = ssl.create_default_context(cafile=certificate[0])
    monkeypatch.setattr(
        "aiohttp.connector._SSL_CONTEXT_VERIFIED", context
    )  # as SSL_CERT_FILE does when a process starts

    names: list[str] = []
    server = await _tls_server(certificate, names)
    port = server.sockets[0].getsockname()[1]
    async with open_egress() as egress:
        assert (await post(egress, f"https://localhost:{port}/")).status == 200
    server.close()
    assert names == ["localhost"]


async def test_a_healthy_destination_is_unaffected_by_a_hanging_one():
    """While requests to one destination hang, requests to another destination are as fast as before."""
    arrived = asyncio.Event()

    async def hang(reader, writer):
        arrived.set()
        await asyncio.sleep(60)

    async with open_egress() as egress, listening(hang) as hanging, listening(_answer_ok) as healthy:
        stuck = [asyncio.create_task(post(egress, hanging, timeout_seconds=60)) for _ in range(100)]
        await arrived.wait()
        for _ in range(50):
            assert (await post(egress, healthy, timeout_seconds=1)).status == 200
        assert not any(task.done() for task in stuck)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
