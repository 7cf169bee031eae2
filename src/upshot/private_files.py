"""Files and directories that only their owner can use: the database, tokens, passwords, logs."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_OTHERS = 0o077
#: Prefixes of the names in a data directory. A directory with other names also has another purpose.
_DATA_NAMES = (
    ".gitignore",
    "endpoint.json",
    "jobs.yaml",
    "lock",
    "logs",
    "lost+found",  # root of a mounted file system
    "processes",
    "redis",
    "secrets",
    "settings.env",
    "token",
    "upshot.db",
    "worker-",
)


def make_files_private() -> None:
    """Let this process and its children create only files and directories that other users cannot use."""
    os.umask(_OTHERS)


def make_data_directory(path: Path) -> bool:
    """
    Create a data directory if it does not exist, and keep other users out of it.

    An existing directory that also contains something else keeps its mode. The files in it are private anyway.

    Returns:
        Whether it was created.

    Raises:
        OSError: It cannot be created or read.
    """
    is_new = not path.exists()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_new or all(entry.name.startswith(_DATA_NAMES) for entry in path.iterdir()):
        make_private(path)
    for file in path.glob("upshot.db*"):  # an older release made them readable for all users
        make_private(file)
    return is_new


def make_private_directory(path: Path) -> None:
    """
    Create a directory if it does not exist, and keep other users out of it.

    Raises:
        OSError: It cannot be created.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    make_private(path)


def make_private(path: Path) -> None:
    """Remove the permissions of other users if the file or directory exists and belongs to this user."""
    with contextlib.suppress(OSError):
        status = path.stat()
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid == os.geteuid() and mode & _OTHERS:
            path.chmod(mode & ~_OTHERS)


def create_private(path: Path) -> None:
    """
    Create an empty file that only its owner can use, unless it exists.

    Raises:
        OSError: It cannot be created.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def is_private_directory(path: Path) -> bool:
    """Return whether a directory belongs to this user, and no other user can use it. A link is not a directory."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & _OTHERS


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read. A concurrent reader gets the whole old text or the whole new text."""
    new_path = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new_path.unlink()  # a file that a crash left may have other permissions
    with os.fdopen(os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new_path.replace(path)
