"""
Hooks of the documentation build (`mkdocs.yml`).

Pages link to files of the repository that are not pages, such as `../automations/deploy.yaml`.
These links work on a code host. The built site does not contain the files, so it shows the link's
text alone.
"""

from __future__ import annotations

import re

_LINK_OUT_OF_DOCS = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!docs/)[^)]*\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace links that leave `docs/` with their text."""
    return _LINK_OUT_OF_DOCS.sub(r"\1", markdown)
