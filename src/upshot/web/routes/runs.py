"""Routes of runs, and of the lineage that their inputs and outputs are."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.adapters.cursor import decode_cursor, make_cursor
from upshot.domain.registry import ArtifactVersion
from upshot.domain.run import Direction, EdgeKind, Run
from upshot.ports.paging import Page
from upshot.registry.run_filters import parse_run_filter
from upshot.registry.runs import RunChange
from upshot.resources.run import LineageJson, RunJson, lineage_json, run_json
from upshot.resources.urls import api_path
from upshot.resources.version import VersionJson, version_json
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, OriginDep, make_router
from upshot.web.schemas.responses import MutationResult, json_response, mutation_result, page_json
from upshot.web.schemas.runs import (
    LineageQuery,
    RunArtifactsPage,
    RunPage,
    RunsQuery,
    RunValues,
    UsedArtifact,
    VersionRuns,
    parse_moment,
)
from upshot.web.visibility import VisibilityDep, check_source

router = make_router("runs")

_RUNS = "/projects/{project}/runs"
_RUN = _RUNS + "/{run_id}"


def _json(deps: WebDependencies, run: Run) -> RunJson:
    return run_json(run, deps.base_url, deps.clock.now())


@router.get(_RUNS, responses={200: {"model": RunPage}, **problem_responses(404)})
def list_runs(project: str, deps: Deps, query: Annotated[RunsQuery, Query()]) -> Response:
    """
    Return the runs of a project that match `filters`, newest first or in the given `order`.

    `filters` is JSON in the form of MongoDB, as W&B's `Api.runs` takes it. Fields are `jobType`, `state`,
    `displayName`, `name` (the id), `tags`, `group`, `username`, `createdAt`, `config.KEY` and `summary_metrics.KEY`.
    Operators are `$and`, `$or`, `$nor`, `$eq`, `$ne`, `$gt`, `$gte`, `$lt`, `$lte`, `$in`, `$nin`, `$exists` and
    `$regex`.
    """
    where = parse_run_filter(query.filters, query.order)
    after = None if query.cursor is None else decode_cursor(query.cursor)
    found = deps.registry.runs(project, where, after=after, limit=query.limit)
    page = Page(tuple(found.runs), None if found.position is None else make_cursor(found.position))
    return json_response(page_json(page, lambda run: _json(deps, run)))


@router.put(
    _RUN, status_code=201, responses={200: {"model": RunJson}, 201: {"model": RunJson}, **problem_responses(404, 409)}
)
def save_run(project: str, run_id: str, body: RunValues, deps: Deps, origin: OriginDep) -> Response:
    """
    Create a run, or change it. Creates the project if it does not exist.

    The process that runs sends a `session`. A run that exists with another session is refused, unless `resume` is
    `allow` or `must`: then the run continues at its `next_step`, and its earlier session can log no more.
    """
    values = {**dict(body), "created_at": parse_moment(body.created_at, "created_at")}
    change = deps.registry.save_run(project, run_id, RunChange(**values), origin=origin)
    location = api_path("projects", project, "runs", run_id) if change.created else None
    return json_response(_json(deps, change.value), 201 if change.created else 200, location=location)


@router.get(_RUN, responses={200: {"model": RunJson}, **problem_responses(404)})
def get_run(project: str, run_id: str, deps: Deps) -> Response:
    """Return a run."""
    return json_response(_json(deps, deps.registry.run(project, run_id)))


@router.delete(_RUN, responses={200: {"model": MutationResult}, **problem_responses(404)})
def delete_run(project: str, run_id: str, deps: Deps, origin: OriginDep) -> Response:
    """Delete a run with its metrics and files. The artifact versions that it logged stay. Its id is not used again."""
    return json_response(mutation_result(deps.registry.delete_run(project, run_id, origin=origin)))


@router.put(_RUN + "/tags/{tag}", responses={200: {"model": RunJson}, **problem_responses(404)})
def add_run_tag(project: str, run_id: str, tag: str, deps: Deps, origin: OriginDep) -> Response:
    """Add a tag to a run."""
    return json_response(_json(deps, deps.registry.tag_run(project, run_id, tag, present=True, origin=origin).value))


@router.delete(_RUN + "/tags/{tag}", responses={200: {"model": RunJson}, **problem_responses(404)})
def remove_run_tag(project: str, run_id: str, tag: str, deps: Deps, origin: OriginDep) -> Response:
    """Remove a tag from a run."""
    return json_response(_json(deps, deps.registry.tag_run(project, run_id, tag, present=False, origin=origin).value))


@router.post(_RUN + "/inputs", responses={200: {"model": VersionJson}, **problem_responses(404, 409)})
def use_artifact(
    *, project: str, run_id: str, body: UsedArtifact, deps: Deps, origin: OriginDep, visibility: VisibilityDep
) -> Response:
    """Record that a run uses an artifact version, and return the version: the link, if the reference is one."""
    check_source(deps, visibility, body.artifact, default_scope=project)
    change = deps.registry.use_artifact(project, run_id, body.artifact, artifact_type=body.artifact_type, origin=origin)
    return json_response(version_json(change.value, deps.base_url))


@router.get(_RUN + "/inputs", responses={200: {"model": RunArtifactsPage}, **problem_responses(404)})
def list_inputs(project: str, run_id: str, deps: Deps, visibility: VisibilityDep) -> Response:
    """Return the artifact versions that a run used, sorted by artifact."""
    used = deps.registry.run_artifacts(project, run_id, EdgeKind.USED)
    return _artifacts(deps, tuple(version for version in used if visibility.sees_project(version.project)))


@router.get(_RUN + "/outputs", responses={200: {"model": RunArtifactsPage}, **problem_responses(404)})
def list_outputs(project: str, run_id: str, deps: Deps) -> Response:
    """Return the artifact versions that a run logged, sorted by artifact."""
    return _artifacts(deps, deps.registry.run_artifacts(project, run_id, EdgeKind.LOGGED))


def _artifacts(deps: WebDependencies, found: tuple[ArtifactVersion, ...]) -> Response:
    return json_response(page_json(Page(found, None), lambda version: version_json(version, deps.base_url)))


@router.get(
    "/projects/{project}/artifacts/{artifact}/versions/{version}/runs",
    responses={200: {"model": VersionRuns}, **problem_responses(404)},
)
def get_version_runs(project: str, artifact: str, version: str, deps: Deps, visibility: VisibilityDep) -> Response:
    """Return the run that logged an artifact version, and the runs that used it."""
    logged_by, used_by = deps.registry.runs_of_version(project, artifact, version)
    if logged_by and not visibility.sees_project(logged_by.summary.project):
        logged_by = None
    runs: VersionRuns = {
        "logged_by": _json(deps, logged_by) if logged_by else None,
        "used_by": [_json(deps, run) for run in used_by if visibility.sees_project(run.summary.project)],
    }
    return json_response(runs)


@router.get("/lineage", responses={200: {"model": LineageJson}, **problem_responses(404)})
def get_lineage(deps: Deps, query: Annotated[LineageQuery, Query()], visibility: VisibilityDep) -> Response:
    """
    Return what a version was made from, and what was made from it: up to 1,000 runs and artifact versions.

    An edge `used` leads from a version to the run that used it, and an edge `logged` from a run to its version.
    """
    check_source(deps, visibility, query.reference)
    lineage = deps.registry.lineage(query.reference, Direction(query.direction), depth=query.depth)
    return json_response(lineage_json(visibility.filter(lineage), deps.base_url))
