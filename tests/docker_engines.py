"""
Real Docker engines for tests: the machine's own, or a private engine that a test may stop and start.

Tests reach an engine over its API, independently of the code under test. Images are made from the machine's busybox, so
no image registry is needed.
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
USER, USER_ID = "worker", 1234  #: in the image, besides root

#: Works without systemd, and with limits that the root of a container may set.
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
    A client of an engine.

    Args:
        socket: Socket of the engine.
    """

    def __init__(self, socket: Path = SOCKET) -> None:
        self.socket = socket
        transport = httpx.HTTPTransport(uds=str(socket))
        self._client = httpx.Client(transport=transport, base_url="http://docker/v1.41", timeout=120)

    def is_up(self) -> bool:
        """Return whether the engine answers."""
        try:
            return self._client.get("/_ping", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Send a request, and return the JSON of the response, or its bytes if it is not JSON."""
        response = self._client.request(method, path, **options)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.json() if is_json and response.content else response.content

    def inspect(self, container: str) -> dict[str, Any]:
        """Return the engine's description of a container."""
        description: dict[str, Any] = self.request("GET", f"/containers/{container}/json")
        return description

    def import_image(self, name: str, tar: bytes, changes: Iterable[str] = ()) -> None:
        """Create an image from a file system, as `docker import` does."""
        params = [("fromSrc", "-"), ("repo", name), *(("changes", change) for change in changes)]
        progress = self.request(
            "POST", "/images/create", params=params, content=tar, headers={"Content-Type": "application/x-tar"}
        )
        assert b"error" not in (progress if isinstance(progress, bytes) else json.dumps(progress).encode()), progress

    def remove_image(self, name: str) -> None:
        """Remove an image if it exists."""
        self._client.delete(f"/images/{name}", params={"force": "1"})

    def containers(self, label: str) -> list[dict[str, Any]]:
        """Return all containers with a label, `name` or `name=value`."""
        filters = json.dumps({"label": [label]})
        found: list[dict[str, Any]] = self.request("GET", "/containers/json", params={"all": "1", "filters": filters})
        return found

    def volumes(self, label: str) -> list[dict[str, Any]]:
        """Return all volumes with a label."""
        found = self.request("GET", "/volumes", params={"filters": json.dumps({"label": [label]})})
        return list(found["Volumes"] or ())

    def remove_containers(self, label: str) -> None:
        """Remove all containers with a label, and their volumes."""
        for container in self.containers(label):
            self._client.delete(f"/containers/{container['Id']}", params={"force": "1", "v": "1"})

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def find_engine() -> EngineApi | None:
    """Return the machine's engine, or None if none answers."""
    api = EngineApi()
    if SOCKET.exists() and api.is_up() and _BUSYBOX.exists():
        return api
    api.close()
    return None


@contextmanager
def busybox_image(api: EngineApi, *, changes: Iterable[str] = ()) -> Iterator[str]:
    """Create a small image with a shell, yield its name, and remove it afterwards."""
    name = f"upshot-test-{uuid4().hex[:12]}:busybox"
    api.import_image(name, busybox_tar(), changes)
    try:
        yield name
    finally:
        api.remove_image(name)


def busybox_tar(files: Mapping[str, bytes] | None = None) -> bytes:
    """
    Return a tar of a root file system with a shell and its tools.

    Args:
        files: Content of additional executable files, by path without the leading slash.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("mnt", 0o755)):
            entry = tarfile.TarInfo(directory)
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
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def can_run_engines() -> bool:
    """Return whether a test can start a private engine: Docker is installed, and the tests run as root."""
    return os.geteuid() == 0 and shutil.which("dockerd") is not None and _BUSYBOX.exists()


class Dockerd:
    """
    A private engine, separate from the machine's. A test may stop, kill and start it.

    It does not change the firewall, so its containers have no network. It has its own bridge all the same: an engine
    without a bridge would remove the bridge that the machine's engine uses.

    Args:
        directory: Empty directory for all its files, not on an overlay.
        flags: Additional flags, such as another `--host`.
    """

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.socket = directory / "docker.sock"
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
                self.start()  # only the engine can end the containers that it has left running
            remove_all_containers(self.api)
        finally:
            self.stop()
            self.api.close()
            subprocess.run(["ip", "link", "delete", self._bridge()], check=False)
            _unmount(self.directory)

    def start(self) -> None:
        """Start the engine, and wait until it answers."""
        namespace = f"upshot-test-{self.directory.stat().st_ino}"
        with (self.directory / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    f"--host=unix://{self.socket}",
                    f"--pidfile={self.directory / 'dockerd.pid'}",
                    f"--data-root={self.directory / 'data'}",
                    f"--exec-root={self.directory / 'exec'}",
                    f"--containerd-namespace={namespace}",
                    f"--containerd-plugins-namespace={namespace}-plugins",
                    f"--bridge={self._bridge()}",
                    "--iptables=false",
                    "--ip6tables=false",
                    "--ip-forward=false",
                    *self._flags,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for_start(self.api, self._process, self.directory / "dockerd.log")

    def _bridge(self) -> str:
        """Return the name of its network interface, which is created if necessary."""
        name = f"upt{self.directory.stat().st_ino % 10**9}"
        if not Path(f"/sys/class/net/{name}").exists():
            subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
        return name

    def stop(self) -> None:
        """Stop the engine and its containers with SIGTERM, as when its machine is shut down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the engine with SIGKILL. Its containers continue to run until it starts again."""
        containerd = int((self.directory / "exec/containerd/containerd.pid").read_text())
        self._end(signal.SIGKILL)
        # Its containerd ends a moment later. Until then, a new dockerd would use it.
        until(lambda: not psutil.pid_exists(containerd), "the end of containerd")

    def crash(self) -> None:
        """Kill the engine and its containers, as when its machine loses power."""
        running = [container["Id"] for container in self.api.request("GET", "/containers/json")]
        jobs = [psutil.Process(self.api.inspect(container_id)["State"]["Pid"]) for container_id in running]
        self.kill()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.directory) in word for word in process.info["cmdline"] or ()) and "shim" in process.name():
                process.kill()
        for job in jobs:
            with suppress(psutil.NoSuchProcess):
                job.kill()

    def pause(self) -> None:
        """Let the engine hang: it accepts connections and does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the engine continue after a pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_SECONDS)
            self._process = None
        (self.directory / "dockerd.pid").unlink(missing_ok=True)


