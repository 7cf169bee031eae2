"""
A private engine goes down and comes back, and is reached over every transport.

Docker 20.10 reports these exit codes after it was down, for containers with an init process:

    how it went down    command                           exit code
    SIGTERM, reboot     dies of SIGTERM                   143
                        exits with 0 on SIGTERM           0, as if it had finished its work
                        ignores SIGTERM                   137, ten seconds later
    SIGKILL, crash      runs until the engine is back, which then ends it in the same ways;
                        a command that exited meanwhile has its own exit code
    machine died        255, with the time when the engine came back
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from tests.contract.backends.docker import DockerEngine
from tests.contract.backends.harness import BackendHarness
from tests.docker_engines import HOW_TO, Dockerd, busybox_image, can_run_engines
from tests.servers import free_port
from tests.waiting import until
from upshot.backends.docker import make
from upshot.backends.protocol import EngineUnavailable, Phase
from upshot.domain.job import Network

pytestmark = pytest.mark.timeout(240)

SSHD = "/usr/sbin/sshd"
OFFLINE: dict[str, Any] = {"network": Network.NONE}  # a private engine changes no firewall, so it has no bridge network
LONG_RUNNING = "echo started; sleep 600"
EXITS_WITH_0 = "trap 'exit 0' TERM; echo started; while :; do sleep 0.1; done"
IGNORES_SIGTERM = "trap '' TERM; echo started; while :; do sleep 0.1; done"
WRITES = "echo written; echo {} > $UPSHOT_OUTPUT/outputs.json"


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Return the event loop of workers."""
    return "asyncio", {"use_uvloop": True}


class PrivateEngine(DockerEngine):
    """
    An engine that the test may stop.

    Args:
        daemon: Its process.
        image: A small image with a shell.
    """

    def __init__(self, daemon: Dockerd, image: str) -> None:
        super().__init__(daemon.api, image)
        self.daemon = daemon


@contextmanager
def private_engine(*flags: str) -> Iterator[PrivateEngine]:
    """Start a private engine."""
    if not can_run_engines():
        pytest.skip(f"no Docker engine can be started; {HOW_TO}")
    # Not in pytest's own temporary directory, which should contain no mounts, and which other tests read.
    with (
        TemporaryDirectory(prefix="upshot-dockerd-", ignore_cleanup_errors=True) as directory,
        Dockerd(Path(directory), *flags) as daemon,
        busybox_image(daemon.api) as image,
    ):
        yield PrivateEngine(daemon, image)


@pytest.fixture
def engine() -> Iterator[PrivateEngine]:
    """Yield a private engine."""
    with private_engine() as engine:
        yield engine


async def connection_error(options: Mapping[str, Any]) -> str:
    """Return the error of a backend whose engine cannot be reached."""
    backend = make(options)
    with pytest.raises(EngineUnavailable) as raised:
        await backend.engine_id()
    await backend.close()
    return str(raised.value)


# --- outages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outage", "codes"), [("stop", (143, 0, 137)), ("kill", (143, 0, 137)), ("crash", (255, 255, 255))]
)
async def test_engine_goes_down_and_comes_back(engine: PrivateEngine, outage: str, codes: tuple[int, ...]):
    """While the engine is down every method raises EngineUnavailable. Afterwards its id and its jobs are the same."""
    async with BackendHarness(engine) as harness:
        engine_id = await harness.backend.engine_id()
        dies, exits_with_0, ignores = [
            await harness.start(script, **OFFLINE) for script in (LONG_RUNNING, EXITS_WITH_0, IGNORES_SIGTERM)
        ]
        done = await harness.run("echo {} > $UPSHOT_OUTPUT/outputs.json; exit 5", **OFFLINE)
        for name in (dies, exits_with_0, ignores):
            await harness.wait_for_log(name, b"started")

        await asyncio.to_thread(getattr(engine.daemon, outage))
        for call in (
            harness.backend.list_containers(harness.installation_id),
            harness.backend.engine_id(),
            harness.backend.start(harness.request("true")),
            harness.read_log(dies),
            harness.read_outputs(done.name),
            harness.backend.stop(dies, grace_seconds=1),
            harness.backend.remove(dies),
        ):
            with pytest.raises(EngineUnavailable):
                await call
        await asyncio.to_thread(engine.daemon.start)

        assert await harness.backend.engine_id() == engine_id
        statuses = [await harness.wait_for_exit(name) for name in (dies, exits_with_0, ignores)]
        assert tuple(status.exit_code for status in statuses) == codes
        assert all((status.finished_at is None) == (status.exit_code == 255) for status in statuses)
        assert await harness.status(done.name) == done
        assert await harness.read_outputs(done.name) == b"{}\n"
        assert (await harness.read_log(dies)).data == b"started\n"
        assert (await harness.run("true", **OFFLINE)).exit_code == 0


