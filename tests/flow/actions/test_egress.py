"""The guarded door: what leaves, what is refused where it is dialled, and what is said about failures."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading

import pytest

from tests.flow.actions.raw_http import OK, door, listening, post, read_request, run
from upshot.errors import Ambiguous, Blocked, DestinationBusy, Refused, Unreachable
from upshot.receivers import Receivers


async def _answer_ok(reader, writer):
    while True:
        await read_request(reader)
        writer.write(OK)


def test_a_request_arrives_as_it_was_given():
    """Method, path, headers and body arrive unchanged, and nothing is added but what HTTP needs and a User-Agent."""

    async def story():
        seen = []

        async def talk(reader, writer):
            seen.append(await read_request(reader))
            writer.write(b"HTTP/1.1 201 Created\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\n\r\nhello")

        async with door() as egress, listening(talk) as url:
            answer = await egress.send(
                "PUT", f"{url}/a%2Fb?c=d+e", headers={"X-Mine": "ü"}, body=b"body", timeout_seconds=5
            )
        head, _, body = seen[0].partition(b"\r\n\r\n")
        line, *headers = head.decode().split("\r\n")
        assert (line, body) == ("PUT /a%2Fb?c=d+e HTTP/1.1", b"body")
        names = {header.partition(":")[0].lower() for header in headers}
        assert names <= {"host", "x-mine", "user-agent", "accept-encoding", "accept", "content-length", "content-type"}
        assert "Accept-Encoding: identity" in headers
        assert "X-Mine: ü" in headers
        assert (answer.status, answer.text, answer.headers["x-a"]) == (201, "hello", "1, 2")
        assert answer.request["body"] == "body"
        assert answer.timings.keys() == {"connect", "answer"}

    run(story())


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/", "http://localhost:{}/", "http://[::ffff:127.0.0.1]:{}/",
                                 "http://①②⑦.0.0.1:{}/", "http://LOCALHOST:{}/"])  # fmt: skip
def test_nothing_reaches_a_private_address_that_is_not_allowed(url):
    """A server listens there, and not even a connection arrives: Blocked, with the setting that would allow it."""

    async def story():
        connections = []

        async def talk(reader, writer):
            connections.append(writer)

        async with door(allow="") as egress, listening(talk) as listener:
            with pytest.raises(Blocked, match="UPSHOT_EGRESS_ALLOW"):
                await post(egress, url.format(listener.rpartition(":")[2]))
        assert not connections

    run(story())


@pytest.mark.parametrize("url", ["http://2130706433:{}/", "http://0x7f.1:{}/", "http://127.1:{}/", "http://0:{}/",
                                 "http://127.0.0.1.:{}/", "http://a:b@127.0.0.1:{}/"])  # fmt: skip
def test_no_disguise_of_an_address_is_dialled_even_where_it_is_allowed(url):
    """Unusual forms are refused as URLs, so no parser's reading of them matters."""

    async def story():
        async with door() as egress, listening(_answer_ok) as listener:
            with pytest.raises(Refused):
                await post(egress, url.format(listener.rpartition(":")[2]))

    run(story())


def test_a_name_is_checked_by_what_it_resolves_to(monkeypatch):
    """A public-looking name that resolves to a private address, alone or among public ones, is blocked."""

    def look_up(host, port, *_):
        answers = {"rebind.example": ["10.0.0.1"], "mixed.example": ["1.1.1.1", "169.254.169.254"]}[host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, port)) for answer in answers]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def story():
        async with door() as egress:
            for host in ("rebind.example", "mixed.example"):
                with pytest.raises(Blocked, match=host):
                    await post(egress, f"http://{host}/")

    run(story())


