"""Unicode text: one form for texts that look the same, and invisible characters."""

from __future__ import annotations

import unicodedata

_MAX_CHARS = 512
_INVISIBLE_CATEGORIES = frozenset(
    {"Cc", "Cf", "Cs", "Zl", "Zp"}
)  # control, format (bidirectional too), surrogate, line
#: Other characters without a shape, from Unicode's list of default ignorable code points.
_INVISIBLE = frozenset(
    map(
        chr,
        (
            0x034F,
            *range(0x115F, 0x1161),
            *range(0x17B4, 0x17B6),
            *range(0x180B, 0x1810),
            0x3164,
            *range(0xFE00, 0xFE10),
            0xFFA0,
            *range(0xFFF0, 0xFFF9),
            *range(0xE0000, 0xE1000),
        ),
    )
)
_BLANK_BRAILLE = "\u2800"
_EMOJI_STYLES = "\ufe0e\ufe0f"  # after a symbol, they select text or emoji presentation


def to_nfc(text: str) -> str:
    """
    Return a text in its composed form (NFC). Keyboards write this form; file names of macOS are decomposed.

    A text of more than 512 characters stays as it is, because converting it takes quadratic time at worst.
    """
    return text if text.isascii() or len(text) > _MAX_CHARS else unicodedata.normalize("NFC", text)


def find_invisible(text: str) -> str | None:
    """
    Return the first invisible character of a text: a control, zero-width or bidirectional character.

    Returns:
        Its code point and name, such as `U+200B (ZERO WIDTH SPACE)`, or None.
    """
    if text.isascii() and text.isprintable():
        return None
    before = ""
    for character in text:
        is_invisible = unicodedata.category(character) in _INVISIBLE_CATEGORIES or character in _INVISIBLE
        if is_invisible and not (character in _EMOJI_STYLES and before and unicodedata.category(before) == "So"):
            return _describe(character)
        before = character
    return None


def find_odd_space(text: str) -> str | None:
    """Return the first character that looks like a space and is none, such as `U+00A0 (NO-BREAK SPACE)`, or None."""
    if text.isascii():
        return None
    odd = (char for char in text if char == _BLANK_BRAILLE or (char != " " and unicodedata.category(char) == "Zs"))
    return next(map(_describe, odd), None)


def _describe(character: str) -> str:
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character')})"


def to_storable_text(text: str) -> str:
    """Replace NUL, which PostgreSQL rejects, and lone surrogates, which UTF-8 cannot encode."""
    valid = text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return valid.replace("\x00", "\ufffd")
