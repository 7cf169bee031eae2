"""Comments on versions and runs: add, read, edit and delete them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from upshot.domain.comment import Comment, mentions_in
from upshot.domain.event import Actor, EventKind, Origin, Role
from upshot.domain.registry import ArtifactVersion, Change, Version
from upshot.domain.run import Run
from upshot.errors import Forbidden, InvalidInput, NotFound
from upshot.ids import new_id
from upshot.ports.paging import Page
from upshot.ports.registry import RegistryView
from upshot.registry.inputs import check_comment
from upshot.registry.lookup import find_artifact, find_collection, find_version_anywhere
from upshot.registry.mutation import Mutation
from upshot.registry.run_lookup import find_run
from upshot.registry.snapshots import version_context
from upshot.registry.transaction import RegistryTransactions, artifact_lock, run_lock
from upshot.resources.comment import comment_json
from upshot.resources.run import run_reference

MAX_COMMENTS = 1_000  #: on one version or run
MAX_MENTIONS = 50  #: in one comment


@dataclass(frozen=True, slots=True)
class CommentSubject:
    """What a comment is about: exactly one of the two."""

    version: str | None = None  #: a reference or an id
    run: str | None = None  #: `project/run`


_Found = Version | ArtifactVersion | Run


class Comments(RegistryTransactions):
    """Methods for comments."""

    def add_comment(self, subject: CommentSubject, text: str, *, origin: Origin) -> Change[Comment]:
        """
        Comment on a version or a run.

        Args:
            subject: What the comment is about.
            text: Markdown. `@name` mentions someone.
            origin: Who comments.
        """
        mentions = _mentions(check_comment(text))

        def work(mutation: Mutation) -> Comment:
            tx = mutation.tx
            tx.lock([_lock(_find(tx, subject))])
            found = _find(tx, subject)  # it may have been deleted before the lock
            version_id, run_id = _ids(found)
            if tx.count_comments(version_id, run_id) >= MAX_COMMENTS:
                raise InvalidInput(f"{_reference(found)} has {MAX_COMMENTS:,} comments already; delete some first")
            comment = Comment(
                id=new_id("com", mutation.now),
                version_id=version_id,
                run_id=run_id,
                subject=_stored_reference(found),
                text=text,
                mentions=mentions,
                author=origin.actor.name,
                author_kind=origin.actor.kind,
                created_at=mutation.now,
            )
            tx.add_comment(comment)
            _record(mutation, found, comment)
            mutation.created = True
            return comment

        return self._change(work, origin=origin)

    def comment(self, comment_id: str) -> Comment:
        """Return a comment."""
        return self._store.read(lambda view: _find_comment(view, comment_id))

    def comments(self, subject: CommentSubject, *, cursor: str | None, limit: int) -> Page[Comment]:
        """Return the comments on a version or a run, the oldest first."""

        def work(view: RegistryView) -> Page[Comment]:
            version_id, run_id = _ids(_find(view, subject))
            return view.page_comments(version_id, run_id, cursor=cursor, limit=limit)

        return self._store.read(work)

    def edit_comment(self, comment_id: str, text: str, *, origin: Origin) -> Change[Comment]:
        """
        Change the text of a comment. This makes no event.

        Raises:
            Forbidden: Someone else wrote it, and the actor is not an admin.
        """
        mentions = _mentions(check_comment(text))

        def work(mutation: Mutation) -> Comment:
            before = _find_comment(mutation.tx, comment_id)
            _check_author(before, origin.actor, "edit")
            if text == before.text:
                return before
            after = replace(before, text=text, mentions=mentions, edited_at=mutation.now)
            mutation.tx.update_comment(after)
            mutation.add_history(
                "edit-comment",
                before.subject,
                before={"comment": before.id, "mentions": list(before.mentions)},
                after={"comment": after.id, "mentions": list(after.mentions)},
            )
            return after

        return self._change(work, origin=origin)

    def delete_comment(self, comment_id: str, *, origin: Origin) -> Change[Comment]:
        """
        Delete a comment. Its text remains only in the event that was made when it was written.

        Raises:
            Forbidden: Someone else wrote it, and the actor is not an admin.
        """

        def work(mutation: Mutation) -> Comment:
            comment = _find_comment(mutation.tx, comment_id)
            _check_author(comment, origin.actor, "delete")
            mutation.tx.remove_comment(comment.id)
            before = {"comment": comment.id, "author": comment.author, "mentions": list(comment.mentions)}
            mutation.add_history("delete-comment", comment.subject, before=before)
            return comment

        return self._change(work, origin=origin)


def _mentions(text: str) -> tuple[str, ...]:
    mentions = mentions_in(text)
    if len(mentions) > MAX_MENTIONS:
        raise InvalidInput(f"comment: it mentions {len(mentions)} names; at most {MAX_MENTIONS} are allowed")
    return mentions


def _check_author(comment: Comment, actor: Actor, verb: str) -> None:
    is_author = (comment.author, comment.author_kind) == (actor.name, actor.kind)
    if not is_author and actor.role is not Role.ADMIN:
        raise Forbidden(f"{comment.author} wrote comment {comment.id}; only the author or an admin may {verb} it")


def _find_comment(view: RegistryView, comment_id: str) -> Comment:
    comment = view.comment(comment_id)
    if comment is None:
        raise NotFound(f"there is no comment {comment_id!r}; it may have been deleted")
    return comment


def _find(view: RegistryView, subject: CommentSubject) -> _Found:
    if subject.version is not None:
        return find_version_anywhere(view, subject.version)
    project, separator, run_id = (subject.run or "").partition("/")
    if not separator:
        raise InvalidInput(f"run: {subject.run!r} is not a run; write PROJECT/RUN")
    return find_run(view, project, run_id)


def _ids(found: _Found) -> tuple[str | None, str | None]:
    """Return the id of the artifact version and the internal id of the run; one of them is None."""
    return (None, found.summary.id) if isinstance(found, Run) else (found.artifact_version.id, None)


def _lock(found: _Found) -> str:
    if isinstance(found, Run):
        return run_lock(found.summary.project, found.summary.run_id)
    return artifact_lock(found.artifact_version.project, found.artifact_version.artifact_name)


def _reference(found: _Found) -> str:
    return found.summary.reference if isinstance(found, Run) else found.reference


def _stored_reference(found: _Found) -> str:
    return found.summary.reference if isinstance(found, Run) else found.artifact_version.reference


def _record(mutation: Mutation, found: _Found, comment: Comment) -> None:
    """Add the event and the history entry of a new comment."""
    collection = None
    if isinstance(found, Run):
        context = {
            "project": {"name": found.summary.project},
            "run": run_reference(found.summary, mutation.base_url),
        }
    else:
        if isinstance(found, Version):
            collection = find_collection(mutation.tx, found.registry, found.collection)
        series = collection or find_artifact(
            mutation.tx, found.artifact_version.project, found.artifact_version.artifact_name
        )
        context = version_context(series, found, mutation.base_url)
    data = {
        **context,
        "on": comment.on,
        "comment": comment_json(comment),
        "mentions": list(comment.mentions),
    }
    mutation.add_event(EventKind.COMMENT_ADDED, _reference(found), data)
    after = {"comment": comment.id, "mentions": list(comment.mentions)}
    mutation.add_history("add-comment", _reference(found), collection, after=after)
