"""A registry of images for tests: one image, over the protocol that engines pull with, with or without a password."""

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

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """
    Serves `NAME:1` on a free loopback port, which engines of the same machine take for safe without TLS.

    Args:
        tar: The image's root file system.
        config: Of the image: `Entrypoint`, `Cmd`, `Env`, `User`.
        password: None: anybody may pull; otherwise the user `robot` with this one.
    """

    name = "upshot-test/pulled"

    def __init__(self, tar: bytes, config: dict[str, Any] | None = None, *, password: str | None = None) -> None:
        self._password = password
        layer = gzip.compress(tar, 1)
        self._blobs = {_digest(layer): layer}
        image = {
            "architecture": _MACHINES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar)]},
        }
        made = json.dumps(image).encode()
        self._blobs[_digest(made)] = made
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _part("application/vnd.docker.container.image.v1+json", made),
            "layers": [_part("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
        }
        self._manifest = json.dumps(manifest).encode()
        self.digest = _digest(self._manifest)
        self.asked: list[str] = []  #: paths, in order
        self.goes_on = asyncio.Event()  #: cleared: layers do not come
        self.goes_on.set()
        self.port = 0

    @property
    def image(self) -> str:
        """What a job writes as its image."""
        return f"127.0.0.1:{self.port}/{self.name}:1"

    async def is_asked_for_blobs(self) -> bool:
        """An engine is on its way to pull."""
        return any("/blobs/" in path for path in self.asked)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v2/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.goes_on.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        self.asked.append(path)
        if not self._may(request):
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
            await self.goes_on.wait()
            return web.Response(body=self._blobs[reference], headers={"Docker-Content-Digest": reference})
        errors = [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]
        return web.json_response({"errors": errors}, status=404)

    def _may(self, request: web.Request) -> bool:
        expected = base64.b64encode(f"robot:{self._password}".encode()).decode()
        return self._password is None or request.headers.get("Authorization") == f"Basic {expected}"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _part(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}
