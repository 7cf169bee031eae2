"""
Objects of buckets that artifacts refer to (`s3://BUCKET/KEY`). It needs the extra `s3`.

The credentials are those of AWS's own variables, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from upshot.errors import InvalidInput, NotFound

if TYPE_CHECKING:  # these types exist for type checkers only
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ClientConfig

_CHUNK_BYTES = 8 * 1024 * 1024
_RETRY_SECONDS = 20
_VERSION = "?versionId="


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a bucket."""

    uri: str  #: with the version, if the store keeps versions
    key: str
    size: int
    checksum: str | None  #: `etag:…`


def find_objects(uri: str) -> Iterator[StoredObject]:
    """
    Yield the object of an address, or all objects below it, as below a directory.

    Raises:
        InvalidInput: Nothing is there, or the bucket cannot be read.
    """
    bucket, key, version = _split(uri)
    with _reporting(uri):
        store = _store(bucket)
        if key and not key.endswith("/"):
            try:
                meta = obstore.get(store, key, options=_options(version, head=True)).meta
            except FileNotFoundError:
                if version:
                    raise
            else:
                # An empty object with objects below it stands for a folder: some tools create one.
                if meta["size"] or version or not any(obstore.list(store, key)):
                    version = version or meta["version"]
                    yield _stored(bucket, meta, f"{_VERSION}{version}" if version else "")
                    return
        is_empty = True
        for batch in obstore.list(store, key.rstrip("/") or None):
            for meta in batch:
                if not meta["path"].endswith("/"):  # what consoles create for a folder
                    is_empty = False
                    yield _stored(bucket, meta, "")
        if is_empty:
            raise NotFound(f"{uri}: there is no such object, and nothing below it")


def fetch(uri: str, path: Path) -> str | None:
    """
    Write an object to a new path, and return its checksum.

    Raises:
        InvalidInput: There is no such object, or the bucket cannot be read.
    """
    bucket, key, version = _split(uri)
    with _reporting(uri), path.open("xb") as file:
        found = obstore.get(_store(bucket), key, options=_options(version))
        for chunk in found.stream(_CHUNK_BYTES):
            file.write(chunk)
        return _checksum(found.meta)


def key_of(uri: str) -> str:
    """Return the key in the bucket."""
    return _split(uri)[1]


def _split(uri: str) -> tuple[str, str, str | None]:
    """Return bucket, key and version. A key may have any character, so it is not parsed as a URL."""
    bucket, _, rest = uri.partition("://")[2].partition("/")
    key, mark, version = rest.rpartition(_VERSION)
    if not bucket:
        raise InvalidInput(f"reference {uri!r}: the bucket is missing; write s3://BUCKET/KEY")
    return (bucket, key, version) if mark else (bucket, rest, None)


def _stored(bucket: str, meta: ObjectMeta, version: str) -> StoredObject:
    return StoredObject(f"s3://{bucket}/{meta['path']}{version}", meta["path"], meta["size"], _checksum(meta))


def _checksum(meta: ObjectMeta) -> str | None:
    return f"etag:{meta['e_tag']}" if meta["e_tag"] else None


def _options(version: str | None, *, head: bool = False) -> GetOptions:
    options: GetOptions = {"head": head}
    if version:
        options["version"] = version
    return options


def _store(bucket: str) -> S3Store:
    variables = os.environ.items()  # noqa: TID251 - of AWS's tools, not settings of Upshot
    return _store_with(bucket, tuple(sorted((name, value) for name, value in variables if name.startswith("AWS_"))))


@lru_cache(maxsize=16)
def _store_with(bucket: str, variables: tuple[tuple[str, str], ...]) -> S3Store:
    """Return a store that keeps its connections. obstore reads the same variables."""
    of_aws = dict(variables)
    endpoint = of_aws.get("AWS_ENDPOINT_URL_S3") or of_aws.get("AWS_ENDPOINT_URL") or of_aws.get("AWS_ENDPOINT")
    client: ClientConfig = {"allow_http": bool(endpoint and endpoint.startswith("http://"))}
    return S3Store(
        bucket,
        client_options=client,
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
    )


@contextmanager
def _reporting(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InvalidInput(f"{uri}: there is no such object; correct the address, or use checksum=False") from error
    except NotFound as error:
        raise InvalidInput(f"{error}; correct the address, or use checksum=False") from error
    except BaseError as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInput(
            f"{uri}: {reason}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL"
        ) from error
