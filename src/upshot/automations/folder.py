"""The folder of automations, loaded again when a file in it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from upshot.automations.loader import (
    Catalog,
    LoadedFile,
    LoadedFolder,
    find_files,
    load_file,
    merge,
    unreadable_folder,
)
from upshot.automations.matcher import Matcher
from upshot.errors import ConfigError

Signature = tuple[tuple[str, int, int, int], ...]  #: of each file: path, modification time (ns), size, inode


@dataclass(frozen=True, slots=True)
class AutomationSet(LoadedFolder):
    """The content of the folder at one time, ready for matching."""

    matcher: Matcher


@dataclass(frozen=True, slots=True, eq=False)
class _ReadFile:
    """A file as it was read. Two objects are equal only if they come from the same read."""

    signature: Signature
    file: LoadedFile


class AutomationFolder:
    """
    The current content of a folder of automations.

    Files that did not change are not read again. See `loader` for the effect of an error in a file.

    Args:
        folder: Loaded immediately. If it is missing, there are no automations, and `current.broken` says why.
        catalog: The actions that steps can use.
    """

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self._folder = folder
        self.catalog = catalog
        self._files: Mapping[str, _ReadFile] = {}
        self._folder_error = ""  #: why the folder cannot be read; empty if it can
        self.current = AutomationSet((), (), Matcher(()))  #: as of the last refresh
        self.refresh()

    def refresh(self) -> bool:
        """Load what changed since the last time, and return whether anything did."""
        try:
            paths = find_files(self._folder)
        except ConfigError as error:
            return self._update({}, unreadable_folder(self._folder, error), folder_error=str(error))
        files = {path: self._read(path, self._files.get(path)) for path in paths}
        return self._update(files, merge(read.file for read in files.values()))

    def _read(self, path: str, previous: _ReadFile | None) -> _ReadFile:
        target = self._folder / path
        if previous is not None and previous.signature == _signature([target, *previous.file.body_files]):
            return previous
        # Take the signature before reading: the next refresh then sees a change in between.
        signature = _signature([target])
        file = load_file(self._folder, path, self.catalog)
        return _ReadFile(signature + _signature(file.body_files), file)

    def _update(self, files: Mapping[str, _ReadFile], loaded: LoadedFolder, folder_error: str = "") -> bool:
        if files == self._files and folder_error == self._folder_error:
            return False
        self._files, self._folder_error = files, folder_error
        self.current = AutomationSet(loaded.automations, loaded.broken, Matcher(loaded.automations))
        return True


def _signature(paths: Iterable[Path]) -> Signature:
    signature = []
    for path in paths:
        try:
            status = path.stat()
        except (OSError, ValueError):
            signature.append((str(path), 0, 0, 0))
        else:
            signature.append((str(path), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(signature)
