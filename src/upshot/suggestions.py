"""Suggest the word that a person probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LISTED = 20


def did_you_mean(word: str, known: Iterable[str], *, list_known: bool = True) -> str:
    """
    Return `; did you mean 'slack'?`, to append to a message about an unknown word.

    Args:
        word: As the person wrote it. Case does not matter.
        known: The valid words.
        list_known: If no valid word is similar, return `; choose from 'slack', 'webhook'` instead of an empty text.
    """
    names = sorted(map(str, known))
    folded = {name.casefold(): name for name in reversed(names)}
    if close := get_close_matches(word.casefold(), folded, n=1):
        return f"; did you mean {folded[close[0]]!r}?"
    if not list_known:
        return ""
    if not names:
        return "; none exists yet"
    more = ", …" if len(names) > MAX_LISTED else ""
    return f"; choose from {', '.join(map(repr, names[:MAX_LISTED]))}{more}"
