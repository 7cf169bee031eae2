"""`upshot tokens` and `upshot open`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
from typing_extensions import override

from upshot.cli.api_commands import api_command
from upshot.client.http import Client, api_path
from upshot.clock import SystemClock, format_time
from upshot.console import Output, local_time
from upshot.domain.access import CODE_SECONDS
from upshot.domain.event import Role
from upshot.schema.quantities import InvalidQuantity, read_duration


class ExpiryType(click.ParamType[datetime]):
    """A time in the future, such as `2027-01-31T00:00:00Z`, or how long from now: `12h`, `90d`."""

    name = "TIME"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return SystemClock().now() + timedelta(seconds=read_duration(value))
        except (InvalidQuantity, OverflowError):
            pass
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except ValueError:
            self.fail(f"{value!r} is not a time; write how long from now (12h, 90d), or 2027-01-31", param, ctx)


@click.group()
def tokens() -> None:
    """
    Make, list and revoke tokens of people and programs.

    A token has a name, which is the actor of everything that is done with it, and a role. Only an admin may manage
    tokens.
    """


@tokens.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="What the token can do: everything, change, read, or read without files, receipts and logs.",
)
@click.option("--registry", metavar="NAME", help="The only registry that the token can access.  [default: all]")
@click.option("--expires", type=ExpiryType(), help="When the token stops working: 90d, or a time.  [default: never]")
@api_command
def create(
    client: Client, output: Output, name: str, *, role: str, registry: str | None, expires: datetime | None
) -> None:
    """Make a token, and print it. It is shown only now."""
    body = {
        "name": name,
        "role": role,
        "registry": registry,
        "expires_at": format_time(expires) if expires else None,
    }
    created = client.post("/tokens", body)
    if output.as_json:
        output.json(created)
        return
    click.echo(created["token"])
    where = f" in registry {registry}" if registry else ""
    until = f", until {local_time(created['expires_at'])}" if expires else ""
    click.echo(
        f"the token {name} is a {role}{where}{until}; keep it now, because it is not shown again. "
        f"Use it with `upshot login` or as UPSHOT_TOKEN",
        err=True,
    )


@tokens.command("list")
@click.option("--revoked", is_flag=True, help="List revoked tokens, too.")
@api_command
def list_tokens(client: Client, output: Output, *, revoked: bool) -> None:
    """List the tokens, with their roles and when they were last used."""
    columns = {
        "name": lambda token: token["name"],
        "role": lambda token: token["role"],
        "registry": lambda token: token["registry"] or "all",
        "state": lambda token: token["state"],
        "last used": lambda token: local_time(token["last_used_at"]),
        "expires": lambda token: local_time(token["expires_at"]),
        "created": lambda token: local_time(token["created_at"]),
        "by": lambda token: token["created_by"],
    }
    output.rows(
        client.get("/tokens", revoked="true" if revoked else None)["items"],
        columns,
        empty="there are no named tokens; `upshot tokens create NAME --role member` makes one",
        optional=("by", "created", "expires", "registry"),
    )


@tokens.command()
@click.argument("name")
@api_command
def revoke(client: Client, output: Output, name: str) -> None:
    """Revoke a token, by its name or id, and end its sessions. All web processes refuse it within three seconds."""
    revoked = client.delete(api_path("tokens", name))
    output.result(revoked, f"the token {revoked['name']} is revoked")


@click.command("open")
@api_command
def open_pages(client: Client, output: Output) -> None:
    """Print an address that signs your browser in to the pages, once, within 60 seconds."""
    code = client.post("/sign-in-codes")
    if output.as_json:
        output.json(code)
        return
    click.echo(code["url"])
    click.echo(f"open it within {CODE_SECONDS} seconds; it works once", err=True)
