"""
Forwards an engine's socket from another machine with the system's own `ssh`.

Everything that a person has configured for ssh applies: keys, agents, jump hosts, known hosts.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from upshot.backends.docker.options import Address
from upshot.backends.protocol import EngineUnavailable

_CONNECT_SECONDS = 8
_READY = b"upshot-connected"
#: Reports that the login worked, then reads until this process ends, however it ends. So no ssh is left behind.
_REMOTE_COMMAND = f"echo {_READY.decode()}; exec cat >/dev/null"
_OPTIONS = (
    "BatchMode=yes",  # nobody is there to answer questions
    f"ConnectTimeout={_CONNECT_SECONDS}",
    "ServerAliveInterval=5",  # a cut connection is noticed within 15 s
    "ServerAliveCountMax=3",
    "ExitOnForwardFailure=yes",
    "StreamLocalBindUnlink=yes",
    "ControlMaster=no",
    "ControlPath=none",  # a shared connection would outlive this process
)


class SshTunnel:
    """
    A local socket that leads to the engine's.

    Args:
        address: Address of the engine, over SSH.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._dir = tempfile.TemporaryDirectory(prefix="upshot-ssh-")
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    @property
    def socket(self) -> str:
        """Path of the local socket."""
        return str(Path(self._dir.name) / "engine.sock")

    @property
    def is_open(self) -> bool:
        """Whether ssh has connected, and has not exited since."""
        return self._process is not None and self._process.poll() is None

    async def open(self) -> None:
        """
        Connect, unless the tunnel is open already. Only one caller may be in this method at a time.

        Raises:
            EngineUnavailable: ssh cannot connect. The message is its own.
        """
        if self.is_open:
            return
        self.disconnect()
        process = self._process = self._start()
        # ssh sets up the forwarding before it runs the remote command.
        connected = asyncio.ensure_future(asyncio.to_thread(_wait_until_connected, process))
        try:
            is_connected = await asyncio.wait_for(asyncio.shield(connected), _CONNECT_SECONDS + 2)
        except TimeoutError:
            is_connected = False
        finally:
            if not connected.done():
                process.kill()  # ends the thread's read
        if not is_connected:
            finding = self.last_error() or "it did not answer in time"
            self.disconnect()
            raise EngineUnavailable(f"{self._address}: ssh cannot connect: {finding}")

    def disconnect(self) -> None:
        """End ssh if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._stderr):
                if stream is not None:
                    stream.close()
            self._process = None

    def close(self) -> None:
        """End ssh and remove the socket."""
        self.disconnect()
        self._dir.cleanup()

    def last_error(self) -> str:
        """Return the last line that ssh wrote to its standard error; empty if there is none."""
        if self._stderr is None or self._stderr.closed:
            return ""
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _start(self) -> subprocess.Popen[bytes]:
        program = shutil.which("ssh")
        if program is None:
            raise EngineUnavailable(f"{self._address}: there is no ssh on this machine; install openssh-client")
        address = self._address
        command = [program, "-T", "-a", "-x"]
        for option in _OPTIONS:
            command += ["-o", option]
        if address.port:
            command += ["-p", str(address.port)]
        if address.user:
            command += ["-l", address.user]
        command += ["-L", f"{self.socket}:{address.socket}", "--", address.host, _REMOTE_COMMAND]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,  # Ctrl-C must not end ssh: the worker may need the engine while it stops
        )


def _wait_until_connected(process: subprocess.Popen[bytes]) -> bool:
    if process.stdout is None:
        raise AssertionError("unreachable: its output is a pipe")
    # A login shell may print a greeting first.
    return any(line.strip() == _READY for line in iter(process.stdout.readline, b""))
