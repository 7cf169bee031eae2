"""
What each role may do: one rule for each route, which the route checks before it reads the request.

The rules hold for named tokens, for people who have signed in to the pages, and for jobs. A route without a rule is for
admins only, and a test finds it. The registry has rules of its own for what depends on its content, such as protected
aliases (see `upshot.registry.protection`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from upshot.domain.access import Caller, includes
from upshot.domain.event import Role
from upshot.resources.urls import API_PREFIX
from upshot.unicode_text import to_nfc
from upshot.web.problems import Problem

ACTOR_HEADER = "X-Upshot-Actor"


class Reach(Enum):
    """What a token for one registry can do with a route."""

    NONE = "none"  #: nothing
    REGISTRY = "registry"  #: use it for its registry, which the path names
    PROJECT = "project"  #: use it for projects with artifacts that are linked into its registry
    PENDING = "pending"  #: use it for pending versions of such projects
    FILTERED = "filtered"  #: use it; the handler leaves out what belongs to others (see `upshot.web.visibility`)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may use a route."""

    role: Role | None  #: least role; None if no token is needed
    reach: Reach = Reach.NONE
    for_jobs: bool = False  #: whether jobs may use the route; as members
    own: str | None = None  #: parameter of the path that must be the job's own: `job_id` or `event_id`


def _allow(
    role: Role | None,
    *routes: str,
    reach: Reach = Reach.NONE,
    for_jobs: bool = False,
    own: str | None = None,
    prefix: str = API_PREFIX,
) -> dict[str, Rule]:
    rule = Rule(role, reach, for_jobs, own)
    return {f"{method} {prefix}{path}": rule for method, path in (route.split(" ") for route in routes)}


_COLLECTION = "/registries/{registry}/collections/{collection}"
_VERSION = f"{_COLLECTION}/versions/{{version}}"
_ARTIFACT = "/projects/{project}/artifacts/{artifact}"
_ARTIFACT_VERSION = f"{_ARTIFACT}/versions/{{version}}"
_RUN = "/projects/{project}/runs/{run_id}"
_UPLOAD = "/blob-uploads/{upload_id}"

