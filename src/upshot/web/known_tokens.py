"""
The named tokens as this process knows them: checked in memory, read from the database again every second.

A check costs one SHA-256 and one look-up. A token that was made a moment ago, by any process, is found in the database.
A token that was revoked through this process is refused at once, and through another process within
`MAX_AGE_SECONDS`. If the database does not answer for that long, named tokens are not checked: the request gets 503.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime

from upshot.clock import Clock, stopwatch
from upshot.domain.access import AccessToken, digest_of
from upshot.ports.access import TokenStore

REFRESH_SECONDS = 1.0  #: how often `upshot serve` reads the tokens again
MAX_AGE_SECONDS = 3.0  #: older knowledge is not used
FLUSH_SECONDS = 30.0  #: how often the times of last use are stored


class KnownTokens:
    """
    Finds tokens by their text, and remembers when they were used.

    Args:
        store: Stores tokens.
        clock: Provides the time of a use.
        seconds: A monotonic clock, for the age of what is known.
    """

    def __init__(self, store: TokenStore, clock: Clock, seconds: Callable[[], float] = stopwatch) -> None:
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self._by_digest: Mapping[str, AccessToken] = {}
        self._read_at: float | None = None
        self._uses: dict[str, datetime] = {}
        self._lock = threading.Lock()

    @property
    def is_fresh(self) -> bool:
        """Whether what is known is recent enough to be used."""
        return self._read_at is not None and self._seconds() - self._read_at < MAX_AGE_SECONDS

    @property
    def are_there_any(self) -> bool:
        """Whether there is a token that is not revoked."""
        return bool(self._by_digest)

    def now(self) -> datetime:
        """Return the time by which tokens expire."""
        return self._clock.now()

    def refresh(self) -> None:
        """
        Read the tokens from the database.

        Raises:
            Unavailable: The database does not answer.
        """
        began_at = self._seconds()
        by_digest = self._store.usable()
        with self._lock:
            if self._read_at is None or self._read_at <= began_at:
                self._by_digest, self._read_at = by_digest, began_at

    def find(self, token: str) -> AccessToken | None:
        """Return a token that is known and not revoked, without asking the database."""
        # The dictionary compares digests, not tokens: how long that takes says nothing about the token's text.
        return self._by_digest.get(digest_of(token))

    def look_up(self, token: str) -> AccessToken | None:
        """
        Return a token as the database has it, also if it is revoked; None if it has never existed.

        Raises:
            Unavailable: The database does not answer.
        """
        found = self._store.find(digest_of(token))
        if found is not None and found.revoked_at is None:
            self.refresh()
        return found

    def record_use(self, token_id: str) -> None:
        """Remember that a token was used now."""
        self._uses[token_id] = self._clock.now()

    def flush_uses(self) -> None:
        """
        Store the times of last use.

        Raises:
            Unavailable: The database does not answer. The times are kept for the next call.
        """
        uses = dict(self._uses)
        if uses:
            self._store.record_uses(uses)
            for token_id, used_at in uses.items():
                if self._uses.get(token_id) == used_at:
                    del self._uses[token_id]
