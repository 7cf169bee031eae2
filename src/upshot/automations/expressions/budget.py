"""What a render may use: work and output. Everything that templates compute is counted before it is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_OUTPUT_BYTES = 64 * 1024  #: of everything that one step renders, and of any string on the way


MAX_WORK = 300_000  #: units: one for each evaluated node of a template or 64 characters; about 0.1 s in all


class RenderError(Exception):
    """A template cannot do this with a value. The message contains a remedy and never the value."""


class TooCostly(Exception):
    """A render costs more than `RenderBudget.limit` allows here. Nothing is wrong with the template."""


class RenderBudget(threading.local):
    """What the current render may still use. Each thread renders one template at a time."""

    max_work = MAX_WORK
    work = MAX_WORK
    output = MAX_OUTPUT_BYTES

    @property
    def is_limited(self) -> bool:
        """Whether a render may use only a part of the work here."""
        return self.max_work < MAX_WORK

    @contextmanager
    def limit(self, units: int) -> Iterator[None]:
        """Allow each render only so much work. A render that needs more raises TooCostly."""
        self.max_work = units
        try:
            yield
        finally:
            self.max_work = MAX_WORK

    def reset(self) -> None:
        """Start a render."""
        self.work = self.max_work
        self.output = MAX_OUTPUT_BYTES

    def spend(self, units: int) -> None:
        """Count work. Raises RenderError if it is too much, or TooCostly if it is too much only here."""
        self.work -= units
        if self.work < 0:
            if self.is_limited:
                raise TooCostly
            raise RenderError("this is too much work for a template; loop over less, or send the data as it is")

    def emit(self, size_bytes: int) -> None:
        """Count output. Raises RenderError if it is too long."""
        self.output -= size_bytes
        if self.output < 0:
            raise RenderError(f"the result is longer than {MAX_OUTPUT_BYTES // 1024} KB; send less of it")


BUDGET = RenderBudget()
