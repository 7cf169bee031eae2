"""
Sessions of people who have signed in to the pages, the codes of sign-in links, and the nonces of forms.

A session is the text in a cookie. The database has its digest, and the token that it was opened with. It is over after
12 hours, when the token is revoked or expires, or when the token in the settings changes.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta

from upshot.clock import Clock
from upshot.domain.access import CODE_SECONDS, SESSION_HOURS, Caller, Session, caller_of, digest_of, new_secret
from upshot.ports.access import SessionStore
from upshot.web.auth import SERVER

_SUFFIX_CHARS = 8


class Sessions:
    """
    Begins, finds and ends sessions.

    Args:
        store: Stores sessions and codes.
        clock: Provides the current time.
        key: The installation's key.
        server_token: The token in the settings; None if there is none.
    """

    def __init__(self, store: SessionStore, clock: Clock, key: bytes, server_token: str | None) -> None:
        self._store = store
        self._clock = clock
        self._key = key
        self._server_mark = self._mac("server-token", server_token or "")
        #: Cookies of all ports of a host are shared, so each installation has a name of its own.
        self.cookie_name = f"upshot_session_{self._mac('cookie', '')[:_SUFFIX_CHARS]}"
        self.form_cookie_name = f"upshot_form_{self._mac('cookie', '')[:_SUFFIX_CHARS]}"

    def begin(self, caller: Caller) -> str:
        """Begin a session for a caller, and return its text."""
        return self._begin(caller.token_id, self._server_mark)

    def find(self, text: str) -> Caller | None:
        """Return whose session this is; None if it is over."""
        found = self._store.find(digest_of(text), self._clock.now())
        if found is None:
            return None
        session, token = found
        if token is not None:
            return caller_of(token)
        return SERVER if session.server_mark == self._server_mark else None

    def end(self, text: str) -> None:
        """End a session."""
        self._store.remove(digest_of(text))

    def make_code(self, caller: Caller) -> str:
        """Make a code that opens one session for the caller, within a minute."""
        code = new_secret()
        expires_at = self._clock.now() + timedelta(seconds=CODE_SECONDS)
        self._store.add_code(digest_of(code), Session(caller.token_id, self._server_mark, expires_at))
        return code

    def redeem(self, code: str) -> str | None:
        """Begin the session of a code, and return its text; None if the code was used, has expired or is unknown."""
        made_for = self._store.use_code(digest_of(code), self._clock.now())
        return None if made_for is None else self._begin(made_for.token_id, made_for.server_mark)

    def form_token(self, binding: str) -> str:
        """
        Return what a form must send, so that a page of another site cannot send it.

        Args:
            binding: Text of the session, or of the form's cookie for people who have not signed in.
        """
        return self._mac("form", binding)

    def is_form_token(self, text: str, binding: str) -> bool:
        """Return whether a form of this browser sent a text."""
        return bool(binding) and hmac.compare_digest(text.encode(), self.form_token(binding).encode())

    def _begin(self, token_id: str | None, server_mark: str) -> str:
        text = new_secret()
        expires_at = self._clock.now() + timedelta(hours=SESSION_HOURS)
        self._store.add(digest_of(text), Session(token_id, server_mark, expires_at))
        return text

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()
