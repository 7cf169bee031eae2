"""Removal of rows that are older than their retention."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from upshot.ids import ExecutionId


class Kept(StrEnum):
    """What is kept for a limited time."""

    EXECUTIONS = "executions"
    EVENTS = "events"
    RECEIPTS = "receipts"
    HISTORY = "history"
    WORKERS = "workers"
    DESTINATIONS = "destinations"
    FAULTS = "faults"


@dataclass(frozen=True, slots=True)
class Removed:
    """The result of one batch."""

    rows: int  #: number of removed rows, of which `RetentionStore.remove` lists the kinds
    last_id: str | None  #: where the next batch starts; None if nothing is left to remove


class RetentionStore(Protocol):
    """Removes old rows in batches."""

    def causes_of_unfinished(self) -> frozenset[ExecutionId]:
        """Return the executions that led to an unmatched event, or to the event of an execution that is not final."""
        ...

    def remove(
        self, kept: Kept, *, before: datetime, after_id: str, limit: int, except_for: Collection[ExecutionId] = ()
    ) -> Removed:
        """
        Remove one batch in a transaction of its own, in the order of ids.

        - Receipts that started before then, if their execution is final.
        - Final executions that ended before then, with their receipts, unless they have jobs.
        - Matched events from before then, unless an execution answers them or they are the last event of their alias.
        - History entries from before then.
        - Workers that were last seen before then.
        - What workers reported of destinations, if they last did so before then. Counted by worker.
        - Faults of automation files that ended before then.

        Args:
            kept: What to remove.
            before: Keep everything from this time on.
            after_id: Start after this id; `last_id` of the previous batch, or an empty string.
            limit: Maximum number of rows. Receipts are counted by execution.
            except_for: Executions to keep.
        """
        ...
