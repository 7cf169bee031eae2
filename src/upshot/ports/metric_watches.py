"""Conditions on metrics of runs: which automations watch what, and whether a condition holds for a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from upshot.domain.automation import ActiveWatch
from upshot.domain.run import Run


@dataclass(frozen=True, slots=True)
class ConditionState:
    """Whether the condition of an automation held for a run after its last point."""

    automation: str
    condition_id: str  #: `MetricWatch.key`
    is_true: bool
    recent: tuple[float, ...]  #: the newest points that the next evaluation needs, oldest first
    updated_at: datetime


class MetricWatches(Protocol):
    """Finds the automations that watch a metric of a run."""

    def refresh(self) -> None:
        """
        Read what automations watch, if that was long ago.

        Raises:
            Unavailable: The database does not answer.
        """
        ...

    def find(self, run: Run, actor: str, metrics: Collection[str]) -> Sequence[ActiveWatch]:
        """
        Return what automations in force watch these metrics of this run for.

        Args:
            run: The run that logs.
            actor: Name of who logs.
            metrics: Names of the metrics that have new points.
        """
        ...


class NoMetricWatches(MetricWatches):
    """Nobody watches anything."""

    def refresh(self) -> None:
        """Do nothing."""

    def find(self, run: Run, actor: str, metrics: Collection[str]) -> Sequence[ActiveWatch]:
        """Return nothing."""
        return ()


class ConditionStates(Protocol):
    """The part of a registry transaction that stores the states of conditions. A run is named by its internal id."""

    def condition_states(self, run: str) -> tuple[ConditionState, ...]:
        """Return the states of all conditions of a run."""
        ...

    def save_condition_states(self, run: str, states: Iterable[ConditionState]) -> None:
        """Add or replace states."""
        ...
