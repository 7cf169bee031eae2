"""Routes that log artifact versions with their files: begin, add files, upload blobs (see `blobs`), commit."""

from __future__ import annotations

from starlette.responses import Response

from upshot.clock import format_time
from upshot.domain.manifest import ManifestEntry
from upshot.domain.pending_version import PendingVersion, VersionRequest
from upshot.domain.registry import ArtifactVersion, Change
from upshot.registry.pending_versions import PENDING_AGE
from upshot.resources.version import version_json
from upshot.web.dependencies import WebDependencies
from upshot.web.earlier_requests import earlier_request
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, OriginDep, make_router
from upshot.web.schemas.artifacts import (
    LoggedArtifactVersion,
    MissingBlobs,
    NewFiles,
    NewPendingVersion,
    PendingVersionJson,
    StartedVersion,
)
from upshot.web.schemas.responses import MutationResult, json_response, mutation_result

router = make_router("artifacts")

_PENDING = "/projects/{project}/pending-versions"
_VERSION = "/pending-versions/{version_id}"


@router.post(_PENDING, responses={200: {"model": StartedVersion}, **problem_responses(409)})
def begin_version(project: str, body: NewPendingVersion, deps: Deps, origin: OriginDep) -> Response:
    """
    Begin to log an artifact version with files. Nobody sees it before it is committed.

    Returns the version instead if the newest version has the same content, or if the id is known.
    """
    request = VersionRequest(
        project=project,
        name=body.name,
        artifact_type=body.artifact_type,
        digest=body.digest,
        file_count=body.file_count,
        metadata=body.metadata,
        description=body.description,
        aliases=tuple(body.aliases),
        tags=tuple(body.tags),
        run_id=body.run_id,
        ttl_seconds=body.ttl_seconds,
        earlier=earlier_request(body.happened_at),
    )
    started = deps.registry.begin_version(body.id, request, origin=origin)
    result: StartedVersion = {
        "pending": _pending_json(started.pending) if started.pending else None,
        "version": _logged(deps, started.logged) if started.logged else None,
    }
    return json_response(result)


@router.post(_VERSION + "/files", responses={200: {"model": MissingBlobs}, **problem_responses(404)})
def add_files(version_id: str, body: NewFiles, deps: Deps, origin: OriginDep) -> Response:
    """Add up to 5,000 files to a pending version, and return which of their blobs are not stored."""
    entries = [ManifestEntry(file.path, file.digest, file.size, file.ref) for file in body.files]
    result: MissingBlobs = {"missing": list(deps.registry.add_files(version_id, entries, origin=origin))}
    return json_response(result)


@router.get(_VERSION + "/missing-blobs", responses={200: {"model": MissingBlobs}, **problem_responses(404)})
def list_missing_blobs(version_id: str, deps: Deps) -> Response:
    """Return up to 5,000 digests of files of a pending version whose blobs are not stored."""
    result: MissingBlobs = {"missing": list(deps.registry.missing_blobs(version_id))}
    return json_response(result)


@router.get(_VERSION, responses={200: {"model": PendingVersionJson}, **problem_responses(404)})
def get_pending_version(version_id: str, deps: Deps) -> Response:
    """Return a pending version."""
    return json_response(_pending_json(deps.registry.pending_version(version_id)))


@router.post(
    _VERSION + "/commit",
    status_code=201,
    responses={
        200: {"model": LoggedArtifactVersion, "description": "The version was committed before."},
        201: {"model": LoggedArtifactVersion},
        **problem_responses(404, 409),
    },
)
def commit_version(version_id: str, deps: Deps, origin: OriginDep) -> Response:
    """Make a pending version visible, once all its blobs are stored. It gets a number and makes events."""
    change = deps.registry.commit_version(version_id, origin=origin)
    return json_response(_logged(deps, change), 201 if change.created else 200)


@router.delete(_VERSION, responses={200: {"model": MutationResult}, **problem_responses(404)})
def abandon_version(version_id: str, deps: Deps, origin: OriginDep) -> Response:
    """Remove a pending version."""
    return json_response(mutation_result(deps.registry.abandon_version(version_id, origin=origin)))


def _pending_json(pending: PendingVersion) -> PendingVersionJson:
    return {"id": pending.id, "state": "pending", "expires_at": format_time(pending.updated_at + PENDING_AGE)}


def _logged(deps: WebDependencies, change: Change[ArtifactVersion]) -> LoggedArtifactVersion:
    return {
        **version_json(change.value, deps.base_url),
        **mutation_result(change),
        "metadata_ignored": change.metadata_ignored,
        "kept_aliases": list(change.kept_aliases),
    }
