"""
Find and open the files of a folder of automations without leaving the folder.

Links are followed as long as they stay inside the folder. A file is opened one directory at a time, each relative
to the one before, and the parts of a link's target are walked in the same way. A link that someone replaces
meanwhile can therefore not lead out of the folder.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from upshot.errors import ConfigError

SUFFIXES = (".yaml", ".yml")  # in any case
MAX_FOLDER_DEPTH = 32
MAX_FILES = 10_000
MAX_ENTRIES = 100_000  # in all folders together
NAME_NOT_UTF8 = "this name is not UTF-8, so it is skipped; rename it"
_MAX_LINKS = 40  # the limit of Linux for one path
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_OUTSIDE = "the file is outside the folder of automations; move it inside"


def printable_path(path: str | Path) -> str:
    """Return a path that can be printed and stored: other bytes than UTF-8 and control characters are escaped."""
    text = os.fsencode(Path(path).as_posix()).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in ("Cc", "Cf") else char for char in text
    )


def is_utf8(name: str) -> bool:
    """Return whether the name of a file, as the operating system returned it, is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class SkippedPath:
    """A file or folder that is not read."""

    path: str  #: relative to the folder, printable
    reason: str  #: with the remedy
    may_hide_files: bool = True  #: it may contain automation files that cannot be listed


@dataclass(frozen=True, slots=True)
class Listing:
    """The automation files of a folder."""

    paths: tuple[str, ...]  #: relative to the folder, in order; each file once, even if links lead to it
    skipped: tuple[SkippedPath, ...]


class _Opened:
    """A path that was opened from the root of the folder: one file descriptor for each part."""

    def __init__(self, root_fd: int) -> None:
        self._fds = [root_fd]
        self.parts: list[str] = []  #: without links

    @property
    def fd(self) -> int:
        return self._fds[-1]

    def enter(self, name: str, fd: int) -> None:
        self._fds.append(fd)
        self.parts.append(name)

    def leave(self) -> bool:
        """Go to the parent. Return False if this is the root of the folder."""
        if not self.parts:
            return False
        os.close(self._fds.pop())
        self.parts.pop()
        return True

    def close(self) -> None:
        while self.leave():
            pass


class FolderFiles:
    """
    The files of a folder, as they are now.

    Args:
        folder: A link to a folder is followed.

    Raises:
        ConfigError: The folder is missing or cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._root_fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise ConfigError(
                "this folder does not exist; create it, run `upshot init`, or set UPSHOT_AUTOMATIONS to another one"
            ) from None
        except OSError as error:
            raise ConfigError(f"this folder cannot be read: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root_fd)

    def read(self, path: str, limit_bytes: int, *, allows_hidden: bool = True) -> bytes:
        """
        Read a file of the folder, at most one byte more than the limit.

        Args:
            path: Relative to the folder, or absolute.
            limit_bytes: The limit.
            allows_hidden: Whether links may lead to a hidden file. The hidden folders of a mounted ConfigMap, whose
                names begin with two dots, are always allowed.

        Raises:
            ConfigError: The file is outside the folder, directly or through a link, or it cannot be read.
        """
        try:
            with self._open(path) as opened:
                mode = os.fstat(opened.fd).st_mode
                if not stat.S_ISREG(mode):
                    raise _not_a_file(mode)
                if not allows_hidden and any(part[0] == "." and part[1:2] != "." for part in opened.parts):
                    raise ConfigError("the link leads to a hidden file; put a file that is not hidden here")
                with os.fdopen(os.dup(opened.fd), "rb") as file:
                    return file.read(limit_bytes + 1)
        except FileNotFoundError:
            raise ConfigError(f"there is no file {printable_path(self._folder / path)}") from None
        except OSError as error:
            raise ConfigError(f"the file cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"the file cannot be read: {error}") from None

    @contextmanager
    def _open(self, path: str) -> Iterator[_Opened]:
        opened = _Opened(self._root_fd)
        pending = deque(self._parts_from_root(path))
        links = 0
        try:
            while pending:
                name = pending.popleft()
                if name == "..":
                    if not opened.leave():
                        raise ConfigError(_OUTSIDE)
                    continue
                if name in ("", "."):
                    continue
                found = os.stat(name, dir_fd=opened.fd, follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    links += 1
                    if links > _MAX_LINKS:
                        raise ConfigError("the file cannot be read: too many links lead to each other")
                    target = os.readlink(name, dir_fd=opened.fd)
                    if target.startswith("/"):
                        opened.close()
                        pending.extendleft(reversed(self._parts_from_root(target)))
                    else:
                        pending.extendleft(reversed(target.split("/")))
                elif stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
                    opened.enter(name, os.open(name, _FLAGS, dir_fd=opened.fd))
                else:
                    raise _not_a_file(found.st_mode)
            yield opened
        finally:
            opened.close()

    def _parts_from_root(self, path: str) -> list[str]:
        """Split a path into its parts below the folder. An absolute path can name the folder itself."""
        if path.startswith("/"):
            for root in (os.path.abspath(self._folder), os.path.realpath(self._folder)):  # noqa: PTH100 - PTH: `Path.absolute` keeps `..`
                if path == root or path.startswith(f"{root}/"):
                    return path[len(root) :].split("/")
            raise ConfigError(_OUTSIDE)
        return path.split("/")

    # --- listing ----------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Return all automation files. A file or folder that cannot be listed is skipped."""
        return _Walk(self).listing()

    @contextmanager
    def open(self, path: str) -> Iterator[int]:
        """
        Open a file or a folder, and return its file descriptor.

        Raises:
            ConfigError: It is outside the folder, or a special file.
            OSError: It cannot be opened.
        """
        with self._open(path) as opened:
            yield opened.fd

    def leads_outside(self, path: str) -> bool:
        """Return whether a link leads to a folder outside this one."""
        try:
            with self._open(path):
                return False
        except (OSError, ValueError):
            return False
        except ConfigError:
            return (self._folder / path).is_dir()


