"""Routes of named tokens, of the caller, and of codes that sign a browser in."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import structlog
from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from upshot.clock import format_optional_time, format_time
from upshot.domain.access import CODE_SECONDS, MAX_EXPIRY_DAYS, AccessToken, digest_of, new_token
from upshot.domain.event import Role
from upshot.domain.reference import check_name
from upshot.errors import Conflict, InvalidInput, NotFound
from upshot.ids import new_id
from upshot.ports.paging import Page
from upshot.resources.token import NewTokenJson, TokenJson, token_json
from upshot.suggestions import did_you_mean
from upshot.web.dependencies import WebDependencies
from upshot.web.known_tokens import KnownTokens
from upshot.web.problems import problem_responses
from upshot.web.routing import CallerDep, Deps, OriginDep, make_router
from upshot.web.schemas.responses import json_response, page_json
from upshot.web.schemas.tokens import CallerJson, NewToken, SignInCode, TokenPage, TokensQuery
from upshot.web.sessions import Sessions

router = make_router("tokens")

_TOKEN = "/tokens/{token}"  # noqa: S105 - a path
#: Names of actors that are no tokens, so that the history has one meaning.
_RESERVED_NAMES = frozenset({"admin", "upshot"})

log = structlog.get_logger("upshot.web")


@router.get("/tokens", responses={200: {"model": TokenPage}, **problem_responses()})
def list_tokens(deps: Deps, query: Annotated[TokensQuery, Query()]) -> Response:
    """Return the named tokens, by name, on one page, without their texts."""
    now = deps.clock.now()
    shown = tuple(token for token in deps.tokens.list() if query.revoked or token.revoked_at is None)
    return json_response(page_json(Page(shown, None), lambda token: token_json(token, now)))


@router.post("/tokens", status_code=201, responses={201: {"model": NewTokenJson}, **problem_responses(409)})
def create_token(body: NewToken, request: Request, deps: Deps, origin: OriginDep) -> Response:
    """Make a named token. The response has its text, which is stored nowhere and cannot be shown again."""
    now = deps.clock.now()
    name = check_name(body.name, "token")
    if name in _RESERVED_NAMES:
        raise InvalidInput(f"{name!r} is the name of an actor that is no token; name the token after who uses it")
    if body.expires_at is not None and not now < body.expires_at <= now + timedelta(days=MAX_EXPIRY_DAYS):
        raise InvalidInput(f"expires_at: must be in the future, and within {MAX_EXPIRY_DAYS} days")
    role = Role(body.role)
    is_full_admin = role is Role.ADMIN and body.registry is None
    if not request.app.state.token_auth.has_server_token and not is_full_admin and not _admins(deps, but_not=None):
        raise Conflict(
            "the server has no UPSHOT_TOKEN, and needs a token as soon as there is one; so the first token must be an "
            "admin's: `upshot tokens create NAME --role admin`"
        )
    text = new_token()
    token = AccessToken(
        id=new_id("tok", now),
        name=name,
        role=role,
        registry=None if body.registry is None else check_name(body.registry, "registry"),
        created_at=now,
        created_by=origin.actor.name,
        expires_at=body.expires_at,
    )
    deps.tokens.add(token, digest_of(text))
    _known(request).refresh()
    details = {"role": role.value, "registry": token.registry, "expires_at": format_optional_time(token.expires_at)}
    deps.registry.record_access(origin.actor, "create-token", name, after=details)
    log.info("token.created", token=name, role=role, registry=token.registry, actor=origin.actor.name)
    created: NewTokenJson = {**token_json(token, now), "token": text}
    return json_response(created, 201)


@router.delete(_TOKEN, responses={200: {"model": TokenJson}, **problem_responses(404, 409)})
def revoke_token(token: str, request: Request, deps: Deps, origin: OriginDep) -> Response:
    """
    Revoke a token, by its name or id, and end its sessions.

    This web process refuses it at once, and others within three seconds.
    """
    found = _find(deps, token)
    is_locked_out = not request.app.state.token_auth.has_server_token and not _admins(deps, but_not=found)
    if is_locked_out and len(deps.tokens.usable()) > 1:
        raise Conflict(
            f"{found.name!r} is the last admin's token, and the server has no UPSHOT_TOKEN, so nobody could manage the "
            "other tokens; revoke them first, or make another token with the role admin"
        )
    now = deps.clock.now()
    deps.tokens.revoke(found.id, origin.actor.name, now)
    _known(request).refresh()
    deps.registry.record_access(origin.actor, "revoke-token", found.name, after={"id": found.id})
    log.info("token.revoked", token=found.name, actor=origin.actor.name)
    return json_response(token_json(_find(deps, found.id), now))


@router.get("/caller", responses={200: {"model": CallerJson}, **problem_responses()})
def get_caller(caller: CallerDep) -> Response:
    """Return who makes this request, and with which role."""
    shown: CallerJson = {
        "name": caller.name,
        "kind": caller.actor.kind.value,
        "role": caller.role.value,
        "registry": caller.registry,
    }
    return json_response(shown)


@router.post("/sign-in-codes", status_code=201, responses={201: {"model": SignInCode}, **problem_responses()})
def create_sign_in_code(request: Request, deps: Deps, caller: CallerDep) -> Response:
    """Make an address that signs a browser in as the caller, once, within a minute."""
    sessions: Sessions = request.app.state.sessions
    expires_at = deps.clock.now() + timedelta(seconds=CODE_SECONDS)
    url = f"{(deps.base_url or '').rstrip('/')}/sign-in?code={sessions.make_code(caller)}"
    created: SignInCode = {"url": url, "expires_at": format_time(expires_at)}
    return json_response(created, 201)


def _known(request: Request) -> KnownTokens:
    known: KnownTokens = request.app.state.known_tokens
    return known


def _admins(deps: WebDependencies, *, but_not: AccessToken | None) -> list[AccessToken]:
    now = deps.clock.now()
    return [
        token
        for token in deps.tokens.usable().values()
        if token.role is Role.ADMIN
        and token.registry is None
        and token.is_active(now)
        and (but_not is None or token.id != but_not.id)
    ]


def _find(deps: WebDependencies, name_or_id: str) -> AccessToken:
    tokens = deps.tokens.list()
    for token in tokens:  # those that are not revoked come first
        if name_or_id in (token.name, token.id):
            return token
    names = [token.name for token in tokens if token.revoked_at is None]
    raise NotFound(f"there is no token {name_or_id!r}{did_you_mean(name_or_id, names)}")
