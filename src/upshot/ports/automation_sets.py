"""The sets of automations that workers have loaded, and which worker has which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from upshot.ids import RevisionId, WorkerId


class SetQuality(StrEnum):
    """What loading a set has found."""

    SOUND = "sound"  #: at least one automation, and no mistakes
    PARTIAL = "partial"  #: there are mistakes, or there is no automation, so something may be missing
    UNUSABLE = "unusable"  #: the folder cannot be read, or nothing in it is valid


@dataclass(frozen=True, slots=True)
class SetMember:
    """One automation of a set."""

    revision_id: RevisionId
    enabled: bool


SetContent = Mapping[str, SetMember]  #: by the name of the automation


@dataclass(frozen=True, slots=True)
class Holding:
    """The set that a worker has, as of its last report."""

    worker_id: WorkerId
    source: str  #: where its files come from; a new worker with the same source takes the place of an old one
    digest: str
    quality: SetQuality
    held_at: datetime
    matches: bool = False  #: whether it matched events then
    difference: str | None = None  #: from the set in force; None if it has that
    has_ended: bool = False  #: the worker has ended for certain


@dataclass(frozen=True, slots=True)
class KnownSets:
    """All sets with a number, and all holdings."""

    numbers: Mapping[str, int] = field(default_factory=dict)  #: by digest; zero and less are provisional
    holdings: Mapping[WorkerId, Holding] = field(default_factory=dict)  #: including workers that have ended

    def number_of(self, digest: str) -> int | None:
        """Return the number of a set, or None if it has none or a provisional one."""
        number = self.numbers.get(digest, 0)
        return number if number > 0 else None


class AutomationSetStore(Protocol):
    """Sets of automations and their holders."""

    def read(self) -> KnownSets:
        """Return what is known."""
        ...

    def content(self, digest: str) -> SetContent:
        """Return the automations of a set with a number; empty if it is unknown."""
        ...

    def hold(self, holding: Holding) -> None:
        """Replace the holding of a worker."""
        ...

    def end(self, worker_id: WorkerId) -> None:
        """Record that a worker has ended for certain."""
        ...

    def assign_number(
        self, holding: Holding, content: SetContent, next_number: Callable[[KnownSets], int | None]
    ) -> KnownSets:
        """
        Give the set of a holding a number, unless that is not needed any more.

        Workers that do this at the same time take turns.

        Args:
            holding: Stored, too.
            content: The automations of the set.
            next_number: Returns the number for what is known when it is the worker's turn, or None.

        Returns:
            What is known afterwards.
        """
        ...