def test_an_allowed_name_is_reached_and_keeps_its_host():
    """`UPSHOT_EGRESS_ALLOW=localhost` opens that name and no other way to the same address."""

    async def story():
        seen = []

        async def talk(reader, writer):
            seen.append(await read_request(reader))
            writer.write(OK)

        async with door(allow="localhost") as egress, listening(talk) as listener:
            port = listener.rpartition(":")[2]
            assert (await post(egress, f"http://localhost:{port}/")).status == 200
            with pytest.raises(Blocked):
                await post(egress, f"http://127.0.0.1:{port}/")
        assert f"Host: localhost:{port}\r\n".encode() in seen[0]

    run(story())


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    """A proxy would dial unchecked addresses for us."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def story():
        async with door() as egress, listening(_answer_ok) as url:
            assert (await post(egress, url)).status == 200

    run(story())


def test_connections_are_kept_and_no_cookie_is(monkeypatch):
    """A second request takes the first one's connection, and never its cookies."""

    async def story():
        connections, requests = [], []

        async def talk(reader, writer):
            connections.append(writer)
            while True:
                requests.append(await read_request(reader))
                writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

        async with door() as egress, listening(talk) as url:
            await post(egress, url)
            await post(egress, url)
        assert len(connections) == 1
        assert b"cookie" not in requests[1].lower()

    run(story())


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/", "/elsewhere", "http://169.254.169.254/"])
def test_redirects_are_answers(location):
    """A redirect is not followed; the action decides what it means."""

    async def story():
        requests = []

        async def talk(reader, writer):
            requests.append(await read_request(reader))
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

        async with door() as egress, listening(talk) as url:
            assert (await post(egress, url)).status == 302
        assert len(requests) == 1

    run(story())


def _moving(to, status=307):
    async def talk(reader, writer):
        while True:
            request = await read_request(reader)
            if request.startswith(b"POST /new "):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(request), request))
            else:
                writer.write(f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())

    return talk


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_followed_redirect_keeps_method_and_body(status):
    """GitHub's renamed repositories: same host, same method, same body, and the receipt shows the last URL."""

    async def story():
        async with door() as egress, listening(_moving("/new", status)) as url:
            answer = await post(egress, f"{url}/old", b"body", follow_redirects=True)
        assert answer.status == 200
        assert answer.text.endswith("\r\n\r\nbody")
        assert answer.request["url"] == f"{url}/new"

    run(story())


@pytest.mark.parametrize("to", ["http://localhost:{port}/new", "https://127.0.0.1:{port}/new", "http://127.0.0.1:1/new",
                                "//169.254.169.254/new", "ftp://127.0.0.1/new", "http://[", ""])  # fmt: skip
def test_a_redirect_to_elsewhere_is_never_followed(to):
    """Another host, scheme or port gets neither the request nor its token."""

    async def story():
        target = ""

        async def talk(reader, writer):
            await _moving(target)(reader, writer)

        async with door() as egress, listening(talk) as url:
            target = to.format(port=url.rpartition(":")[2])
            assert (await post(egress, f"{url}/old", follow_redirects=True)).status == 307

    run(story())


def test_redirects_end_after_three():
    """A circle of redirects costs four requests."""

    async def story():
        count = 0

        async def talk(reader, writer):
            nonlocal count
            while True:
                await read_request(reader)
                count += 1
                writer.write(b"HTTP/1.1 301 Moved\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

        async with door() as egress, listening(talk) as url:
            assert (await post(egress, url, follow_redirects=True)).status == 301
        assert count == 4

    run(story())


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://127.0.0.1:1/", id="nobody listens"),
        pytest.param("http://no-such-name.invalid/", id="no such name"),
        pytest.param("http://[::1]:1/", id="nobody listens on IPv6"),
    ],
)
def test_no_connection_means_that_nothing_was_sent(url):
    """Unreachable: it is certain that the receiver read nothing; the receipt has what was to be sent."""

    async def story():
        async with door() as egress:
            with pytest.raises(Unreachable) as raised:
                await post(egress, url)
        assert raised.value.request is not None
        assert raised.value.request["url"] == url

    run(story())


