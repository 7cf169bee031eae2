"""Routes of the programs that download a version, and of the files of a version of a collection."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from upshot.domain.reference import Reference, check_existing_name
from upshot.domain.registry import ArtifactVersion, Version
from upshot.errors import Conflict
from upshot.resources.file import file_json
from upshot.resources.usage import MAX_CURL_FILES, UsageJson, usage_json
from upshot.resources.version import version_json
from upshot.unicode_text import to_nfc
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, make_router
from upshot.web.schemas.artifacts import FilePage, FileQuery
from upshot.web.schemas.responses import json_response, page_json
from upshot.web.transfer import BYTES, blob_response, make_transfer_router

router = make_router("versions")
transfers = make_transfer_router("versions")

_IN_PROJECT = "/projects/{project}/artifacts/{artifact}/versions/{version}"
_IN_REGISTRY = "/registries/{registry}/collections/{collection}/versions/{version}"


@router.get(_IN_PROJECT + "/usage", responses={200: {"model": UsageJson}, **problem_responses(404, 409)})
def show_usage_of_artifact(project: str, artifact: str, version: str, deps: Deps) -> Response:
    """Return programs that download the version: Python, a command, and curl. They name the alias, if one is given."""
    scope, name = check_existing_name(project, "project"), check_existing_name(artifact, "artifact")
    reference = Reference(scope, name, check_existing_name(version, "version"))
    found = deps.registry.artifact_version(str(reference))
    if to_nfc(found.project) != to_nfc(project):  # the name is that of a registry
        return _usage(deps, deps.registry.version(project, artifact, version), version)
    return _usage(deps, found, version)


@router.get(_IN_REGISTRY + "/usage", responses={200: {"model": UsageJson}, **problem_responses(404, 409)})
def show_usage(registry: str, collection: str, version: str, deps: Deps) -> Response:
    """Return programs that download the version: Python, a command, and curl. They name the alias, if one is given."""
    return _usage(deps, deps.registry.version(registry, collection, version), version)


@router.get(_IN_REGISTRY + "/files", responses={200: {"model": FilePage}, **problem_responses(404, 409)})
def list_linked_files(
    registry: str, collection: str, version: str, deps: Deps, query: Annotated[FileQuery, Query()]
) -> Response:
    """Return the files of the artifact version that is linked, by path."""
    found = deps.registry.version(registry, collection, version).artifact_version
    page = deps.registry.files(found.reference, cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, file_json))


@transfers.get(
    _IN_REGISTRY + "/files/{path:path}",
    responses={200: {"content": BYTES}, **problem_responses(404, 409)},
    response_class=Response,
)
async def get_linked_file(registry: str, collection: str, version: str, path: str, deps: Deps) -> Response:
    """Return the bytes of a file, as an attachment, or redirect to where they are. `Range` is supported."""
    found = await run_in_threadpool(deps.registry.version, registry, collection, version)
    _, entry = await run_in_threadpool(deps.registry.file, found.artifact_version.reference, path)
    blob = await run_in_threadpool(deps.blobs.stored, entry.digest)
    return await blob_response(deps.blobs, blob, filename=path.rpartition("/")[2])


def _usage(deps: WebDependencies, version: Version | ArtifactVersion, asked: str) -> Response:
    source = version.artifact_version
    if source.manifest is None or not source.manifest.is_stored:
        raise Conflict(f"{version.reference} was logged without its bytes: there is nothing to download")
    files = deps.registry.files(source.reference, cursor=None, limit=MAX_CURL_FILES + 1).items
    alias = None if asked == version.name else asked
    base_url = deps.base_url or ""
    return json_response(usage_json(version_json(version, deps.base_url), alias, map(file_json, files), base_url))
