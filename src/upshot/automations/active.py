"""The automations that answer events now. A changed set becomes active once its revisions are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice

import structlog

from upshot.automations.folder import AutomationFolder, AutomationSet
from upshot.automations.in_force import BrokenFile
from upshot.automations.matcher import Matcher
from upshot.clock import Clock
from upshot.domain.automation import Automation, AutomationNames, FileFault
from upshot.ports.automation_sets import SetQuality
from upshot.ports.executions import RevisionStore
from upshot.unicode_text import to_storable_text

MAX_STORED_FAULTS = 100

log = structlog.get_logger("upshot.automations")


def names_of(automations: Iterable[Automation]) -> AutomationNames:
    """Return the names of automations, by whether they are enabled."""
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for automation in automations:
        names[automation.enabled].add(automation.name)
    return AutomationNames(frozenset(names[True]), frozenset(names[False]))


class ActiveAutomations:
    """
    The set of automations that a worker matches events with.

    An execution finishes with the revision that it was admitted with. Therefore every revision is
    stored in the database before the first execution can refer to it.

    Args:
        folder: The folder of automation files.
        revisions: Stores every revision.
        clock: Returns the current time.
    """

    def __init__(self, folder: AutomationFolder, revisions: RevisionStore, clock: Clock) -> None:
        self._folder = folder
        self._revisions = revisions
        self._clock = clock
        self._active = folder.current
        self._is_complete = folder.is_complete
        self._names = names_of(self._active.automations)
        self._in_force: AutomationSet | None = None  #: the record that was stored last
        revisions.save(self._active.automations, clock.now())
        self._log_errors(already_logged=())

    @property
    def automations(self) -> Sequence[Automation]:
        """The active automations."""
        return self._active.automations

    @property
    def names(self) -> AutomationNames:
        """The names of the active automations."""
        return self._names

    def matcher(self) -> Matcher:
        """Return the matcher of the active automations."""
        return self._active.matcher

    def refresh(self) -> None:
        """
        Activate the folder's current set if a file has changed.

        Raises:
            Unavailable: The revisions cannot be stored now. The previous set stays active.
        """
        self._folder.refresh()
        self._is_complete = self._folder.is_complete
        current = self._folder.current
        if current is not self._active:
            self._revisions.save(current.automations, self._clock.now())
            previous, self._active = self._active, current
            self._names = names_of(current.automations)
            log.info(
                "automations.loaded",
                automations=len(current.automations),
                errors=len(current.errors),
                kept=len(current.kept),
            )
            self._log_errors(already_logged=previous.errors)

    @property
    def is_complete(self) -> bool:
        """Whether every file was read. At the start, files with errors can take longer than the first reading."""
        return self._is_complete

    @property
    def quality(self) -> SetQuality:
        """What loading the active set has found. Until every file was read, the set cannot be used."""
        if not self._is_complete:
            return SetQuality.UNUSABLE
        if not self._active.automations:
            return SetQuality.UNUSABLE if self._active.broken else SetQuality.PARTIAL
        return SetQuality.PARTIAL if self._active.broken else SetQuality.SOUND

    def record_in_force(self) -> None:
        """
        Store that the active set is the one that answers events, and the errors in its files.

        Raises:
            Unavailable: The database does not answer.
        """
        active = self._active
        if active is not self._in_force:
            now = self._clock.now()
            faults = (_fault(file, now) for file in active.broken if file.errors)
            self._revisions.activate(active.automations, islice(faults, MAX_STORED_FAULTS), now)
            self._in_force = active

    def forget_in_force(self) -> None:
        """Forget that the active set was stored, because another set is in force. It is stored again later."""
        self._in_force = None

    def _log_errors(self, already_logged: Sequence[Exception]) -> None:
        """Log each error once. The author of a file looks for it in the log after saving the file."""
        known = set(map(str, already_logged))
        for error in self._active.errors:
            if str(error) not in known:
                log.warning("automations.invalid", error=str(error))


def _fault(file: BrokenFile, now: datetime) -> FileFault:
    first = file.errors[0]
    return FileFault(file.path, first.line, to_storable_text(first.reason), len(file.errors), file.kept, now)
