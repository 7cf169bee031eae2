"""The errors of the SDK. Those for a wrong argument are also a ValueError, as in W&B's SDK."""

from __future__ import annotations

from upshot.errors import UpshotError


class InvalidArgument(UpshotError, ValueError):
    """An argument is invalid: a name, a reference, a type, a file."""


class NotLogged(UpshotError, AttributeError):
    """The artifact has no version yet. Wait for it, or log it first."""


class WaitTimeout(UpshotError, TimeoutError):
    """The artifact is not uploaded yet. Wait for it again."""


class AlreadyLogged(UpshotError, ValueError):
    """The artifact has been logged, so nothing can be added to it."""


class NoRun(UpshotError):
    """There is no run: `upshot.init()` was not called, or the run has finished."""


class NoRunValue(NoRun, AttributeError):
    """There is no run, so there is no `upshot.config` and no `upshot.summary`."""


class NotBuilt(UpshotError, NotImplementedError):
    """This release does not have this function."""