def test_a_look_up_that_hangs_ends_at_the_deadline_and_holds_nobody_up(monkeypatch):
    """Names are looked up off the loop: meanwhile others are served, and the deadline ends the wait."""
    real = socket.getaddrinfo
    end = threading.Event()

    def look_up(host, *rest):
        if host == "hanging.example":
            end.wait(30)
        return real(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def story():
        async with door(allow="localhost") as egress, listening(_answer_ok) as url:
            hanging = asyncio.create_task(post(egress, "http://hanging.example/", timeout_seconds=0.5))
            await asyncio.sleep(0)
            await post(egress, url.replace("127.0.0.1", "localhost"), timeout_seconds=0.4)
            assert not hanging.done()
            with pytest.raises(Unreachable, match="no connection within"):
                await hanging

    try:
        run(story())
    finally:
        end.set()


def test_plain_http_where_tls_was_meant_is_unreachable():
    """No TLS, no request: nothing was sent."""

    async def story():
        async with door() as egress, listening(_answer_ok) as url:
            with pytest.raises(Unreachable):
                await post(egress, url.replace("http:", "https:"), timeout_seconds=2)

    run(story())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost: (certificate, key)."""
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "cert.pem", folder / "key.pem"
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


def test_a_certificate_that_nobody_vouches_for_is_unreachable(certificate):
    """Certificates are verified; a bad one means that nothing was sent."""

    async def story():
        server = await _tls_server(certificate, [])
        async with door() as egress:
            with pytest.raises(Unreachable, match="certificate"):
                await post(egress, f"https://localhost:{server.sockets[0].getsockname()[1]}/")
        server.close()

    run(story())


def test_tls_asks_for_the_name_and_not_for_the_address(certificate, monkeypatch):
    """The checked address is dialled, and the host of the URL is what SNI and the certificate are about."""
    context = ssl.create_default_context(cafile=certificate[0])
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", context)  # as SSL_CERT_FILE does at the start

    async def story():
        names: list[str] = []
        server = await _tls_server(certificate, names)
        port = server.sockets[0].getsockname()[1]
        async with door() as egress:
            assert (await post(egress, f"https://localhost:{port}/")).status == 200
        server.close()
        assert names == ["localhost"]

    run(story())


def test_at_most_its_share_goes_to_one_destination_at_a_time():
    """Beyond the share, as many again wait in order; beyond those, nobody waits: DestinationBusy at once."""

    async def story():
        at_once = most = 0
        order = []
        full, release = asyncio.Event(), asyncio.Event()

        async def talk(reader, writer):
            nonlocal at_once, most
            while True:
                request = await read_request(reader)
                order.append(request.split()[1])
                at_once += 1
                most = max(most, at_once)
                if at_once == 3:
                    full.set()
                await release.wait()
                at_once -= 1
                writer.write(OK)

        async with door(in_flight=3) as egress, listening(talk) as url:
            sends = [asyncio.create_task(post(egress, f"{url}/{number}")) for number in range(6)]
            await full.wait()
            with pytest.raises(DestinationBusy) as raised:
                await post(egress, f"{url}/7")
            release.set()
            answers = await asyncio.gather(*sends)
        assert raised.value.destination == url
        assert [answer.status for answer in answers] == [200] * 6
        assert most == 3
        assert set(order[:3]) == {b"/0", b"/1", b"/2"}

    run(story())


def test_a_wait_that_is_given_up_frees_its_place():
    """Whoever is cancelled while waiting, or in flight, leaves nothing behind."""

    async def story():
        arrived = asyncio.Event()

        async def hang(reader, writer):
            arrived.set()
            await asyncio.sleep(60)

        async with door(in_flight=1) as egress, listening(hang) as url:
            first, second = (asyncio.create_task(post(egress, url)) for _ in range(2))
            await arrived.wait()
            for task in (second, first):
                task.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
            third = asyncio.create_task(post(egress, url, timeout_seconds=0.1))
            with pytest.raises(Ambiguous):
                await third
            assert not egress._places

    run(story())


def test_a_place_that_does_not_come_free_is_not_waited_for_long(monkeypatch):
    """Waiting for a place ends in DestinationBusy: nothing was sent, and the engine comes again later."""
    monkeypatch.setattr("upshot.adapters.egress.MAX_WAIT_FOR_PLACE_SECONDS", 0.1)

    async def story():
        async with door(in_flight=1) as egress, Receivers() as receivers:
            receivers.be_rude("hang", path="/hook")
            first = asyncio.create_task(post(egress, f"{receivers.url}/hook", timeout_seconds=1))
            await asyncio.sleep(0)
            with pytest.raises(DestinationBusy):
                await post(egress, f"{receivers.url}/hook")
            with pytest.raises(Ambiguous):
                await first
        assert len(receivers.requests) == 1

    run(story())


def test_a_healthy_destination_is_unaffected_by_a_hanging_one():
    """With one destination's share and queue full of hanging requests, another answers as quickly as ever."""

    async def story():
        arrived = asyncio.Event()

        async def hang(reader, writer):
            arrived.set()
            await asyncio.sleep(60)

        async with door(in_flight=50) as egress, listening(hang) as hanging, listening(_answer_ok) as healthy:
            stuck = [asyncio.create_task(post(egress, hanging, timeout_seconds=60)) for _ in range(100)]
            await arrived.wait()
            for _ in range(50):
                assert (await post(egress, healthy, timeout_seconds=1)).status == 200
            assert not any(task.done() for task in stuck)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)

    run(story())
