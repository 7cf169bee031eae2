"""Requests and responses about comments."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from upshot.registry.comments import CommentSubject
from upshot.registry.inputs import MAX_COMMENT_CHARS
from upshot.resources.comment import CommentJson
from upshot.validation import invalid
from upshot.web.schemas.requests import PageQuery, RequestBody
from upshot.web.schemas.responses import MutationResult, NextPage

_VERSION = "A version: `model/churn:v3`, `project/artifact:v0`, or its id. A comment belongs to the artifact version."
_RUN = "A run: `PROJECT/RUN`."


def _subject(version: str | None, run: str | None) -> CommentSubject:
    if (version is None) == (run is None):
        raise invalid("give either `version` or `run`")
    return CommentSubject(version, run)


class NewComment(RequestBody):
    """A comment on a version or on a run."""

    version: str | None = Field(None, max_length=1_000, description=_VERSION)
    run: str | None = Field(None, max_length=1_000, description=_RUN)
    text: str = Field(
        description=f"Markdown, up to {MAX_COMMENT_CHARS:,} characters. `@name` mentions someone, except in code."
    )

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        _subject(self.version, self.run)
        return self

    @property
    def subject(self) -> CommentSubject:
        """What the comment is about."""
        return _subject(self.version, self.run)


class CommentChange(RequestBody):
    """The new text of a comment."""

    text: str = Field(description="Replaces the text. The mentions follow from it.")


class CommentsQuery(PageQuery):
    """Which comments to list: those on one version or on one run."""

    version: str | None = Field(None, max_length=1_000, description=_VERSION)
    run: str | None = Field(None, max_length=1_000, description=_RUN)

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        _subject(self.version, self.run)
        return self

    @property
    def subject(self) -> CommentSubject:
        """What the comments are about."""
        return _subject(self.version, self.run)


class ChangedComment(CommentJson, MutationResult):
    """A comment, and what its change caused."""


class CommentPage(NextPage):
    """A page of comments, the oldest first."""

    items: list[CommentJson]
