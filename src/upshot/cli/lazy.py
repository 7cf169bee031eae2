"""Commands that are imported when they are called, so that `upshot --help` answers at once."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Mapping
from typing import Any

import click

from upshot.errors import UpshotError


class LazyGroup(click.Group):
    """
    A group whose commands are named by where they live.

    Args:
        lazy: By name: `module:attribute`, and the line that help shows.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are declared: what newcomers need comes first."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; one that is not there names the nearest that is."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self._lazy, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error becomes one line."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except UpshotError as error:
            raise click.ClickException(str(error)) from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # click ends quietly: whoever read our output has stopped
            if os.environ.get("UPSHOT_LOG_LEVEL", "").lower() == "debug":  # noqa: TID251 - settings may be what is wrong
                raise
            raise click.ClickException(
                f"{type(error).__name__}: {error} (UPSHOT_LOG_LEVEL=debug shows where)"
            ) from error
