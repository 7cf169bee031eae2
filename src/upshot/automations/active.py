"""Which automations answer events now: a new edition of the folder counts once its revisions are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from upshot.automations.matcher import Matcher
from upshot.clock import Clock
from upshot.domain.automation import Automation
from upshot.ports.executions import RevisionStore

log = structlog.get_logger("upshot.automations")


class AutomationSet(Protocol):
    """The folder of automations as it was read at one time."""

    @property
    def automations(self) -> Sequence[Automation]:
        """The sound ones."""
        ...

    @property
    def matcher(self) -> Matcher:
        """Matches events against the sound ones."""
        ...

    @property
    def errors(self) -> Sequence[Exception]:
        """What is wrong with the others, each with its place and remedy."""
        ...


class Folder(Protocol):
    """The folder of automations."""

    @property
    def current(self) -> AutomationSet:
        """As it was last read."""
        ...

    def refresh(self) -> bool:
        """Read it again if a file has changed; tells whether it has."""
        ...


class ActiveAutomations:
    """
    The edition that a worker matches with.

    An execution keeps the revision that it was admitted with; so a revision is kept in the database
    before the first execution can carry its name.

    Args:
        folder: The folder of automations.
        revisions: Where all revisions are kept.
        clock: Tells the time.
    """

    def __init__(self, folder: Folder, revisions: RevisionStore, clock: Clock) -> None:
        self._folder = folder
        self._revisions = revisions
        self._clock = clock
        self._edition = folder.current
        revisions.save(self._edition.automations, clock.now())
        self._log_mistakes(known=())

    @property
    def automations(self) -> Sequence[Automation]:
        """Those in force."""
        return self._edition.automations

    def matcher(self) -> Matcher:
        """Of the automations in force."""
        return self._edition.matcher

    def refresh(self) -> None:
        """Put a changed folder in force; raises `Unavailable` when its revisions cannot be kept now."""
        self._folder.refresh()
        edition = self._folder.current
        if edition is not self._edition:
            self._revisions.save(edition.automations, self._clock.now())
            known, self._edition = self._edition.errors, edition
            log.info("automations.loaded", automations=len(edition.automations), mistakes=len(edition.errors))
            self._log_mistakes(known)

    def _log_mistakes(self, known: Sequence[Exception]) -> None:
        """Say what is wrong, once: whoever saves a file looks at the log to see whether it was taken up."""
        told = set(map(str, known))
        for error in self._edition.errors:
            if str(error) not in told:
                log.warning("automations.mistake", error=str(error))
