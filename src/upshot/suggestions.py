"""Suggest the word that a person probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import islice

MAX_LISTED = 20
MAX_NAMES = 200  #: that are compared; a mapping from outside can have thousands of keys
MAX_NAME_CHARS = 64  #: of a name that is compared
_MIN_SIMILARITY = 0.6  # as difflib recommends
_MAX_MEASURED = 5  # names whose similarity is measured exactly, which takes time


def did_you_mean(word: str, known: Iterable[str], *, list_known: bool = True) -> str:
    """
    Return `; did you mean 'slack'?`, to append to a message about an unknown word.

    Args:
        word: As the person wrote it. Case does not matter.
        known: The valid words. The first 200 of at most 64 characters are compared.
        list_known: If no valid word is similar, return `; choose from 'slack', 'webhook'` instead of an empty text.
    """
    known = iter(known)
    names = sorted(map(str, islice(known, MAX_NAMES)))
    if (similar := _most_similar(word, names)) is not None:
        return f"; did you mean {similar!r}?"
    if not list_known:
        return ""
    names = sorted([*names, *map(str, known)])
    if not names:
        return "; none exists yet"
    more = ", …" if len(names) > MAX_LISTED else ""
    return f"; choose from {', '.join(map(repr, names[:MAX_LISTED]))}{more}"


def _most_similar(word: str, names: Iterable[str]) -> str | None:
    if len(word) > MAX_NAME_CHARS:
        return None
    matcher = SequenceMatcher(b=word.casefold())
    estimates = []
    for name in names:
        if len(name) <= MAX_NAME_CHARS:
            matcher.set_seq1(name.casefold())
            if matcher.real_quick_ratio() >= _MIN_SIMILARITY and (estimate := matcher.quick_ratio()) >= _MIN_SIMILARITY:
                estimates.append((estimate, name))
    best, best_similarity = None, 0.0
    for _, name in nlargest(_MAX_MEASURED, estimates, key=lambda estimate: estimate[0]):
        matcher.set_seq1(name.casefold())
        similarity = matcher.ratio()
        if similarity >= _MIN_SIMILARITY and similarity > best_similarity:
            best, best_similarity = name, similarity
    return best
