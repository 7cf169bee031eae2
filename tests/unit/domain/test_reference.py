"""Names have one Unicode form, and every character of them can be seen."""

from __future__ import annotations

import pytest

from upshot.domain.reference import check_alias, check_name, parse_reference, spellings
from upshot.errors import InvalidInput

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_a_name_is_composed():
    """What macOS writes as two characters is stored as one."""
    assert check_name(DECOMPOSED, "collection") == check_name(COMPOSED, "collection") == COMPOSED
    assert check_alias(DECOMPOSED) == COMPOSED
    assert spellings(DECOMPOSED, "alias") == (DECOMPOSED, COMPOSED)
    assert spellings(COMPOSED, "alias") == (COMPOSED,)


@pytest.mark.parametrize("character", ["\u00a0", "\u2009", "\u202f", "\u3000", "\u2800"])
def test_a_character_that_looks_like_a_space_is_refused(character):
    """A new name has plain spaces only. A name that has another one already is still found."""
    with pytest.raises(InvalidInput, match="looks like a space; write a space"):
        check_name(f"model{character}card", "collection")
    assert spellings(f"model{character}card", "collection")[0] == f"model{character}card"
    assert check_name("model card", "collection") == "model card"


@pytest.mark.parametrize(
    "character",
    [
        *("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u180e"),  # zero width
        *("\u200e", "\u200f", "\u061c", "\u202a", "\u202e", "\u2066", "\u2069"),  # bidirectional
        *("\x00", "\t", "\n", "\x7f", "\x85", "\u2028"),  # control
        *("\u034f", "\u3164", "\u115f", "\ufe0f", "\U000e0041", "\ud800"),  # without a shape
    ],
)
def test_a_character_that_nobody_sees_is_refused(character):
    """Otherwise two names would look the same. Ends of a name are no exception."""
    for name in (f"prod{character}uction", f"production{character}", f"{character}production"):
        with pytest.raises(InvalidInput, match=r"remove it|not allowed|begin or end"):
            check_name(name, "alias")


@pytest.mark.parametrize(
    "name", ["模型", "größe", "модель", "مدل", "🚀", "⚠\ufe0f", "a b", "क्षि", "bert[base]", "Ω", "naïve*"]
)
def test_letters_of_all_languages_and_symbols_are_allowed(name):
    """A symbol can be followed by the sign that makes a picture of it."""
    assert check_name(name, "tag")


def test_the_message_names_the_character():
    """The place, the code point and its name, and the remedy."""
    with pytest.raises(InvalidInput, match=r"^alias 'a\\u200bb': the character U\+200B \(ZERO WIDTH SPACE\) cannot be"):
        check_name("a\u200bb", "alias")


def test_an_old_name_can_be_referred_to():
    """A name that an earlier release accepted can be read and removed."""
    assert parse_reference("model/churn:prod\u200b").version == "prod\u200b"


def test_a_long_text_is_refused_quickly():
    """A text that takes long to convert is too long for a name."""
    with pytest.raises(InvalidInput, match="at most 128"):
        check_name("a" + "\u0301\u0323" * 500_000, "alias")
