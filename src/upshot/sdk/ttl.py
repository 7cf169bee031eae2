"""The time to live of an artifact version, as programs write it and as the server stores it."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

from upshot.domain.expiry import NEVER
from upshot.sdk.sdk_errors import InvalidArgument


class ArtifactTTL(Enum):
    """What `Artifact.ttl` can be set to besides a time and None."""

    INHERIT = 0  #: that of the artifact


def to_seconds(ttl: timedelta | ArtifactTTL | None) -> int | None:
    """
    Return what the server calls `ttl_seconds`.

    Raises:
        InvalidArgument: It is not a positive time.
    """
    if isinstance(ttl, ArtifactTTL):
        return None
    if ttl is None:
        return NEVER
    if not isinstance(ttl, timedelta) or ttl < timedelta(seconds=1):  # type: ignore[redundant-expr]
        raise InvalidArgument(f"ttl {ttl!r}: must be a timedelta of a second or more, None, or ArtifactTTL.INHERIT")
    return int(ttl.total_seconds())


def from_seconds(seconds: int | None) -> timedelta | ArtifactTTL | None:
    """Return the time of what the server calls `ttl_seconds`."""
    if seconds is None:
        return ArtifactTTL.INHERIT
    return None if seconds == NEVER else timedelta(seconds=seconds)
