"""A comment on a version or a run."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_optional_time, format_time
from upshot.domain.comment import Comment


class CommentJson(TypedDict):
    """A comment on a version or a run."""

    id: str
    on: str  #: `version` or `run`
    subject: str  #: `project/artifact:v3` or `project/run`
    text: str  #: Markdown
    mentions: list[str]  #: names after `@`, in the order of the text
    author: str
    author_kind: str  #: `user`, `service`, `automation` or `job`
    created_at: str
    edited_at: str | None  #: null if it was never edited


def comment_json(comment: Comment) -> CommentJson:
    """Return the JSON object of a comment."""
    return {
        "id": comment.id,
        "on": comment.on,
        "subject": comment.subject,
        "text": comment.text,
        "mentions": list(comment.mentions),
        "author": comment.author,
        "author_kind": comment.author_kind.value,
        "created_at": format_time(comment.created_at),
        "edited_at": format_optional_time(comment.edited_at),
    }
