"""`upshot completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    r"""
    Print the completion script of a shell.

    It completes commands, options, ids, references and names of the running Upshot. Add the line of your shell to
    its startup file:

    \b
    bash (~/.bashrc)    eval "$(upshot completion bash)"
    zsh (~/.zshrc)      eval "$(upshot completion zsh)"
    fish (~/.config/fish/config.fish)    upshot completion fish | source
    """
    completion_class = get_completion_class(shell)
    if completion_class is None:
        raise click.UsageError(f"this version of click does not support {shell}")
    click.echo(completion_class(ctx.find_root().command, {}, "upshot", "_UPSHOT_COMPLETE").source())