#: The rule of each route, as `METHOD path`.
RULES: Mapping[str, Rule] = {
    # Anybody: answers that contain no data of the installation.
    **_allow(None, "GET /openapi.json", "GET /docs"),
    **_allow(None, "GET /healthz", "HEAD /healthz", "GET /readyz", "HEAD /readyz", prefix=""),
    **_allow(None, "GET /sign-in", "POST /sign-in", "GET /static/{name}", prefix=""),
    # A restricted viewer: metadata.
    **_allow(
        Role.RESTRICTED_VIEWER,
        "GET /registries",
        "GET /projects",
        "GET /lineage",
        reach=Reach.FILTERED,
        for_jobs=True,
    ),
    **_allow(
        Role.RESTRICTED_VIEWER,
        "GET /registries/{registry}",
        "GET /registries/{registry}/history",
        "GET /registries/{registry}/collections",
        f"GET {_COLLECTION}",
        f"GET {_COLLECTION}/card-revisions",
        f"GET {_COLLECTION}/history",
        f"GET {_COLLECTION}/versions",
        f"GET {_VERSION}",
        reach=Reach.REGISTRY,
        for_jobs=True,
    ),
    **_allow(
        Role.RESTRICTED_VIEWER,
        "GET /projects/{project}/artifacts",
        f"GET {_ARTIFACT}",
        f"GET {_ARTIFACT}/versions",
        f"GET {_ARTIFACT_VERSION}",
        f"GET {_ARTIFACT_VERSION}/links",
        f"GET {_ARTIFACT_VERSION}/runs",
        "GET /projects/{project}/runs",
        f"GET {_RUN}",
        f"GET {_RUN}/inputs",
        f"GET {_RUN}/outputs",
        f"GET {_RUN}/metrics",
        f"GET {_RUN}/series",
        f"GET {_RUN}/history",
        reach=Reach.PROJECT,
        for_jobs=True,
    ),
    **_allow(Role.RESTRICTED_VIEWER, "GET /history", "GET /history/export", for_jobs=True),
    **_allow(Role.RESTRICTED_VIEWER, "GET /comments", "GET /comments/{comment_id}", for_jobs=True),
    **_allow(Role.RESTRICTED_VIEWER, "GET /events/{event_id}", for_jobs=True, own="event_id"),
    **_allow(Role.RESTRICTED_VIEWER, "GET /jobs/{job_id}", for_jobs=True, own="job_id"),
    **_allow(
        Role.RESTRICTED_VIEWER,
        "GET /events",
        "GET /executions",
        "GET /executions/{execution_id}",
        "GET /jobs",
        "GET /automations",
        "GET /automations/{automation}",
        "GET /destinations",
        "GET /destinations/{destination_id}",
        "GET /workers",
    ),
    **_allow(Role.RESTRICTED_VIEWER, "GET /caller", "POST /sign-in-codes", reach=Reach.FILTERED),
    **_allow(Role.RESTRICTED_VIEWER, "GET /metrics", prefix=""),
    # Pages. Those for one registry leave out what belongs to the whole installation.
    **_allow(Role.RESTRICTED_VIEWER, "GET /", "POST /sign-out", reach=Reach.FILTERED, prefix=""),
    # A viewer: files and logs, too.
    **_allow(
        Role.VIEWER,
        f"GET {_ARTIFACT_VERSION}/files",
        f"GET {_ARTIFACT_VERSION}/files/{{path}}",
        f"GET {_ARTIFACT_VERSION}/diff",
        f"GET {_ARTIFACT_VERSION}/usage",
        f"GET {_RUN}/files",
        f"GET {_RUN}/files/{{path}}",
        reach=Reach.PROJECT,
        for_jobs=True,
    ),
    **_allow(
        Role.VIEWER,
        f"GET {_VERSION}/files",
        f"GET {_VERSION}/files/{{path}}",
        f"GET {_VERSION}/usage",
        reach=Reach.REGISTRY,
        for_jobs=True,
    ),
    **_allow(Role.VIEWER, "POST /blobs/read", "GET /blobs/{digest}", reach=Reach.FILTERED, for_jobs=True),
    **_allow(Role.VIEWER, "GET /jobs/{job_id}/log", "GET /jobs/{job_id}/log.txt", for_jobs=True, own="job_id"),
    # A member: changes.
    **_allow(
        Role.MEMBER,
        "POST /registries/{registry}/collections",
        f"PATCH {_COLLECTION}",
        f"PUT {_COLLECTION}/tags/{{tag}}",
        f"DELETE {_COLLECTION}/tags/{{tag}}",
        f"PUT {_COLLECTION}/aliases/{{alias}}",
        f"DELETE {_COLLECTION}/aliases/{{alias}}",
        f"POST {_COLLECTION}/versions",
        f"PATCH {_VERSION}",
        f"DELETE {_VERSION}",
        f"PUT {_VERSION}/stage",
        f"PUT {_VERSION}/tags/{{tag}}",
        f"DELETE {_VERSION}/tags/{{tag}}",
        reach=Reach.REGISTRY,
        for_jobs=True,
    ),
    **_allow(
        Role.MEMBER,
        "POST /projects/{project}/artifacts",
        "POST /projects/{project}/pending-versions",
        f"PATCH {_ARTIFACT_VERSION}",
        f"PUT {_ARTIFACT_VERSION}/tags/{{tag}}",
        f"DELETE {_ARTIFACT_VERSION}/tags/{{tag}}",
        f"PUT {_ARTIFACT}/aliases/{{alias}}",
        f"DELETE {_ARTIFACT}/aliases/{{alias}}",
        f"PUT {_RUN}",
        f"POST {_RUN}/finish",
        f"POST {_RUN}/heartbeat",
        f"POST {_RUN}/stop",
        f"POST {_RUN}/log",
        f"POST {_RUN}/files",
        f"PUT {_RUN}/tags/{{tag}}",
        f"DELETE {_RUN}/tags/{{tag}}",
        f"POST {_RUN}/inputs",
        reach=Reach.PROJECT,
        for_jobs=True,
    ),
    **_allow(
        Role.MEMBER,
        "GET /pending-versions/{version_id}",
        "DELETE /pending-versions/{version_id}",
        "POST /pending-versions/{version_id}/files",
        "GET /pending-versions/{version_id}/missing-blobs",
        "POST /pending-versions/{version_id}/commit",
        reach=Reach.PENDING,
        for_jobs=True,
    ),
    **_allow(
        Role.MEMBER,
        "POST /blobs/missing",
        "POST /blobs/verify",
        "POST /blobs",
        "PUT /blobs/{digest}",
        "POST /blob-uploads",
        f"GET {_UPLOAD}",
        f"PUT {_UPLOAD}/parts/{{number}}",
        f"POST {_UPLOAD}/parts/{{number}}/address",
        f"POST {_UPLOAD}/parts/{{number}}",
        f"POST {_UPLOAD}/complete",
        reach=Reach.FILTERED,
        for_jobs=True,
    ),
    **_allow(Role.MEMBER, "POST /events", for_jobs=True),
    **_allow(
        Role.MEMBER,
        "POST /comments",
        "PATCH /comments/{comment_id}",
        "DELETE /comments/{comment_id}",
        for_jobs=True,
    ),
    **_allow(
        Role.MEMBER,
        "POST /replays",
        "POST /executions/{execution_id}/retry",
        "POST /executions/{execution_id}/cancel",
        "POST /jobs/{job_id}/cancel",
    ),
    # An admin: protects, deletes, and manages tokens and destinations.
    **_allow(
        Role.ADMIN,
        "PUT /registries/{registry}/protected-aliases",
        f"DELETE {_COLLECTION}",
        reach=Reach.REGISTRY,
    ),
    **_allow(Role.ADMIN, f"DELETE {_RUN}", reach=Reach.PROJECT),
    **_allow(
        Role.ADMIN,
        # Other registries can have links to these, so a token for one registry may not change them.
        "PATCH /projects/{project}",
        f"PATCH {_ARTIFACT}",
        f"DELETE {_ARTIFACT_VERSION}",
        "POST /destinations/{destination_id}/release",
        "GET /tokens",
        "POST /tokens",
        "DELETE /tokens/{token}",
    ),
}

