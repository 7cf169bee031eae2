"""When artifact versions expire: their time to live (`ttl`), and what protects them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from upshot.domain.reference import LATEST
from upshot.domain.registry import Artifact, ArtifactVersion, Collection, Version
from upshot.errors import InvalidInput

NEVER = 0  #: the ttl of a version that does not expire, whatever the ttl of its artifact is
MAX_TTL_SECONDS = 36_500 * 86_400


def check_ttl(seconds: int | None, *, allow_never: bool = False) -> int | None:
    """
    Validate a time to live in seconds, and return it. None means that there is none.

    Raises:
        InvalidInput: It is not positive, or too long.
    """
    if seconds is None or (allow_never and seconds == NEVER):
        return seconds
    if not 0 < seconds <= MAX_TTL_SECONDS:
        also = "null inherits it, and 0 means never" if allow_never else "null means without limit"
        raise InvalidInput(f"ttl_seconds {seconds}: must be from 1 to {MAX_TTL_SECONDS:,} (100 years); {also}")
    return seconds


def expires_at(
    version: ArtifactVersion, artifact: Artifact, links: Iterable[tuple[Collection, Version]]
) -> datetime | None:
    """
    Return when a version expires, or None if it does not.

    A version that is in use does not expire: one that has an alias other than `latest`, in its project or in a
    collection, or that is linked to a collection without a ttl. Otherwise, the ttl of the version, or else of its
    artifact, counts from when it was logged, that of a collection from when it was linked, and the latest time decides.

    Args:
        version: The artifact version.
        artifact: Its artifact.
        links: All links to the version.
    """
    linked = tuple(links)
    aliases = {*version.aliases, *(alias for _, link in linked for alias in link.aliases)}
    if version.ttl_seconds == NEVER or aliases - {LATEST}:
        return None
    times: list[datetime] = []
    own = version.ttl_seconds if version.ttl_seconds is not None else artifact.ttl_seconds
    if own is not None:
        times.append(version.created_at + timedelta(seconds=own))
    for collection, link in linked:
        if collection.ttl_seconds is None:
            return None
        times.append(link.linked_at + timedelta(seconds=collection.ttl_seconds))
    return max(times, default=None)