def wait_for_start(api: EngineApi, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an engine answers; raise RuntimeError with the end of its log if it does not start."""
    deadline = time.monotonic() + _START_SECONDS
    while not api.is_up():
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"the engine did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)


def remove_all_containers(api: EngineApi) -> None:
    """Remove all containers of an engine."""
    for container in api.request("GET", "/containers/json", params={"all": "1"}):
        api.request("DELETE", f"/containers/{container['Id']}", params={"force": "1", "v": "1"})


def _unmount(directory: Path) -> None:
    """Unmount what an engine has left mounted below its directory."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)


def can_run_podman() -> bool:
    """Return whether a test can start Podman's service: it is installed, and the tests run as root."""
    return os.geteuid() == 0 and shutil.which("podman") is not None and _BUSYBOX.exists()


class Podman:
    """
    Podman's implementation of Docker's API, with its own storage.

    Args:
        directory: Empty directory for all its files, not on an overlay.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "podman.sock"
        self.api = EngineApi(self.socket)

    def __enter__(self) -> Self:
        settings = self.directory / "containers.conf"
        settings.write_text(_PODMAN_SETTINGS)
        storage = ["--root", str(self.directory / "root"), "--runroot", str(self.directory / "run")]
        with (self.directory / "podman.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["podman", *storage, "--events-backend=file", "system", "service", "--time=0", f"unix://{self.socket}"],
                env={**os.environ, "CONTAINERS_CONF": str(settings)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for_start(self.api, self._process, self.directory / "podman.log")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove_all_containers(self.api)
        self.api.close()
        self._process.terminate()
        self._process.wait(_START_SECONDS)
        _unmount(self.directory)