async def test_watch_ends_with_its_engine(engine: PrivateEngine):
    """A watch ends when the engine goes down, and another can be started when it is back."""

    async def watch(*, is_once: bool = False) -> list[str]:
        names = []
        async for name in harness.backend.watch_events(harness.installation_id):
            names.append(name)
            if is_once:
                break
        return names

    async with BackendHarness(engine) as harness:
        watching = asyncio.create_task(watch())
        await harness.start("true", **OFFLINE)
        await asyncio.to_thread(engine.daemon.kill)
        await asyncio.wait_for(asyncio.wait([watching]), 30)
        assert watching.exception() is None or isinstance(watching.exception(), EngineUnavailable)

        await asyncio.to_thread(engine.daemon.start)
        watching = asyncio.create_task(watch(is_once=True))
        while not watching.done():
            await harness.run("true", **OFFLINE)
        assert watching.result()


async def test_hanging_engine(engine: PrivateEngine):
    """If the engine hangs, all concurrent calls fail within the operator's `timeout`."""
    engine.options["timeout"] = "2s"
    async with BackendHarness(engine) as harness:
        name = await harness.start(LONG_RUNNING, **OFFLINE)
        engine.daemon.pause()
        try:
            calls = [harness.backend.list_containers(harness.installation_id) for _ in range(20)]
            errors = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
            assert {type(error) for error in errors} == {EngineUnavailable}
            assert "within 2 s" in str(errors[0])
        finally:
            engine.daemon.resume()
        assert (await harness.status(name)).phase is Phase.RUNNING


async def test_engine_without_containerd(engine: PrivateEngine):
    """If Docker's containerd is down, a job is not refused, but started later."""
    async with BackendHarness(engine) as harness:
        containerd = int((engine.daemon.directory / "exec/containerd/containerd.pid").read_text())
        os.kill(containerd, signal.SIGKILL)
        request = harness.request("echo ran", **OFFLINE)

        with pytest.raises(EngineUnavailable, match="unavailable"):
            await harness.backend.start(request)

        assert (await harness.status(request.name)).phase is Phase.CREATED
        await asyncio.to_thread(engine.daemon.stop)
        await asyncio.to_thread(engine.daemon.start)
        await harness.backend.start(request)
        assert (await harness.wait_for_exit(request.name)).exit_code == 0


# --- TCP ------------------------------------------------------------------------------------------


