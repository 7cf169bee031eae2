"""Pages of lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list, newest first unless the method that returns it states another order."""

    items: tuple[T, ...]
    next: str | None  #: cursor of the next page; None on the last page
