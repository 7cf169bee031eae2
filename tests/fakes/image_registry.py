"""A fake image registry: one image, over the protocol that engines pull with, with or without a password."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import platform
from types import TracebackType
from typing import Any, Self

from aiohttp import web

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class FakeImageRegistry:
    """
    Serves `NAME:1` on a free loopback port, which engines on the same machine accept without TLS.

    Args:
        tar: The image's root file system.
        config: Configuration of the image: `Entrypoint`, `Cmd`, `Env`, `User`.
        password: Password of the user `robot`; None: everyone may pull.
    """

    name = "upshot-test/pulled"

    def __init__(self, tar: bytes, config: dict[str, Any] | None = None, *, password: str | None = None) -> None:
        self._password = password
        layer = gzip.compress(tar, 1)
        image = {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar)]},
        }
        image_json = json.dumps(image).encode()
        self._blobs = {_digest(layer): layer, _digest(image_json): image_json}
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor("application/vnd.docker.container.image.v1+json", image_json),
            "layers": [_descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
        }
        self._manifest = json.dumps(manifest).encode()
        self.digest = _digest(self._manifest)
        self.requests: list[str] = []  #: paths, in order
        self.serves_blobs = asyncio.Event()  #: while it is cleared, requests for layers get no answer
        self.serves_blobs.set()
        self.port = 0

    @property
    def image(self) -> str:
        """Name of the image, as a job writes it."""
        return f"127.0.0.1:{self.port}/{self.name}:1"

    async def has_blob_request(self) -> bool:
        """Return whether an engine has begun to pull."""
        return any("/blobs/" in path for path in self.requests)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v2/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.serves_blobs.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        self.requests.append(path)
        credentials = base64.b64encode(f"robot:{self._password}".encode()).decode()
        if self._password is not None and request.headers.get("Authorization") != f"Basic {credentials}":
            return web.json_response(
                {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
                status=401,
                headers={"WWW-Authenticate": 'Basic realm="upshot"'},
            )
        if not path:
            return web.json_response({})
        name, kind, reference = path.rsplit("/", 2)
        if name == self.name and kind == "manifests" and reference in ("1", "latest", self.digest):
            headers = {"Docker-Content-Digest": self.digest, "Content-Type": _MANIFEST}
            return web.Response(body=self._manifest, headers=headers)
        if name == self.name and kind == "blobs" and reference in self._blobs:
            await self.serves_blobs.wait()
            return web.Response(body=self._blobs[reference], headers={"Docker-Content-Digest": reference})
        errors = [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]
        return web.json_response({"errors": errors}, status=404)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(content), "digest": _digest(content)}
