"""Requests and responses about named tokens, callers and sign-in codes."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.resources.token import TokenJson
from upshot.web.schemas.requests import QueryParameters, RequestBody
from upshot.web.schemas.responses import NextPage

RoleName = Literal["admin", "member", "viewer", "restricted-viewer"]


class NewToken(RequestBody):
    """A token to make."""

    name: str = Field(description="Who uses the token: the actor of all changes that are made with it.")
    role: RoleName = Field(description="What the token can do.")
    registry: str | None = Field(None, description="The only registry that the token can access. By default: all.")
    expires_at: AwareDatetime | None = Field(
        None, strict=False, description="When the token stops working. By default: never."
    )


class TokensQuery(QueryParameters):
    """Which tokens to list."""

    revoked: bool = Field(default=False, description="Whether revoked tokens are listed, too.")


class TokenPage(NextPage):
    """Named tokens by name, on one page."""

    items: list[TokenJson]


class CallerJson(TypedDict):
    """Who makes a request."""

    name: str
    kind: str  #: user or job
    role: str
    registry: str | None  #: the only registry that the caller can access; null for all


class SignInCode(TypedDict):
    """An address that signs a browser in, once."""

    url: str
    expires_at: str
