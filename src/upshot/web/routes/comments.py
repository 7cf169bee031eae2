"""Routes of comments on versions and runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.domain.comment import Comment
from upshot.domain.registry import Change
from upshot.resources.comment import CommentJson, comment_json
from upshot.resources.urls import api_path
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, OriginDep, make_router
from upshot.web.schemas.comments import ChangedComment, CommentChange, CommentPage, CommentsQuery, NewComment
from upshot.web.schemas.responses import MutationResult, json_response, mutation_result, page_json

router = make_router("comments")

_COMMENT = "/comments/{comment_id}"


def _changed(change: Change[Comment]) -> ChangedComment:
    return {**comment_json(change.value), **mutation_result(change)}


@router.get("/comments", responses={200: {"model": CommentPage}, **problem_responses(404)})
def list_comments(deps: Deps, query: Annotated[CommentsQuery, Query()]) -> Response:
    """Return the comments on a version or on a run, the oldest first."""
    page = deps.registry.comments(query.subject, cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, comment_json))


@router.post("/comments", status_code=201, responses={201: {"model": ChangedComment}, **problem_responses(403, 404)})
def add_comment(body: NewComment, deps: Deps, origin: OriginDep) -> Response:
    """Comment on a version or on a run. The event `comment-added` has the mentioned names."""
    change = deps.registry.add_comment(body.subject, body.text, origin=origin)
    return json_response(_changed(change), 201, location=api_path("comments", change.value.id))


@router.get(_COMMENT, responses={200: {"model": CommentJson}, **problem_responses(404)})
def get_comment(comment_id: str, deps: Deps) -> Response:
    """Return a comment."""
    return json_response(comment_json(deps.registry.comment(comment_id)))


@router.patch(_COMMENT, responses={200: {"model": ChangedComment}, **problem_responses(403, 404)})
def edit_comment(comment_id: str, body: CommentChange, deps: Deps, origin: OriginDep) -> Response:
    """Change the text of a comment. Only its author and admins may. There is no event."""
    return json_response(_changed(deps.registry.edit_comment(comment_id, body.text, origin=origin)))


@router.delete(_COMMENT, responses={200: {"model": MutationResult}, **problem_responses(403, 404)})
def delete_comment(comment_id: str, deps: Deps, origin: OriginDep) -> Response:
    """Delete a comment. Only its author and admins may. There is no event."""
    return json_response(mutation_result(deps.registry.delete_comment(comment_id, origin=origin)))
