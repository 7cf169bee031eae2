"""Find and read the files of this repository."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_OUR_TEXT = {"LICENSE", "schemas.json", "test_language.py", "+names.changed.md"}  # the last two quote old words


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the code blocks in these languages on all pages."""
    return [
        Block(page, text[: found.start()].count("\n") + 1, found["language"], found["text"])
        for page in PAGES
        if (text := page.read_text())
        for found in _FENCE.finditer(text)
        if found["language"] in languages
    ]


def tracked_files() -> list[Path]:
    """Return every file that is under version control, or would be added to it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def tracked_texts() -> Iterator[tuple[Path, str]]:
    """Yield the path (relative to the root) and text of every tracked file that people here have written."""
    for path in tracked_files():
        if path.suffix in {".lock", ".png", ".csv"} or path.name in _NOT_OUR_TEXT or "vendor" in path.parts:
            continue
        yield path.relative_to(ROOT), path.read_text()
