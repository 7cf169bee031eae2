"""How often steps were attempted, with what result, and how long the attempts took. For metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

#: Upper bounds of the classes of durations. The columns of the database are their positions.
BUCKETS_SECONDS = (0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)


class DeliveryKey(NamedTuple):
    """What attempts are counted by."""

    action: str
    destination: str  #: scheme, host and port, and the names of the secrets; empty for a step that sends nothing
    result: str  #: state of the attempt, such as `succeeded`


@dataclass(frozen=True, slots=True)
class DeliveryCount:
    """The attempts with one key."""

    attempts: int = 0
    seconds: float = 0.0  #: sum of their durations
    buckets: tuple[int, ...] = (0,) * len(BUCKETS_SECONDS)  #: attempts by the smallest bound that they did not exceed

    def __add__(self, other: DeliveryCount) -> DeliveryCount:
        """Return the count of both."""
        buckets = tuple(own + more for own, more in zip(self.buckets, other.buckets, strict=True))
        return DeliveryCount(self.attempts + other.attempts, self.seconds + other.seconds, buckets)


class DeliveryStore(Protocol):
    """Counts of attempts since the installation was created, over all workers."""

    def add(self, counts: Mapping[DeliveryKey, DeliveryCount]) -> None:
        """Add to the counts, all at once."""
        ...

    def read(self) -> Mapping[DeliveryKey, DeliveryCount]:
        """Return all counts."""
        ...
