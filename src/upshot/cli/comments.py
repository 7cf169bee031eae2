"""`upshot comments`."""

from __future__ import annotations

import sys
from typing import Any

import click

from upshot.cli.api_commands import api_command, limit_option
from upshot.cli.waiting import Finish, wait_option
from upshot.client.http import Client, api_path
from upshot.console import Output, local_time

_on_run = click.option("--run", "is_run", is_flag=True, help="SUBJECT is a run: PROJECT/RUN.")


@click.group()
def comments() -> None:
    """
    Comment on versions and runs; list, edit and delete comments.

    SUBJECT is a version such as model/churn:v3 or project/artifact:v0, or with --run a run, PROJECT/RUN. A comment on
    a version belongs to the artifact version, so all its links show it.
    """


@comments.command()
@click.argument("subject")
@click.argument("text")
@_on_run
@wait_option
@api_command
def add(client: Client, output: Output, subject: str, text: str, *, is_run: bool, finish: Finish) -> None:
    """
    Comment on SUBJECT. TEXT is Markdown, `@name` mentions someone, and `-` reads it from standard input.

    The event `comment-added` triggers automations, which can notify those who are mentioned.
    """
    body = {**_subject(subject, is_run=is_run), "text": _text(text)}
    added = client.post("/comments", body)
    mentions = f"; it mentions {', '.join(added['mentions'])}" if added["mentions"] else ""
    finish(client, output, added, f"added comment {added['id']} on {added['subject']}{mentions}")


@comments.command("list")
@click.argument("subject")
@_on_run
@limit_option(100)
@api_command
def list_comments(client: Client, output: Output, subject: str, *, is_run: bool, limit: int) -> None:
    """List the comments on SUBJECT, the oldest first."""
    listed = client.items("/comments", limit=limit, **_subject(subject, is_run=is_run))
    if output.as_json:
        output.json(listed)
        return
    for comment in listed:
        edited = ", edited" if comment["edited_at"] else ""
        output.line(f"{comment['id']}  {comment['author']}, {local_time(comment['created_at'])}{edited}")
        output.text(comment["text"], indent=2)
    if not listed:
        output.line(f"there are no comments on {subject}")


@comments.command()
@click.argument("comment")
@click.argument("text")
@api_command
def edit(client: Client, output: Output, comment: str, text: str) -> None:
    """Replace the text of COMMENT, an id. Only its author and admins may. `-` reads TEXT from standard input."""
    edited = client.patch(api_path("comments", comment), {"text": _text(text)})
    output.result(edited, f"edited comment {edited['id']}")


@comments.command()
@click.argument("comment")
@api_command
def delete(client: Client, output: Output, comment: str) -> None:
    """
    Delete COMMENT, an id. Only its author and admins may.

    The event that was made when it was written keeps the text until events of that age are removed.
    """
    deleted = client.delete(api_path("comments", comment))
    output.result(deleted, f"deleted comment {comment}")


def _subject(subject: str, *, is_run: bool) -> dict[str, Any]:
    return {"run" if is_run else "version": subject}


def _text(text: str) -> str:
    return sys.stdin.read() if text == "-" else text
