"""A click group that imports a command when it is called, so that `upshot --help` is fast."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Collection, Mapping
from typing import Any

import click
from typing_extensions import override

from upshot.errors import UpshotError, missing_server
from upshot.printable import escape


class LazyGroup(click.Group):
    """
    A group that imports its commands on demand.

    Args:
        lazy: By command name: `module:attribute`, and the line that the help of the group shows.
        server: The commands that need the libraries of the server.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]], server: Collection[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy
        self._server = server

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)  # in the order of declaration: what newcomers need comes first

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if cmd_name not in self._server or (error.name or "").partition(".")[0] == "upshot":
                raise
            if ctx.resilient_parsing:  # the shell asks for completions
                return None
            raise click.ClickException(missing_server(f"`upshot {cmd_name}`", error)) from error
        return command

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # click suggests only commands that are imported already; these are all names.
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self._lazy, ctx=ctx) from None

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Print an error as one line."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = escape(error.message)  # type: ignore[misc] # the subclasses of click show this attribute
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except UpshotError as error:
            raise click.ClickException(escape(str(error))) from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of our output has stopped; click exits without a message
            if os.environ.get("UPSHOT_LOG_LEVEL", "").lower() == "debug":  # noqa: TID251 - the settings may be the cause
                raise
            if isinstance(error, OSError) and error.filename is not None:  # such as a directory that is read-only
                raise click.ClickException(
                    escape(f"{error.filename2 or error.filename}: {error.strerror or error}")
                ) from error
            raise click.ClickException(
                escape(f"{type(error).__name__}: {error} (set UPSHOT_LOG_LEVEL=debug to see where)")
            ) from error
