"""
An engine's socket, brought here from another machine by the system's own `ssh`.

So all that a person has set up for ssh holds here, too: keys, agents, jump hosts, known hosts.
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
_READY = b"upshot-is-through"
#: The far end says that it is there, then reads until we are gone, however we went: so no ssh is left behind.
_ERRAND = f"echo {_READY.decode()}; exec cat >/dev/null"
_OPTIONS = (
    "BatchMode=yes",  # nobody is there to answer questions
    f"ConnectTimeout={_CONNECT_SECONDS}",
    "ServerAliveInterval=5",  # a line that is cut is noticed within 15 s
    "ServerAliveCountMax=3",
    "ExitOnForwardFailure=yes",
    "StreamLocalBindUnlink=yes",
    "ControlMaster=no",
    "ControlPath=none",  # a connection that is shared with others would outlive us
)


class SshTunnel:
    """
    A local socket that is the engine's.

    Args:
        address: Of the engine, over SSH.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._folder = tempfile.TemporaryDirectory(prefix="upshot-ssh-")
        self._process: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None  # what ssh says when something is wrong

    @property
    def socket(self) -> str:
        """Path of the local socket."""
        return str(Path(self._folder.name) / "engine.sock")

    @property
    def is_open(self) -> bool:
        """It was through, and has not ended since."""
        return self._process is not None and self._process.poll() is None

    async def open(self) -> None:
        """
        Be through; at once where it is already. For one caller at a time.

        Raises:
            EngineUnavailable: ssh cannot connect; in its words.
        """
        if self.is_open:
            return
        self.hang_up()
        self._process = self._begin()
        if not await self._is_through(self._process):
            finding = self.last_words() or "it did not answer in time"
            self.hang_up()
            raise EngineUnavailable(f"{self._address}: ssh cannot connect: {finding}")

    def hang_up(self) -> None:
        """End ssh, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._words):
                if stream is not None:
                    stream.close()
            self._process = None

    def close(self) -> None:
        """End ssh, and remove the socket."""
        self.hang_up()
        self._folder.cleanup()

    def last_words(self) -> str:
        """The last line that ssh complained with; empty if it did not."""
        if self._words is None or self._words.closed:
            return ""
        self._words.seek(0)
        lines = self._words.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _begin(self) -> subprocess.Popen[bytes]:
        program = shutil.which("ssh")
        if program is None:
            raise EngineUnavailable(f"{self._address}: there is no ssh on this machine; install openssh-client")
        one = self._address
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        return subprocess.Popen(
            [
                program,
                *("-T", "-a", "-x"),
                *(word for option in _OPTIONS for word in ("-o", option)),
                *(("-p", str(one.port)) if one.port else ()),
                *(("-l", one.user) if one.user else ()),
                *("-L", f"{self.socket}:{one.socket}", "--", one.host, _ERRAND),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            start_new_session=True,  # Ctrl-C is for us, who may need the engine while we stop
        )

    async def _is_through(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the far end's word; ssh opens its forwarding before."""
        waiting = asyncio.ensure_future(asyncio.to_thread(_wait_for_word, process))
        try:
            return await asyncio.wait_for(asyncio.shield(waiting), _CONNECT_SECONDS + 2)
        except TimeoutError:
            return False
        finally:
            if not waiting.done():
                process.kill()  # ends the thread's wait


def _wait_for_word(process: subprocess.Popen[bytes]) -> bool:
    if process.stdout is None:
        raise AssertionError("unreachable: its output is a pipe")
    # A login shell may greet first.
    return any(line.strip() == _READY for line in iter(process.stdout.readline, b""))
