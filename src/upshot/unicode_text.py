"""Unicode text: one form for texts that look the same, and characters that nobody sees."""

from __future__ import annotations

import unicodedata


def to_nfc(text: str) -> str:
    """Return a text in its composed form (NFC). Keyboards write this form; file names of macOS are decomposed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