#: Who has a role or a higher one. Every caller is a restricted viewer at least.
_WHO = {
    Role.VIEWER: "a viewer, a member or an admin",
    Role.MEMBER: "a member or an admin",
    Role.ADMIN: "an admin",
}
_ADMIN_ONLY = Rule(Role.ADMIN)


def rule_of(method: str, path: str) -> Rule:
    """Return the rule of a route, by the template of its path. A route that is not listed is for admins only."""
    return RULES.get(f"{method} {path}", _ADMIN_ONLY)


def check_permission(caller: Caller, rule: Rule, method: str, path: str, parameters: Mapping[str, object]) -> None:
    """
    Refuse a request that its caller may not make. A project is checked by `Visibility`, which reads the database.

    Args:
        caller: Who makes the request.
        rule: The rule of the route.
        method: The request's method.
        path: The template of the route's path.
        parameters: The parameters in the path.

    Raises:
        Problem: 403. The detail says what the caller is, and who may do this.
    """
    if rule.role is None:
        return
    route = f"{method} {path}"
    job = caller.job
    if job is not None and rule.role is not Role.ADMIN:
        own = {"event_id": job.event_id, "job_id": job.id}
        if not rule.for_jobs or (rule.own and parameters.get(rule.own) != own[rule.own]):
            raise refused(
                f"{route}: a job may read and change registries and projects, emit events, and read itself and its own "
                "event; use a token for anything else"
            )
    if not includes(caller.role, rule.role):
        raise refused(f"{route}: only {_WHO[rule.role]} may do this; {caller.name} is a {caller.role}")
    if caller.registry is None:
        return
    if rule.reach is Reach.NONE:
        raise refused(f"{route}: the token {caller.name!r} is for registry {caller.registry!r} only")
    if rule.reach is Reach.REGISTRY and to_nfc(str(parameters.get("registry"))) != caller.registry:
        raise refused(f"{route}: the token {caller.name!r} is for registry {caller.registry!r} only")


def refused(detail: str) -> Problem:
    """Return the problem of a request that its caller may not make."""
    return Problem(403, "forbidden", detail)
