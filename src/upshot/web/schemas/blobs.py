"""Requests and responses about blobs."""

from __future__ import annotations

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.web.schemas.requests import RequestBody


class BlobDigests(RequestBody):
    """Digests of blobs."""

    digests: list[str] = Field(description="Up to 5,000 digests, `sha256:…`.")


class NewUpload(RequestBody):
    """A large blob to upload in parts."""

    digest: str = Field(description="`sha256:…` of the whole blob.")
    size: int = Field(ge=0, description="Bytes of the whole blob.")


class SentPart(RequestBody):
    """A part of an upload that goes to a presigned address."""

    digest: str = Field(description="`sha256:…` of the part.")


class PartAddress(TypedDict):
    """Where a part of an upload can be sent."""

    url: str | None  #: for `PUT`; null if the part goes to this server


class BlobJson(TypedDict):
    """A blob that is stored."""

    digest: str
    size: int


class StoredCount(TypedDict):
    """The result of a request with many small blobs."""

    stored: int  #: how many were not stored before


class BlobUploadJson(TypedDict):
    """The upload of a large blob."""

    id: str
    digest: str
    size: int
    part_size: int  #: bytes of every part but the last
    part_count: int
    received: list[int]  #: numbers of the parts that have arrived, from 1


class StartedUpload(TypedDict):
    """An upload that was begun or resumed."""

    upload: BlobUploadJson | None  #: null if the blob is stored
