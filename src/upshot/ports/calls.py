"""What all ports share: blocking calls off the loop, pages of lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Offload(Protocol):
    """Runs a blocking call off the event loop; tests run it in place."""

    async def __call__(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """The call's result; its error comes through."""
        ...


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; newest first, unless the verb that gives it says otherwise."""

    items: tuple[T, ...]
    next: str | None  #: cursor of the page after this one; None when this is the last