def make_certificates(directory: Path) -> None:
    """Create an authority `ca`, certificates of a server on loopback and of a client, and another authority."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new_key = ["-newkey", "rsa:2048", "-nodes"]
    for authority in ("ca", "other-ca"):
        output = ["-keyout", f"{authority}-key.pem", "-out", f"{authority}.pem"]
        openssl("req", "-x509", *new_key, "-days", "2", "-subj", f"/CN={authority}", *output)
    for name, extension in (
        ("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        (directory / f"{name}.ext").write_text(extension)
        openssl("req", *new_key, "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out", f"{name}.csr")
        signing = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2", "-out", f"{name}.pem"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-extfile", f"{name}.ext", *signing)


async def test_engine_over_tls(tmp_path: Path):
    """With valid certificates the backend works over TLS. With others the error says why the engine is unavailable."""
    make_certificates(tmp_path)
    host = f"tcp://127.0.0.1:{free_port()}"
    ca, other_ca, server, server_key, client, client_key = (
        str(tmp_path / f"{name}.pem") for name in ("ca", "other-ca", "server", "server-key", "client", "client-key")
    )
    tls = {"ca": ca, "cert": client, "key": client_key}
    flags = [f"--host={host}", "--tlsverify", f"--tlscacert={ca}", f"--tlscert={server}", f"--tlskey={server_key}"]

    with private_engine(*flags) as engine:
        engine.options = {"host": host, "tls": tls}
        async with BackendHarness(engine) as harness:
            status = await harness.run(WRITES, **OFFLINE)
            assert (await harness.read_log(status.name)).data == b"written\n"
            assert await harness.read_outputs(status.name) == b"{}\n"
        assert "certificate" in await connection_error({"host": host, "tls": {**tls, "ca": other_ca}})
        assert "certificate" in await connection_error({"host": host, "tls": {"ca": ca}})
        assert "HTTP request to an HTTPS server" in await connection_error({"host": host})
        unverified = make({"host": host, "tls": {**tls, "ca": other_ca, "verify": False}})
        assert await unverified.engine_id()
        await unverified.close()


async def test_engine_over_plain_tcp():
    """The backend also works over TCP without TLS."""
    host = f"tcp://127.0.0.1:{free_port()}"
    with private_engine(f"--host={host}", "--tls=false") as engine:
        engine.options = {"host": host}
        async with BackendHarness(engine) as harness:
            assert (await harness.run("exit 3", **OFFLINE)).exit_code == 3


# --- SSH ------------------------------------------------------------------------------------------


class Sshd:
    """
    An SSH server on loopback that accepts the test's key, and an `ssh` with the matching configuration.

    Args:
        directory: Empty directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        for key in ("host", "client"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)]
            subprocess.run(command, check=True, capture_output=True)
        kind, public_key, *_ = (directory / "host.pub").read_text().split()
        (directory / "known").write_text(f"[127.0.0.1]:{self.port} {kind} {public_key}\n")
        shutil.copy(directory / "client.pub", directory / "authorized")
        (directory / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\nPasswordAuthentication no\n"
        )
        (directory / "ssh_config").write_text(
            f"Host *\n  IdentityFile {directory}/client\n  IdentitiesOnly yes\n  UserKnownHostsFile {directory}/known\n"
        )
        # Takes the place of ~/.ssh/config, which ssh finds without an environment variable.
        (directory / "bin").mkdir()
        (directory / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {directory}/ssh_config "$@"\n')
        (directory / "bin/ssh").chmod(0o755)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the server."""
        Path("/run/sshd").mkdir(exist_ok=True)  # the server's root directory before a login
        log_path = self.directory / "sshd.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(self.directory / "sshd_config")], stderr=log)
        try:
            until(lambda: b"listening" in log_path.read_bytes(), "sshd")
            yield
        finally:
            process.terminate()
            process.wait(30)

    def address(self, socket: Path) -> str:
        """Return the address of a socket behind the server."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}{socket}"

    def clients(self) -> list[psutil.Process]:
        """Return the running ssh processes."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if f"{self.directory}/ssh_config" in (process.info["cmdline"] or ())
            and process.status() != psutil.STATUS_ZOMBIE
        ]


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """Yield a running SSH server."""
    if not can_run_engines() or not Path(SSHD).exists():
        pytest.skip(f"sshd and a private Docker engine are needed: apt-get install openssh-server, and {HOW_TO}")
    server = Sshd(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with server.running():
        yield server


async def test_engine_over_ssh(engine: PrivateEngine, sshd: Sshd):
    """Over SSH the backend uses one connection for everything, and ends it when it is closed."""
    engine.options = {"host": sshd.address(engine.daemon.socket)}
    async with BackendHarness(engine) as harness:
        status = await harness.run(WRITES, **OFFLINE)
        assert (await harness.read_log(status.name)).data == b"written\n"
        assert await harness.read_outputs(status.name) == b"{}\n"
        name = await harness.start(IGNORES_SIGTERM, **OFFLINE)
        await harness.wait_for_log(name, b"started")
        await asyncio.gather(*(harness.backend.list_containers(harness.installation_id) for _ in range(30)))
        assert len(sshd.clients()) == 1

        await harness.backend.stop(name, grace_seconds=1)
        assert (await harness.wait_for_exit(name)).exit_code == 137
    assert sshd.clients() == []


async def test_lost_ssh_connection(engine: PrivateEngine, sshd: Sshd):
    """After its connection was lost, the backend makes a new one for the next call."""
    engine.options = {"host": sshd.address(engine.daemon.socket)}
    async with BackendHarness(engine) as harness:
        name = await harness.start(LONG_RUNNING, **OFFLINE)
        for client in sshd.clients():
            client.kill()
        await asyncio.to_thread(until, lambda: sshd.clients() == [])

        assert (await harness.status(name)).phase is Phase.RUNNING


async def test_failed_ssh_connection(sshd: Sshd, tmp_path: Path):
    """The error contains ssh's own message: for a missing socket, a closed port, an unknown key and an unknown host."""
    address = sshd.address(tmp_path / "none.sock")
    assert "open failed" in await connection_error({"host": address})
    assert "Connection refused" in await connection_error({"host": f"ssh://127.0.0.1:{free_port()}"})
    (tmp_path / "authorized").write_text("")
    assert "Permission denied" in await connection_error({"host": address})
    (tmp_path / "known").write_text("")
    assert "Host key verification failed" in await connection_error({"host": address})
    assert sshd.clients() == []


def test_killed_worker_leaves_no_ssh_behind(engine: PrivateEngine, sshd: Sshd):
    """The ssh process of a worker ends even if the worker is killed."""
    script = (
        "import asyncio, sys\n"
        "from upshot.backends.docker import make\n"
        "async def main():\n"
        "    print(await make({'host': sys.argv[1]}).engine_id(), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, sshd.address(engine.daemon.socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline().startswith(b"docker:")
        assert len(sshd.clients()) == 1
        worker.kill()

    until(lambda: sshd.clients() == [], "the end of ssh")
