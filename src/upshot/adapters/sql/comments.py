"""Comments in SQL."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from upshot.adapters.sql.schema import artifact_versions, artifacts, comments, projects, runs
from upshot.domain.comment import Comment
from upshot.domain.event import ActorKind

_run_projects = projects.alias("run_projects")
_SELECT = (
    sa.select(
        comments,
        artifacts.c.name.label("artifact"),
        artifact_versions.c.number,
        projects.c.name.label("project"),
        runs.c.run_id.label("run"),
        _run_projects.c.name.label("run_project"),
    )
    .outerjoin(artifact_versions, artifact_versions.c.id == comments.c.artifact_version_id)
    .outerjoin(artifacts, artifacts.c.id == artifact_versions.c.artifact_id)
    .outerjoin(projects, projects.c.id == artifacts.c.project_id)
    .outerjoin(runs, runs.c.id == comments.c.run_id)
    .outerjoin(_run_projects, _run_projects.c.id == runs.c.project_id)
)
_COMMENT = _SELECT.where(comments.c.id == sa.bindparam("id"))
_SUBJECTS = {"version": comments.c.artifact_version_id, "run": comments.c.run_id}
_PAGES = {
    on: _SELECT.where(column == sa.bindparam("subject"), comments.c.id > sa.bindparam("after"))
    .order_by(comments.c.id)
    .limit(sa.bindparam("limit"))
    for on, column in _SUBJECTS.items()
}
_COUNTS = {
    on: sa.select(sa.func.count()).select_from(comments).where(column == sa.bindparam("subject"))
    for on, column in _SUBJECTS.items()
}
_ADD = sa.insert(comments)
_UPDATE = (
    sa.update(comments)
    .where(comments.c.id == sa.bindparam("key_id"))
    .values({name: sa.bindparam(name) for name in ("text", "mentions", "edited_at")})
)
_REMOVE = sa.delete(comments).where(comments.c.id == sa.bindparam("id"))
#: Removes the comments on an artifact version with this `id`.
REMOVE_OF_VERSION = sa.delete(comments).where(comments.c.artifact_version_id == sa.bindparam("id"))


def find_comment(connection: Connection, comment_id: str) -> Comment | None:
    """Return a comment, or None."""
    row = connection.execute(_COMMENT, {"id": comment_id}).first()
    return _comment(row) if row else None


def page_comments(
    connection: Connection, version_id: str | None, run_id: str | None, after: str, limit: int
) -> list[Comment]:
    """Return comments on a version or a run whose ids are above one, the oldest first."""
    on, subject = ("version", version_id) if run_id is None else ("run", run_id)
    rows = connection.execute(_PAGES[on], {"subject": subject, "after": after, "limit": limit})
    return [_comment(row) for row in rows]


def count_comments(connection: Connection, version_id: str | None, run_id: str | None) -> int:
    """Return the number of comments on a version or a run."""
    on, subject = ("version", version_id) if run_id is None else ("run", run_id)
    count: int = connection.execute(_COUNTS[on], {"subject": subject}).scalar_one()
    return count


def add_comment(connection: Connection, comment: Comment) -> None:
    """Add a comment."""
    row = {
        "id": comment.id,
        "artifact_version_id": comment.version_id,
        "run_id": comment.run_id,
        "text": comment.text,
        "mentions": comment.mentions,
        "author": comment.author,
        "author_kind": comment.author_kind.value,
        "created_at": comment.created_at,
        "edited_at": comment.edited_at,
    }
    connection.execute(_ADD, row)


def update_comment(connection: Connection, comment: Comment) -> None:
    """Change the text of a comment, unless it was removed."""
    values = {"text": comment.text, "mentions": comment.mentions, "edited_at": comment.edited_at}
    connection.execute(_UPDATE, {**values, "key_id": comment.id})


def remove_comment(connection: Connection, comment_id: str) -> None:
    """Remove a comment."""
    connection.execute(_REMOVE, {"id": comment_id})


def _comment(row: Row[Any]) -> Comment:
    is_version = row.artifact_version_id is not None
    return Comment(
        id=row.id,
        version_id=row.artifact_version_id,
        run_id=row.run_id,
        subject=f"{row.project}/{row.artifact}:v{row.number}" if is_version else f"{row.run_project}/{row.run}",
        text=row.text,
        mentions=tuple(row.mentions),
        author=row.author,
        author_kind=ActorKind(row.author_kind),
        created_at=row.created_at,
        edited_at=row.edited_at,
    )
