"""
A real Docker engine for tests: the machine's own, or one of a test's own that it may stop and start.

Spoken to over its API, beside the code that is tested; images are made out of the machine's busybox,
so that no registry is needed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx
import psutil

from tests.waiting import until

SOCKET = Path("/var/run/docker.sock")
HOW_TO = "as root: apt-get install docker.io busybox-static iproute2, and start dockerd, as .ci/run does"
PODMAN_HOW_TO = "as root: apt-get install podman crun netavark catatonit, and run the tests as root"
USER, USER_ID = "worker", 1234  #: of the image, beside root

#: Without systemd, and with limits that root may set who is a container's root itself.
_PODMAN_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
[network]
network_backend = "netavark"
"""
_BUSYBOX = Path("/bin/busybox")
_START_SECONDS = 60.0


class EngineApi:
    """
    What tests ask of an engine.

    Args:
        socket: Of the engine.
    """

    def __init__(self, socket: Path = SOCKET) -> None:
        self.socket = socket
        transport = httpx.HTTPTransport(uds=str(socket))
        self._client = httpx.Client(transport=transport, base_url="http://docker/v1.41", timeout=120)

    def answers(self) -> bool:
        """Tell whether it is there."""
        try:
            return self._client.get("/_ping", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def ask(self, method: str, path: str, **how: Any) -> Any:
        """Ask; the answer's JSON, or its bytes where it is none."""
        answer = self._client.request(method, path, **how)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.json() if is_json and answer.content else answer.content

    def inspect(self, container: str) -> dict[str, Any]:
        """What it says of a container."""
        shown: dict[str, Any] = self.ask("GET", f"/containers/{container}/json")
        return shown

    def import_image(self, name: str, tar: bytes, changes: Iterable[str] = ()) -> None:
        """Make an image of a file system, as `docker import` does."""
        params = [("fromSrc", "-"), ("repo", name), *(("changes", one) for one in changes)]
        said = self.ask(
            "POST", "/images/create", params=params, content=tar, headers={"Content-Type": "application/x-tar"}
        )
        assert b"error" not in (said if isinstance(said, bytes) else json.dumps(said).encode()), said

    def remove_image(self, name: str) -> None:
        """Remove it, if it is there."""
        self._client.delete(f"/images/{name}", params={"force": "1"})

    def containers(self, label: str) -> list[dict[str, Any]]:
        """All with a label, `name` or `name=value`."""
        return self._all("/containers/json", label)

    def volumes(self, label: str) -> list[dict[str, Any]]:
        """All with a label."""
        answer = self.ask("GET", "/volumes", params={"filters": json.dumps({"label": [label]})})
        return list(answer["Volumes"] or ())

    def remove_containers(self, label: str) -> None:
        """Remove all that have a label, with their volumes."""
        for one in self.containers(label):
            self._client.delete(f"/containers/{one['Id']}", params={"force": "1", "v": "1"})

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _all(self, path: str, label: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(
            "GET", path, params={"all": "1", "filters": json.dumps({"label": [label]})}
        )
        return found


def find_engine() -> EngineApi | None:
    """The machine's engine; None when none answers."""
    api = EngineApi()
    if SOCKET.exists() and api.answers() and _BUSYBOX.exists():
        return api
    api.close()
    return None


@contextmanager
def busybox_image(api: EngineApi, *, changes: Iterable[str] = ()) -> Iterator[str]:
    """Name of a small image with a shell, of our own; it is gone afterwards."""
    name = f"upshot-test-{uuid4().hex[:12]}:busybox"
    api.import_image(name, busybox_tar(), changes)
    try:
        yield name
    finally:
        api.remove_image(name)


def busybox_tar(files: Mapping[str, bytes] | None = None) -> bytes:
    """
    A root file system with a shell and its tools.

    Args:
        files: More of them, by path without the first slash; executable for all.
    """
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("mnt", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, "bin/busybox", _BUSYBOX.read_bytes(), 0o755)
        applets = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        passwd = f"root:x:0:0::/:/bin/sh\n{USER}:x:{USER_ID}:{USER_ID}::/:/bin/sh\n"
        _add(tar, "etc/passwd", passwd.encode(), 0o644)
        _add(tar, "etc/group", f"root:x:0:\n{USER}:x:{USER_ID}:\n".encode(), 0o644)
        for path, content in (files or {}).items():
            _add(tar, path, content, 0o755)
    return made.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def can_run_engines() -> bool:
    """Whether a test can start one of its own: Docker is installed, and we are root."""
    return os.geteuid() == 0 and shutil.which("dockerd") is not None and _BUSYBOX.exists()


class Dockerd:
    """
    An engine of a test's own, apart from the machine's: it may be stopped, killed and started.

    It touches no firewall, so its containers have no network. It has a bridge all the same, of its
    own: an engine that is told to have none removes the one that the machine's engine uses.

    Args:
        folder: Empty folder for all that it keeps; not on an overlay.
        flags: More of them, such as another `--host`.
    """

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self.api = EngineApi(self.socket)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process is None:
                self.start()  # what it left running can only be ended by it
            for one in self.api.ask("GET", "/containers/json", params={"all": "1"}):
                self.api.ask("DELETE", f"/containers/{one['Id']}", params={"force": "1", "v": "1"})
        finally:
            self.stop()
            self.api.close()
            subprocess.run(["ip", "link", "delete", self._bridge()], check=False)
            _unmount(self.folder)

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        space = f"upshot-test-{self.folder.stat().st_ino}"
        with (self.folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    *("--host", f"unix://{self.socket}", "--pidfile", str(self.folder / "dockerd.pid")),
                    *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
                    *("--containerd-namespace", space, "--containerd-plugins-namespace", f"{space}-plugins"),
                    *("--bridge", self._bridge(), "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
                    *self._flags,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.api.answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"dockerd did not start:\n{(self.folder / 'dockerd.log').read_text()[-4000:]}")
            time.sleep(0.05)

    def _bridge(self) -> str:
        """Name of its network interface, made if it is not there."""
        name = f"upt{self.folder.stat().st_ino % 10**9}"
        if not Path(f"/sys/class/net/{name}").exists():
            subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
        return name

    def stop(self) -> None:
        """Ask it to end, as a machine does that is shut down; it takes its containers with it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a warning (kill -9); its containers run on until it is back."""
        containerd = int((self.folder / "exec/containerd/containerd.pid").read_text())
        self._end(signal.SIGKILL)
        # Its own engine goes with it, a moment later; a new dockerd would take that one for alive until then.
        until(lambda: not psutil.pid_exists(containerd), "the end of containerd")

    def crash(self) -> None:
        """End it and all that it runs, as when its machine loses power."""
        running = [one["Id"] for one in self.api.ask("GET", "/containers/json")]
        jobs = [psutil.Process(self.api.inspect(one)["State"]["Pid"]) for one in running]
        self.kill()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in word for word in process.info["cmdline"] or ()) and "shim" in process.name():
                process.kill()
        for job in jobs:
            with suppress(psutil.NoSuchProcess):
                job.kill()

    def pause(self) -> None:
        """Let it hang: connected, and silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after a pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_START_SECONDS)
            self._process = None
        (self.folder / "dockerd.pid").unlink(missing_ok=True)


def _unmount(folder: Path) -> None:
    """Take off what an engine has mounted below, and may leave there."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    for point in sorted((one for one in points if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)


def can_run_podman() -> bool:
    """Whether a test can start Podman's service: it is installed, and we are root."""
    return os.geteuid() == 0 and shutil.which("podman") is not None and _BUSYBOX.exists()


class Podman:
    """
    Podman's service of Docker's API, with a storage of its own.

    Args:
        folder: Empty folder for all that it keeps; not on an overlay.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "podman.sock"
        self.api = EngineApi(self.socket)

    def __enter__(self) -> Self:
        settings = self.folder / "containers.conf"
        settings.write_text(_PODMAN_SETTINGS)
        keep = [
            *("--root", str(self.folder / "root"), "--runroot", str(self.folder / "run")),
            "--events-backend",
            "file",
        ]
        with (self.folder / "podman.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["podman", *keep, "system", "service", "--time", "0", f"unix://{self.socket}"],
                env={**os.environ, "CONTAINERS_CONF": str(settings)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.api.answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"podman did not start:\n{(self.folder / 'podman.log').read_text()[-4000:]}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self.api.ask("GET", "/containers/json", params={"all": "1"}):
            self.api.ask("DELETE", f"/containers/{one['Id']}", params={"force": "1", "v": "1"})
        self.api.close()
        self._process.terminate()
        self._process.wait(_START_SECONDS)
        _unmount(self.folder)
