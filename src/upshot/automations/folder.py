"""The folder of automations, loaded again when a file in it changes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, thread_time

import structlog

from upshot.automations.files import FolderFiles, Listing, SkippedPath, printable_path
from upshot.automations.in_force import MAX_ERRORS, Decision, LoadedFile, LoadedFolder, decide
from upshot.automations.loader import Catalog, load_in_parts, load_revision, unreadable
from upshot.automations.matcher import Matcher
from upshot.automations.parser.diagnostics import MAX_DIAGNOSTICS
from upshot.domain.automation import ActiveRevision, Automation
from upshot.errors import ConfigError
from upshot.ids import RevisionId
from upshot.ports.executions import RevisionStore

log = structlog.get_logger("upshot.automations")

MAX_READ_SECONDS = 0.6  # maximum time that a refresh parses changed files; the next refresh continues
MIN_READ_CPU_SECONDS = 0.1  # a refresh parses at least this long, so that it makes progress on a busy machine
# Seconds between decisions while a last sound revision is in force, because another worker can have a later one.
RECHECK_SECONDS = 5.0

Signature = tuple[tuple[str, int, int, int], ...]  #: of each file: path, modification time (ns), size, inode
_UNREAD: Signature = ()


@dataclass(frozen=True, slots=True)
class AutomationSet(LoadedFolder):
    """The automations in force at one time, ready for matching."""

    matcher: Matcher


@dataclass(frozen=True, slots=True, eq=False)
class _ReadFile:
    """A file as it was read. Two objects are equal only if they come from the same read."""

    signature: Signature
    file: LoadedFile


@dataclass(slots=True)
class _Reading:
    """A file that is being read."""

    signature: Signature
    parts: Generator[int, None, LoadedFile]


class AutomationFolder:
    """
    The automations of a folder that are in force. `in_force` has the rules.

    Files that did not change are not read again. A refresh takes about a second at most, except for the first one: it
    reads all files that contain no error.

    Args:
        folder: Loaded immediately. If it is missing, `current.broken` says so.
        catalog: The actions that steps can use.
        revisions: Knows what was in force before this process started, and what other workers have in force; None to
            know only what this object has loaded.

    Raises:
        Unavailable: The store does not answer.
    """

    def __init__(self, folder: Path, catalog: Catalog, revisions: RevisionStore | None = None) -> None:
        self._folder = folder
        self.catalog = catalog
        self._revisions = revisions
        self._files: Mapping[str, _ReadFile] = {}
        self._readings: dict[str, _Reading] = {}
        self._skipped: tuple[SkippedPath, ...] = ()
        self._absent: frozenset[str] | None = None  #: None until the folder was read
        self.is_complete = False  #: whether every file was read; at the start, this can take several refreshes
        self._recheck_at = 0.0
        self._known: dict[tuple[str, RevisionId], Automation | None] = {}
        self.current = AutomationSet((), (), frozenset(), Matcher(()))  #: as of the last refresh
        self.refresh()

    def refresh(self) -> bool:
        """
        Load what changed since the last time, and return whether anything did.

        Raises:
            Unavailable: The store does not answer. Nothing has changed.
        """
        listing = self._list()
        files = self._read(listing)
        self.is_complete = self.is_complete or all(read.signature for read in files.values())
        is_changed = files != self._files or listing.skipped != self._skipped
        if not is_changed and not self._is_undecided():
            return False
        decision = self._decide(files, listing)
        self._files, self._skipped, self._absent = files, listing.skipped, decision.absent
        if not is_changed and _summary(decision.folder) == _summary(self.current):
            return False
        folder = decision.folder
        self.current = AutomationSet(folder.automations, folder.broken, folder.kept, Matcher(folder.automations))
        self._known = {(automation.name, automation.revision_id): automation for automation in folder.automations}
        return True

    def _is_undecided(self) -> bool:
        """Return whether the same files can lead to another decision."""
        is_due = bool(self.current.kept) and monotonic() >= self._recheck_at
        self._recheck_at = monotonic() + RECHECK_SECONDS if is_due else self._recheck_at
        return is_due or self._absent is None or bool(self._absent)

    def _list(self) -> Listing:
        try:
            with FolderFiles(self._folder) as files:
                return files.listing()
        except ConfigError as error:
            return Listing((), (SkippedPath("", str(error)),))

    # --- reading ----------------------------------------------------------------------------------

    def _read(self, listing: Listing) -> Mapping[str, _ReadFile]:
        """Return all files. Small files are read first, and what takes too long is continued by the next refresh."""
        signatures = {path: self._signature_of(path) for path in listing.paths}
        files = {
            path: self._files[path]
            for path in listing.paths
            if path in self._files and self._files[path].signature == signatures[path]
        }
        for path in self._readings.keys() - (signatures.keys() - files.keys()):
            del self._readings[path]
        changed = sorted(signatures.keys() - files.keys(), key=lambda path: (signatures[path][0][2], path))
        is_first = self._absent is None
        errors = sum(len(read.file.errors) for read in files.values())
        deadline, cpu_seconds = monotonic() + MAX_READ_SECONDS, thread_time() + MIN_READ_CPU_SECONDS

        def is_late() -> bool:
            return monotonic() > deadline and thread_time() > cpu_seconds

        for path in changed:
            max_errors = max(1, min(MAX_DIAGNOSTICS, MAX_ERRORS - errors))
            read = self._continue(path, signatures[path][:1], max_errors, is_late, is_first=is_first)
            if read is not None:
                files[path] = read
                errors += len(read.file.errors)
            elif path in self._files:
                files[path] = self._files[path]
            else:
                reason = "this file has errors, and the rest of it is still being read"
                files[path] = _ReadFile(_UNREAD, unreadable(self._folder, SkippedPath(printable_path(path), reason)))
        return {path: files[path] for path in listing.paths}

    def _signature_of(self, path: str) -> Signature:
        known = self._files.get(path)
        return _signature([self._folder / path, *(known.file.body_files if known else ())])

    def _continue(
        self, path: str, signature: Signature, max_errors: int, is_late: Callable[[], bool], *, is_first: bool
    ) -> _ReadFile | None:
        """Read a file until it is late. At the start, only a file with an error is left to the next refresh."""
        reading = self._readings.get(path)
        if reading is None or reading.signature != signature:
            parts = load_in_parts(self._folder, path, self.catalog, max_errors)
            reading = self._readings[path] = _Reading(signature, parts)
        while not (must_pause := is_late()) or is_first:
            try:
                count = next(reading.parts)
            except StopIteration as end:
                file: LoadedFile = end.value
                del self._readings[path]
                return _ReadFile(signature + _signature(file.body_files), file)
            if is_first and must_pause and count:
                return None
        return None

    # --- deciding ---------------------------------------------------------------------------------

    def _decide(self, files: Mapping[str, _ReadFile], listing: Listing) -> Decision:
        current = self.current
        previous = {
            known.name: ActiveRevision(known.name, known.revision_id, known.path) for known in current.automations
        }
        if self._revisions is not None:
            # A revision from this worker's files may not be stored yet. A kept revision may have been replaced by
            # another worker.
            previous = {name: known for name, known in previous.items() if name not in current.kept}
            previous |= {revision.name: revision for revision in self._revisions.active()}
        skipped = (unreadable(self._folder, item) for item in listing.skipped)
        loaded = (*skipped, *(read.file for read in files.values()))
        return decide(loaded, previous.values(), find_revision=self._find_revision, absent_before=self._absent)

    def _find_revision(self, revision: ActiveRevision) -> Automation | None:
        key = (revision.name, revision.revision_id)
        if key not in self._known:
            stored = self._revisions.get(*key) if self._revisions else None
            self._known[key] = None
            if stored is not None:
                source, body_files, path = stored
                try:
                    self._known[key] = load_revision(revision.name, source, body_files, path, self.catalog)
                except ConfigError as error:
                    log.warning("automations.revision_invalid", automation=revision.name, error=str(error))
        return self._known[key]


def _summary(folder: LoadedFolder) -> object:
    return (
        [(automation.name, automation.revision_id, automation.path) for automation in folder.automations],
        [(file.path, file.kept, *map(str, file.errors)) for file in folder.broken],
    )


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
