"""The project is written in plain English, with the field's own words."""

from __future__ import annotations

import re

import pytest

from tests.project.repository import tracked_texts

#: Metaphors that once named things here, each with the word to use.
PRIVATE_WORDS = {
    r"doorbells?": "notifier",
    r"lookouts?": "engine monitor",
    r"keepers?": "supervisor",
    r"clerks?": "builder",
    r"errands?": "request",
    r"parking": "backoff",
    r"house(?:s|hold)?": "dependencies",
    r"strangers?": "orphan",
    r"survivors?": "orphan",
    r"sightings?": "status",
    r"lifelines?": "watchdog",
    r"tall(?:y|ies)": "counter",
    r"ceilings?": "limit",
    r"stor(?:y|ies)": "scenario",
}

#: Phrases that make a reader stop and reread, each with what to write.
PHRASES = {
    r"cannot be meant": "is invalid",
    r"for ever": "always, or until …",
    r"who(?:m)?ever": "anyone who",
    r"of (?:ours|theirs|yours)": "our, their, your",
    r"none of (?:this|that) name": "no … named",
    r"is no (?:wall|string|base|number|object|mapping)": "is not a …",
    r"(?:is|are|was|be) told": "is notified, is reported",
    r"shall": "must, or the present tense",
    r"hangs? up": "disconnects",
    r"lets? go of": "releases",
    r"sees? to": "handles",
    r"bears? (?:a|the) token": "has a token",
    r"nobody(?:'s)? (?:takes|holds)": "no worker takes",
    r"without further ado": "leave it out",
    r"and so on and so forth": "leave it out",
    r"in (?:one|all) its forms?": "name the forms",
    r"goes? on with": "continues with",
    r"what(?:ever)? (?:it|one) is (?:given|asked)": "name the thing",
}


def _violations(words: dict[str, str]) -> list[str]:
    pattern = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)
    found = []
    for path, text in tracked_texts():
        for number, line in enumerate(text.splitlines(), 1):
            for match in pattern.finditer(re.sub(r"[_-]", " ", line)):
                say = next(say for word, say in words.items() if re.fullmatch(word, match.group(), re.IGNORECASE))
                found.append(f"{path}:{number}: {match.group()!r}; write: {say}")
    return found


@pytest.mark.parametrize("words", [PRIVATE_WORDS, PHRASES], ids=["private words", "phrases"])
def test_words_that_must_not_come_back(words):
    """No file uses a word or phrase from the lists above."""
    assert not _violations(words)
