"""Comments on artifact versions and runs, and the people that they mention."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from upshot.domain.event import ActorKind
from upshot.unicode_text import to_nfc

MAX_MENTION_CHARS = 128  # the length of a name

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
#: `@` and a name. What is before it tells a mention from an address such as `ada@example.com`.
_MENTION = re.compile(r"(?<![\w@/.+-])@([^\W_](?:[\w.-]*\w)?)")


@dataclass(frozen=True, slots=True)
class Comment:
    """
    A comment on an artifact version or on a run.

    A comment on a linked version belongs to the artifact version, like its tags, so all links show it.
    """

    id: str
    version_id: str | None  #: of the artifact version; None for a comment on a run
    run_id: str | None  #: internal id; None for a comment on a version
    subject: str  #: `project/artifact:v3` or `project/run`, as it is called now
    text: str
    mentions: tuple[str, ...]  #: in the order of the text, each once
    author: str
    author_kind: ActorKind
    created_at: datetime
    edited_at: datetime | None = None

    @property
    def on(self) -> str:
        """What it is about: `version` or `run`."""
        return "version" if self.run_id is None else "run"


def mentions_in(text: str) -> tuple[str, ...]:
    """Return the names that a text mentions with `@`, in order, each once. Code between backticks is not searched."""
    found = _MENTION.findall(to_nfc(_CODE.sub(" ", text)))
    return tuple(dict.fromkeys(name for name in found if len(name) <= MAX_MENTION_CHARS))
