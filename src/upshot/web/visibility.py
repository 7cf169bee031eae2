"""What a caller can see: everything, or one registry and the projects with artifacts that are linked into it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Scope

from upshot.domain.access import Caller
from upshot.domain.run import Lineage
from upshot.errors import NotFound
from upshot.unicode_text import to_nfc
from upshot.web.dependencies import WebDependencies
from upshot.web.permissions import Reach, Rule, refused


@dataclass(frozen=True, slots=True)
class Visibility:
    """What a caller can see."""

    token: str = ""  #: name of the token, for messages
    registry: str | None = None  #: None: everything can be seen
    projects: frozenset[str] = frozenset()

    def sees_registry(self, name: str) -> bool:
        """Return whether a registry can be seen."""
        return self.registry is None or to_nfc(name) == self.registry

    def sees_project(self, name: str) -> bool:
        """
        Return whether a project can be seen.

        Routes of projects also take the name of a registry, for references to versions of its collections. A registry
        with links never has the name of a project.
        """
        return self.registry is None or to_nfc(name) in self.projects or bool(self.projects and name == self.registry)

    def check_project(self, name: str) -> None:
        """
        Refuse to show or change a project that cannot be seen. The answer is the same if it does not exist.

        Raises:
            Problem: 403.
        """
        if not self.sees_project(name):
            raise refused(
                f"the token {self.token!r} is for registry {self.registry!r} and the projects that are linked into it "
                f"only; {name!r} is none of them; ask an admin to link a version of its artifacts"
            )

    def filter(self, lineage: Lineage) -> Lineage:
        """Leave out of a lineage what cannot be seen."""
        if self.registry is None:
            return lineage
        versions = (version for version in lineage.versions if self.sees_project(version.project))
        return replace(
            lineage,
            versions=tuple(
                replace(version, links=tuple(link for link in version.links if self.sees_registry(link.registry)))
                for version in versions
            ),
            runs=tuple(run for run in lineage.runs if self.sees_project(run.project)),
        )


def check_source(
    deps: WebDependencies, visibility: Visibility, reference: str, *, default_scope: str | None = None
) -> None:
    """
    Refuse a reference to an artifact version that cannot be seen.

    Raises:
        Problem: 403.
        NotFound: The version does not exist.
    """
    if visibility.registry is not None:
        visibility.check_project(deps.registry.project_of_version(reference, default_scope))


def check_blobs(deps: WebDependencies, visibility: Visibility, digests: Collection[str]) -> None:
    """
    Refuse blobs that no file of a visible project has.

    Raises:
        NotFound: A blob cannot be seen, or does not exist.
    """
    if visibility.registry is None:
        return
    visible = deps.registry.digests_in(visibility.projects, digests)
    for digest in digests:
        if digest not in visible:
            raise NotFound(f"there is no blob {digest!r} in the projects that are linked into {visibility.registry!r}")


async def check_reach(scope: Scope, caller: Caller, rule: Rule) -> None:
    """
    Find out what the caller can see, and check the project in the path.

    Raises:
        Problem: 403.
    """
    if caller.registry is None:
        return
    deps: WebDependencies = scope["app"].state.deps
    projects = await run_in_threadpool(deps.registry.linked_projects, caller.registry)
    visibility = scope["state"]["visibility"] = Visibility(caller.name, caller.registry, projects)
    parameters = scope["path_params"]
    if rule.reach is Reach.PROJECT:
        visibility.check_project(parameters["project"])
    elif rule.reach is Reach.PENDING:
        try:
            pending = await run_in_threadpool(deps.registry.pending_version, parameters["version_id"])
        except NotFound:  # which the handler says, unless the version was committed
            await run_in_threadpool(check_source, deps, visibility, parameters["version_id"])
        else:
            visibility.check_project(pending.request.project)


async def _visibility(request: Request) -> Visibility:
    return getattr(request.state, "visibility", EVERYTHING)


EVERYTHING = Visibility()
VisibilityDep = Annotated[Visibility, Depends(_visibility)]
