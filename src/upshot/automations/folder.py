"""The folder of automations, read again when something in it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from upshot.automations.loader import (
    BrokenFile,
    Catalog,
    Loaded,
    LoadedFile,
    find_files,
    load_file,
    merge,
    missing_folder,
)
from upshot.automations.matcher import Matcher
from upshot.automations.parser.diagnostics import Diagnostic
from upshot.domain.automation import Automation
from upshot.errors import ConfigError

Signature = tuple[tuple[str, int, int, int], ...]  #: of each file: path, time of change (ns), size, inode


@dataclass(frozen=True, slots=True)
class FolderSnapshot:
    """The folder as it was read at one time."""

    loaded: Loaded
    matcher: Matcher

    @property
    def automations(self) -> tuple[Automation, ...]:
        """The sound ones."""
        return self.loaded.automations

    @property
    def broken(self) -> tuple[BrokenFile, ...]:
        """The files that keep their automations out."""
        return self.loaded.broken

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """Everything that is wrong with those."""
        return self.loaded.errors


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A file as it was read; the same only if it was not read again."""

    signature: Signature
    file: LoadedFile


class AutomationFolder:
    """
    What a folder of automations holds now.

    Files that did not change are not read again. See `loader` for what a broken file does.

    Args:
        folder: Read when this is made; one that is missing holds nothing, and says so as a broken file.
        catalog: The actions that steps can use.
    """

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self._folder = folder
        self._catalog = catalog
        self._files: Mapping[str, _Read] = {}
        self._missing = ""  #: why the folder cannot be read; empty when it can
        self.current = FolderSnapshot(Loaded((), ()), Matcher(()))  #: as it was last read
        self.refresh()

    def refresh(self) -> bool:
        """Read what changed since the last time; tells whether anything did."""
        try:
            paths = find_files(self._folder)
        except ConfigError as error:
            return self._put_in_force({}, missing_folder(self._folder, error), missing=str(error))
        files = {path: self._read(path, self._files.get(path)) for path in paths}
        return self._put_in_force(files, merge(read.file for read in files.values()))

    def _read(self, path: str, known: _Read | None) -> _Read:
        own = self._folder / path
        if known is not None and known.signature == _signature([own, *known.file.body_files]):
            return known
        # Signed before it is read: a change in between is seen the next time.
        signature = _signature([own])
        file = load_file(self._folder, path, self._catalog)
        return _Read(signature + _signature(file.body_files), file)

    def _put_in_force(self, files: Mapping[str, _Read], loaded: Loaded, missing: str = "") -> bool:
        if files == self._files and missing == self._missing:
            return False
        self._files, self._missing = files, missing
        self.current = FolderSnapshot(loaded, Matcher(loaded.automations))
        return True


def _signature(paths: Iterable[Path]) -> Signature:
    return tuple(_sign(path) for path in paths)


def _sign(path: Path) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return (str(path), 0, 0, 0)
    return (str(path), status.st_mtime_ns, status.st_size, status.st_ino)
