"""
An engine of the test's own goes down and comes back, and is reached in every way that there is.

What Docker 20.10 says of containers after it was down, with `Init` as ours have it:

    how it went down    the command                       exit code
    SIGTERM, reboot     dies of SIGTERM                   143
                        ends well on SIGTERM              0, as if it had done its work
                        ignores SIGTERM                   137, ten seconds later
    kill -9, crash      runs on until the engine is back, which then ends it in the same ways;
                        one that ended meanwhile by itself has its own exit code
    its machine died    255, at the time at which the engine came back
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
import uvloop

from tests.contract.backends.docker import DockerGround
from tests.contract.backends.harness import Bench
from tests.docker_engines import HOW_TO, Dockerd, busybox_image, can_run_engines
from tests.servers import free_port
from tests.waiting import until
from upshot.backends.docker import make
from upshot.backends.protocol import Backend, EngineUnavailable, Phase
from upshot.domain.job import Network

SSHD = "/usr/sbin/sshd"
OFFLINE: dict[str, Any] = {"network": Network.NONE}  # an engine that touches no firewall has no bridge
FOR_LONG = "echo begun; sleep 600"
ENDS_WELL = "trap 'exit 0' TERM; echo begun; while :; do sleep 0.1; done"
STUBBORN = "trap '' TERM; echo begun; while :; do sleep 0.1; done"


class OwnGround(DockerGround):
    def __init__(self, daemon: Dockerd, image: str) -> None:
        super().__init__(daemon.api, image)
        self.daemon = daemon


@contextmanager
def engine(*flags: str) -> Iterator[OwnGround]:
    if not can_run_engines():
        pytest.skip(f"no Docker engine can be started; {HOW_TO}")
    # Not in pytest's own temporary folder: it is no place for mounts, and others look into it.
    with (
        TemporaryDirectory(prefix="upshot-dockerd-", ignore_cleanup_errors=True) as folder,
        Dockerd(Path(folder), *flags) as daemon,
        busybox_image(daemon.api) as image,
    ):
        yield OwnGround(daemon, image)


@pytest.fixture
def ground() -> Iterator[OwnGround]:
    """An engine that the test may stop."""
    with engine() as own:
        yield own


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


# --- down and up again ----------------------------------------------------------------------------


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("how", "codes"), [("stop", (143, 0, 137)), ("kill", (143, 0, 137)), ("crash", (255, 255, 255))]
)
def test_an_engine_goes_down_and_comes_back(ground: OwnGround, how: str, codes: tuple[int, ...]):
    """While it is down it is unavailable, and nothing else; afterwards it is the same engine, and its jobs are seen."""

    async def story() -> None:
        async with Bench(ground) as bench:
            name = await bench.backend.engine_id()
            dies, ends_well, stubborn = [
                await bench.start(script, **OFFLINE) for script in (FOR_LONG, ENDS_WELL, STUBBORN)
            ]
            done = await bench.run("echo {} > $UPSHOT_OUTPUT/outputs.json; exit 5", **OFFLINE)
            for job in (dies, ends_well, stubborn):
                await bench.said(job, b"begun")

            await asyncio.to_thread(getattr(ground.daemon, how))
            for verb in (
                bench.backend.list_containers(bench.installation),
                bench.backend.engine_id(),
                bench.backend.start(bench.order("true")),
                bench.log(dies),
                bench.outputs(done.name),
                bench.backend.stop(dies, grace_seconds=1),
                bench.backend.remove(dies),
            ):
                with pytest.raises(EngineUnavailable):
                    await verb
            await asyncio.to_thread(ground.daemon.start)

            assert await bench.backend.engine_id() == name
            ended = [await bench.ended(job) for job in (dies, ends_well, stubborn)]
            assert tuple(one.exit_code for one in ended) == codes
            assert all((one.finished_at is None) == (one.exit_code == 255) for one in ended)
            assert await bench.seen(done.name) == done
            assert await bench.outputs(done.name) == b"{}\n"
            assert (await bench.log(dies)).data == b"begun\n"
            assert (await bench.run("true", **OFFLINE)).exit_code == 0

    play(story)


@pytest.mark.timeout(240)
def test_a_watch_ends_with_its_engine(ground: OwnGround):
    """Who listens for hints hears that there will be no more, and can begin again."""

    async def story() -> None:
        async with Bench(ground) as bench:
            heard = asyncio.create_task(_listen(bench))
            await bench.start("true", **OFFLINE)
            await asyncio.to_thread(ground.daemon.kill)
            await asyncio.wait_for(asyncio.wait([heard]), 30)
            assert heard.exception() is None or isinstance(heard.exception(), EngineUnavailable)

            await asyncio.to_thread(ground.daemon.start)
            again = asyncio.create_task(_listen(bench, once=True))
            while not again.done():
                await bench.run("true", **OFFLINE)
            assert again.result()

    play(story)


async def _listen(bench: Bench, *, once: bool = False) -> list[str]:
    heard = []
    async for name in bench.backend.watch_events(bench.installation):
        heard.append(name)
        if once:
            break
    return heard


@pytest.mark.timeout(240)
def test_an_engine_that_hangs(ground: OwnGround):
    """Everybody who asks is told within the time that the operator chose, also those who ask at the same time."""

    async def story() -> None:
        bench = Bench(ground)
        bench.backend = make({**ground.options, "timeout": "2s"})
        name = await bench.start(FOR_LONG, **OFFLINE)
        ground.daemon.pause()
        try:
            asked = [bench.backend.list_containers(bench.installation) for _ in range(20)]
            said = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)
            assert {type(one) for one in said} == {EngineUnavailable}
            assert "within 2 s" in str(said[0])
        finally:
            ground.daemon.resume()
        assert (await bench.seen(name)).phase is Phase.RUNNING
        await bench.backend.close()

    play(story)


@pytest.mark.timeout(240)
def test_an_engine_without_its_own_engine(ground: OwnGround):
    """Docker whose containerd is down refuses no job for that: what it cannot start now is started later."""

    async def story() -> None:
        async with Bench(ground) as bench:
            containerd = int((ground.daemon.folder / "exec/containerd/containerd.pid").read_text())
            os.kill(containerd, signal.SIGKILL)
            order = bench.order("echo ran", **OFFLINE)

            with pytest.raises(EngineUnavailable, match="unavailable"):
                await bench.backend.start(order)

            assert (await bench.seen(order.name)).phase is Phase.CREATED
            await asyncio.to_thread(ground.daemon.stop)
            await asyncio.to_thread(ground.daemon.start)
            await bench.backend.start(order)
            assert (await bench.ended(order.name)).exit_code == 0

    play(story)


# --- over TCP -------------------------------------------------------------------------------------


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path) -> None:
    """An authority, `ca.pem`, and certificates of an engine on loopback and of a client; another authority beside."""
    new_key = ["-newkey", "rsa:2048", "-nodes"]
    for authority in ("ca", "other-ca"):
        place = ["-keyout", f"{authority}-key.pem", "-out", f"{authority}.pem"]
        openssl(folder, "req", "-x509", *new_key, "-days", "2", "-subj", f"/CN={authority}", *place)
    for name, extension in (
        ("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        (folder / f"{name}.ext").write_text(extension)
        openssl(folder, "req", *new_key, "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out", f"{name}.csr")
        signed = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2", "-out", f"{name}.pem"]
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-extfile", f"{name}.ext", *signed)


@pytest.mark.timeout(240)
def test_an_engine_over_tls(tmp_path: Path):
    """With the right certificates all is as over a socket; with others it is unavailable, and the reason is said."""
    make_certificates(tmp_path)
    port = free_port()
    pem = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "other-ca", "server", "client", "client-key")}
    pem["server-key"] = str(tmp_path / "server-key.pem")
    ours = {"ca": pem["ca"], "cert": pem["client"], "key": pem["client-key"]}
    flags = (
        *("--host", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", pem["ca"]),
        *("--tlscert", pem["server"], "--tlskey", pem["server-key"]),
    )

    async def refused(options: Mapping[str, Any]) -> str:
        backend = make(options)
        with pytest.raises(EngineUnavailable) as said:
            await backend.engine_id()
        await backend.close()
        return str(said.value)

    with engine(*flags) as ground:
        host = f"tcp://127.0.0.1:{port}"
        ground.options = {"host": host, "tls": ours}

        async def story() -> None:
            async with Bench(ground) as bench:
                seen = await bench.run("echo said; echo {} > $UPSHOT_OUTPUT/outputs.json", **OFFLINE)
                assert (await bench.log(seen.name)).data == b"said\n"
                assert await bench.outputs(seen.name) == b"{}\n"
            assert "certificate" in await refused({"host": host, "tls": {**ours, "ca": pem["other-ca"]}})
            assert "certificate" in await refused({"host": host, "tls": {"ca": pem["ca"]}})
            assert "HTTP request to an HTTPS server" in await refused({"host": host})
            trusting = make({"host": host, "tls": {**ours, "ca": pem["other-ca"], "verify": False}})
            assert await trusting.engine_id()
            await trusting.close()

        play(story)


@pytest.mark.timeout(240)
def test_an_engine_over_plain_tcp():
    """On a network that nobody else is on, this goes, too."""
    port = free_port()
    with engine("--host", f"tcp://127.0.0.1:{port}", "--tls=false") as ground:
        ground.options = {"host": f"tcp://127.0.0.1:{port}"}

        async def story() -> None:
            async with Bench(ground) as bench:
                assert (await bench.run("exit 3", **OFFLINE)).exit_code == 3

        play(story)


# --- over SSH -------------------------------------------------------------------------------------


class Sshd:
    """
    A server on loopback that lets us in with a key of the test's own, and an `ssh` that knows it.

    Args:
        folder: Empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        for key in ("host", "ours"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
            subprocess.run(words, check=True, capture_output=True)
        kind, public, *_ = (folder / "host.pub").read_text().split()
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {kind} {public}\n")
        shutil.copy(folder / "ours.pub", folder / "authorized")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nPasswordAuthentication no\n"
        )
        (folder / "ssh_config").write_text(
            f"Host *\n  IdentityFile {folder}/ours\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
        )
        # What a person writes to ~/.ssh/config, which ssh finds without asking the environment.
        (folder / "bin").mkdir()
        (folder / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
        (folder / "bin/ssh").chmod(0o755)

    @contextmanager
    def running(self) -> Iterator[None]:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it shuts itself in before anybody has logged in
        with (self.folder / "sshd.log").open("ab") as log:
            process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=log)
        try:
            until(lambda: b"listening" in (self.folder / "sshd.log").read_bytes(), "sshd")
            yield
        finally:
            process.terminate()
            process.wait(30)

    def address(self, socket: Path) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{socket}"

    def connections(self) -> list[psutil.Process]:
        """The ssh processes that lead here."""
        return [
            one
            for one in psutil.process_iter(["cmdline"])
            if f"{self.folder}/ssh_config" in (one.info["cmdline"] or ()) and one.status() != psutil.STATUS_ZOMBIE
        ]


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A server on loopback."""
    if not can_run_engines() or not Path(SSHD).exists():
        pytest.skip(f"needs sshd and a Docker engine of its own: apt-get install openssh-server, and {HOW_TO}")
    server = Sshd(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with server.running():
        yield server


@pytest.mark.timeout(240)
def test_an_engine_over_ssh(ground: OwnGround, sshd: Sshd):
    """All is as over a socket, over one connection for all, and it is gone when the backend is closed."""
    ground.options = {"host": sshd.address(ground.daemon.socket)}

    async def story() -> None:
        async with Bench(ground) as bench:
            seen = await bench.run("echo said; echo {} > $UPSHOT_OUTPUT/outputs.json", **OFFLINE)
            assert (await bench.log(seen.name)).data == b"said\n"
            assert await bench.outputs(seen.name) == b"{}\n"
            name = await bench.start(STUBBORN, **OFFLINE)
            await bench.said(name, b"begun")
            await asyncio.gather(*(bench.backend.list_containers(bench.installation) for _ in range(30)))
            assert len(sshd.connections()) == 1

            await bench.backend.stop(name, grace_seconds=1)
            assert (await bench.ended(name)).exit_code == 137
        assert sshd.connections() == []

    play(story)


@pytest.mark.timeout(240)
def test_a_line_that_is_cut(ground: OwnGround, sshd: Sshd):
    """The next question is asked over a new one."""
    ground.options = {"host": sshd.address(ground.daemon.socket)}

    async def story() -> None:
        async with Bench(ground) as bench:
            name = await bench.start(FOR_LONG, **OFFLINE)
            for connection in sshd.connections():
                connection.kill()
            await asyncio.to_thread(until, lambda: sshd.connections() == [])

            assert (await bench.seen(name)).phase is Phase.RUNNING

    play(story)


def test_a_machine_that_does_not_let_us_in(sshd: Sshd, tmp_path: Path):
    """The reason is ssh's own: no socket there, a closed port, a key or a host that is not known."""

    async def refused(address: str) -> str:
        backend: Backend = make({"host": address})
        with pytest.raises(EngineUnavailable) as said:
            await backend.engine_id()
        await backend.close()
        return str(said.value)

    async def story() -> None:
        socket = tmp_path / "none.sock"
        assert "open failed" in await refused(sshd.address(socket))
        assert "Connection refused" in await refused(f"ssh://127.0.0.1:{free_port()}")
        (tmp_path / "authorized").write_text("")
        assert "Permission denied" in await refused(sshd.address(socket))
        (tmp_path / "known").write_text("")
        assert "Host key verification failed" in await refused(sshd.address(socket))
        assert sshd.connections() == []

    play(story)


@pytest.mark.timeout(240)
def test_a_worker_that_is_killed_leaves_no_ssh_behind(ground: OwnGround, sshd: Sshd):
    """Its connection ends with it, though nobody could close it."""
    script = (
        "import asyncio, sys\n"
        "from upshot.backends.docker import make\n"
        "async def main():\n"
        "    print(await make({'host': sys.argv[1]}).identity(), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    words = [sys.executable, "-c", script, sshd.address(ground.daemon.socket)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline().startswith(b"docker:")
        assert len(sshd.connections()) == 1
        worker.kill()

    until(lambda: sshd.connections() == [], "the end of ssh")