def _not_a_file(mode: int) -> ConfigError:
    return ConfigError(f"this is a {'folder' if stat.S_ISDIR(mode) else 'special file'}, which cannot be read")


class _Walk:
    """Lists a folder and everything below it, real folders first, so that a file has the path without links."""

    def __init__(self, files: FolderFiles) -> None:
        self._files = files
        self._paths: list[str] = []
        self._skipped: list[SkippedPath] = []
        self._visited: set[tuple[int, int]] = set()  #: device and inode of each folder
        self._found: set[tuple[int, int]] = set()  #: device and inode of each file that a link could lead to
        self._links: deque[str] = deque()
        self._entries = 0

    def listing(self) -> Listing:
        self._visit("")
        while self._links and not self._is_full:
            self._follow(self._links.popleft())
        if self._is_full:
            limit = f"{MAX_FILES} automation files" if len(self._paths) >= MAX_FILES else f"{MAX_ENTRIES} entries"
            self._skip("", f"this folder has more than {limit}; use a folder that contains only automations")
        return Listing(tuple(sorted(self._paths)), tuple(sorted(self._skipped, key=lambda item: item.path)))

    @property
    def _is_full(self) -> bool:
        return self._entries >= MAX_ENTRIES or len(self._paths) >= MAX_FILES

    def _skip(self, path: str, reason: str, *, may_hide_files: bool = True) -> None:
        self._skipped.append(SkippedPath(printable_path(path) if path else "", reason, may_hide_files))

    def _visit(self, prefix: str) -> None:
        """List one folder, and the folders in it. The prefix is empty, or the folder's path with a slash."""
        path = prefix.rstrip("/")
        if prefix.count("/") > MAX_FOLDER_DEPTH:
            self._skip(path, f"folders are read to a depth of {MAX_FOLDER_DEPTH}; move this folder further up")
            return
        folders: list[str] = []
        try:
            with self._files.open(prefix) as fd:
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) in self._visited:
                    return
                self._visited.add((status.st_dev, status.st_ino))
                with os.scandir(fd) as entries:
                    folders = [
                        entry.name
                        for entry in sorted(entries, key=lambda entry: entry.name)
                        if not self._is_full and self._is_folder(prefix, entry, status.st_dev)
                    ]
        except FileNotFoundError:
            return  # removed since it was listed
        except (OSError, ConfigError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._skip(path, f"this folder cannot be read: {reason}")
        for name in folders:
            if not self._is_full:
                self._visit(f"{prefix}{name}/")

    def _is_folder(self, prefix: str, entry: os.DirEntry[str], device: int) -> bool:
        """Return whether an entry is a folder to visit. Collect files and links."""
        self._entries += 1
        name = entry.name
        if name.startswith("."):
            return False  # hidden: from an editor, from git, or the folders of a mounted ConfigMap
        path = f"{prefix}{name}"
        is_folder, has_suffix = entry.is_dir(follow_symlinks=False), name.lower().endswith(SUFFIXES)
        if not is_utf8(name):
            if is_folder or has_suffix:
                self._skip(path, NAME_NOT_UTF8, may_hide_files=False)
            return False
        if entry.is_symlink():
            self._links.append(path)
        elif has_suffix and not is_folder:
            self._paths.append(path)
            self._found.add((device, entry.inode()))
        return is_folder

    def _follow(self, path: str) -> None:
        """Collect the file or the folder that a link points to."""
        has_suffix = path.lower().endswith(SUFFIXES)
        try:
            with self._files.open(path) as fd:
                status = os.fstat(fd)
        except (OSError, ConfigError):
            if has_suffix:
                self._paths.append(path)  # reading it fails and reports the error
            elif self._files.leads_outside(path):
                reason = "this link leads out of the folder of automations, so it is not followed; copy the files here"
                self._skip(path, reason)
            return
        if stat.S_ISDIR(status.st_mode):
            self._visit(f"{path}/")
        elif has_suffix and (status.st_dev, status.st_ino) not in self._found:
            self._found.add((status.st_dev, status.st_ino))
            self._paths.append(path)
