"""Routes of blobs: the bytes of the files of artifact versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import Header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from upshot.blobs.service import MAX_BATCH_BYTES
from upshot.domain.blob_frames import frame, parse_frames
from upshot.errors import InvalidInput
from upshot.ports.blobs import PART_BYTES, BlobUpload
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, make_router
from upshot.web.schemas.artifacts import MissingBlobs
from upshot.web.schemas.blobs import (
    BlobDigests,
    BlobJson,
    BlobUploadJson,
    NewUpload,
    PartAddress,
    SentPart,
    StartedUpload,
    StoredCount,
)
from upshot.web.schemas.responses import json_response
from upshot.web.transfer import BYTES, blob_response, make_transfer_router, read_all, receive
from upshot.web.visibility import VisibilityDep, check_blobs

CHECKSUM_HEADER = "Upshot-Checksum"  #: `sha256:…` of the body of a part
_MAX_BATCH_BODY_BYTES = MAX_BATCH_BYTES + 1024 * 1024  # the frames of many small blobs take space, too

_READ_BYTES: dict[int | str, dict[str, Any]] = {200: {"content": BYTES}, **problem_responses(404)}
_BYTES_IN_BODY = {"requestBody": {"required": True, "content": BYTES}}

router = make_router("blobs")
transfers = make_transfer_router("blobs")

_BLOB = "/blobs/{digest}"
_UPLOAD = "/blob-uploads/{upload_id}"
_PART = _UPLOAD + "/parts/{number}"


@router.post("/blobs/missing", responses={200: {"model": MissingBlobs}, **problem_responses()})
def find_missing_blobs(body: BlobDigests, deps: Deps) -> Response:
    """Return which of up to 5,000 blobs are not stored."""
    return json_response({"missing": deps.blobs.missing(body.digests)})


@transfers.post("/blobs", responses={200: {"model": StoredCount}, **problem_responses()}, openapi_extra=_BYTES_IN_BODY)
async def put_blobs(request: Request, deps: Deps) -> Response:
    """
    Store many small blobs: up to 16 MiB of them in one request.

    The body is a sequence of frames. A frame is a line `DIGEST SIZE` that ends with a line feed, and SIZE bytes.
    """
    body = await read_all(request, limit=_MAX_BATCH_BODY_BYTES)
    stored = await run_in_threadpool(lambda: deps.blobs.put(parse_frames(body)))
    return json_response({"stored": stored})


@transfers.put(_BLOB, responses={200: {"model": BlobJson}, **problem_responses()}, openapi_extra=_BYTES_IN_BODY)
async def put_blob(digest: str, request: Request, deps: Deps) -> Response:
    """Store a blob of up to 64 MiB. Its bytes must have the digest."""
    blob = await run_in_threadpool(deps.blobs.open_blob, digest)
    size = await receive(request, blob, limit=PART_BYTES)
    return json_response({"digest": digest, "size": size})


@router.post("/blobs/verify", responses={200: {"model": MissingBlobs}, **problem_responses()})
def verify_blobs(body: BlobDigests, deps: Deps) -> Response:
    """
    Read blobs back, compare their digests, and return those that are damaged or not stored.

    A damaged blob is not stored any more: to log an artifact with its content again stores it again.
    """
    return json_response({"missing": deps.blobs.find_damaged(body.digests)})


@router.post("/blobs/read", responses=_READ_BYTES, response_class=Response)
def read_blobs(body: BlobDigests, deps: Deps, visibility: VisibilityDep) -> Response:
    """Return many small blobs, up to 16 MiB in all, in the frames of `POST /blobs`."""
    check_blobs(deps, visibility, body.digests)
    blobs = deps.blobs.stored_many(body.digests)
    if (size := sum(blob.size for blob in blobs)) > MAX_BATCH_BYTES:
        raise InvalidInput(f"the blobs have {size:,} bytes; at most {MAX_BATCH_BYTES:,} are allowed in one request")

    framed = b"".join(frame(blob.digest, b"".join(deps.blobs.read(blob))) for blob in blobs)
    return Response(framed, media_type="application/octet-stream")


@transfers.get(_BLOB, responses=_READ_BYTES, response_class=Response)
async def get_blob(digest: str, request: Request, deps: Deps, visibility: VisibilityDep) -> Response:
    """Return the bytes of a blob, or redirect to where they are. `Range` is supported."""
    if visibility.registry is not None:
        await run_in_threadpool(check_blobs, deps, visibility, [digest])
    blob = await run_in_threadpool(deps.blobs.stored, digest)
    return await blob_response(deps.blobs, blob, requested=request.headers.get("range"))


@router.post("/blob-uploads", responses={200: {"model": StartedUpload}, **problem_responses()})
def begin_upload(body: NewUpload, deps: Deps) -> Response:
    """Begin the upload of a large blob in parts of 64 MiB, or resume one. Returns null if the blob is stored."""
    upload = deps.blobs.begin_upload(body.digest, body.size)
    return json_response({"upload": _upload_json(upload) if upload else None})


@router.get(_UPLOAD, responses={200: {"model": BlobUploadJson}, **problem_responses(404)})
def get_upload(upload_id: str, deps: Deps) -> Response:
    """Return an upload with the parts that have arrived."""
    return json_response(_upload_json(deps.blobs.upload(upload_id)))


@transfers.put(
    _PART,
    responses={200: {"model": BlobUploadJson}, **problem_responses(404)},
    openapi_extra=_BYTES_IN_BODY,
)
async def put_part(
    upload_id: str,
    number: int,
    request: Request,
    deps: Deps,
    checksum: Annotated[str, Header(alias=CHECKSUM_HEADER, description="`sha256:…` of the part.")],
) -> Response:
    """Store one part of an upload. A part that was sent before is replaced."""
    upload = await run_in_threadpool(deps.blobs.upload, upload_id)
    part = await run_in_threadpool(deps.blobs.open_part, upload, number, checksum)
    size = upload.part_size(number)
    await receive(request, part, limit=size, size=size)
    # Not read again: other parts arrive at the same time, and somebody else may have completed the upload.
    return json_response(_upload_json(replace(upload, parts={**upload.parts, number: checksum})))


@router.post(_PART + "/address", responses={200: {"model": PartAddress}, **problem_responses(404)})
def sign_part(upload_id: str, number: int, body: SentPart, deps: Deps) -> Response:
    """Return an address to which a part can be `PUT` for an hour without this server, or null."""
    url = deps.blobs.sign_part(deps.blobs.upload(upload_id), number, body.digest)
    return json_response({"url": url})


@router.post(_PART, responses={200: {"model": BlobUploadJson}, **problem_responses(404, 409)})
def record_part(upload_id: str, number: int, body: SentPart, deps: Deps) -> Response:
    """Record a part that was sent to its address."""
    deps.blobs.record_part(deps.blobs.upload(upload_id), number, body.digest)
    return json_response(_upload_json(deps.blobs.upload(upload_id)))


@router.post(_UPLOAD + "/complete", responses={200: {"model": BlobJson}, **problem_responses(404, 409)})
def complete_upload(upload_id: str, deps: Deps) -> Response:
    """Complete an upload: the blob is read back, its digest is compared, and it becomes visible."""
    blob = deps.blobs.complete(deps.blobs.upload(upload_id))
    return json_response({"digest": blob.digest, "size": blob.size})


def _upload_json(upload: BlobUpload) -> BlobUploadJson:
    return {
        "id": upload.id,
        "digest": upload.digest,
        "size": upload.size,
        "part_size": PART_BYTES,
        "part_count": upload.part_count,
        "received": sorted(upload.parts),
    }
