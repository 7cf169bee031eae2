"""The images of an engine: there, pulled, or missing."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from upshot.backends.docker.client import DockerApiError, DockerClient, DockerServerError
from upshot.backends.protocol import StartRefused
from upshot.domain.job import FailureKind, JobSpec, Pull

_QUIET_SECONDS = 300.0  # of a pull, without a word on how far it is
_HUB = "https://index.docker.io/v1/"  # how registries' credentials name Docker Hub


class Images:
    """
    What an engine has, and what it can be made to have.

    Args:
        engine: Whose.
    """

    def __init__(self, engine: DockerClient) -> None:
        self._engine = engine
        self._digests: dict[str, str] = {}  # by the image's own id

    async def bring(self, spec: JobSpec) -> Mapping[str, Any]:
        """
        Have the image, pulled as the spec says, and tell what the engine knows of it.

        Raises:
            StartRefused: It is not there, and may not or cannot be pulled.
        """
        try:
            return await self._bring(spec)
        except DockerApiError as refusal:
            raise StartRefused(FailureKind.REFUSED, f"image {spec.image}: {refusal}") from refusal

    async def digest_of(self, image_id: str, name: str) -> str:
        """The digest of a container's image, which may be gone since."""
        if image_id not in self._digests:
            try:
                image = await self._find(image_id)
            except DockerApiError as refusal:
                raise self._engine.unexpected(refusal) from refusal
            return image_id if image is None else self.digest(image, name)
        return self._digests[image_id]

    def digest(self, image: Mapping[str, Any], name: str) -> str:
        """The registry's digest of an image, under this name if it has several; its own id where it has none."""
        repository = name.partition("@")[0]
        found = [one.partition("@") for one in image.get("RepoDigests") or ()]
        found.sort(key=lambda one: not (repository == one[0] or repository.startswith(f"{one[0]}:")))
        digest = str(found[0][2]) if found else str(image["Id"])
        self._digests[str(image["Id"])] = digest
        return digest

    async def _bring(self, spec: JobSpec) -> Mapping[str, Any]:
        image = None if spec.pull is Pull.ALWAYS else await self._find(spec.image)
        if image is None and spec.pull is Pull.NEVER:
            raise StartRefused(
                FailureKind.IMAGE_MISSING,
                f"image {spec.image} is not on {self._engine.address}, and `pull: never` forbids to pull it; "
                "bring it there, or write `pull: missing`",
            )
        if image is None:
            await self._pull(spec)
            image = await self._find(spec.image)
        if image is None:
            raise StartRefused(FailureKind.IMAGE_MISSING, f"image {spec.image} was pulled, and is gone again")
        return image

    async def _find(self, name: str) -> Mapping[str, Any] | None:
        try:
            image: Mapping[str, Any] = await self._engine.ask(f"images/{quote(name, safe='/:@')}/json")
        except DockerApiError as refusal:
            if refusal.is_missing:
                return None
            raise
        return image

    async def _pull(self, spec: JobSpec) -> None:
        params = {"fromImage": spec.image}
        if ":" not in spec.image.rpartition("/")[2] and "@" not in spec.image:
            params["tag"] = "latest"  # without it, the engine would pull all tags
        headers = _credentials(spec)
        try:
            async with self._engine.answer(
                "images/create", "POST", params=params, headers=headers, quiet_seconds=_QUIET_SECONDS
            ) as response:
                async for progress in self._engine.values(response):
                    if "error" in progress:
                        raise DockerApiError(response.status, str(progress["error"]))
        except (DockerApiError, DockerServerError) as error:
            await self._engine.check_alive(error)
            raise StartRefused(FailureKind.IMAGE_MISSING, f"image {spec.image} cannot be pulled: {error}") from error


def _credentials(spec: JobSpec) -> Mapping[str, str] | None:
    if spec.registry_auth is None:
        return None
    host, slash, _ = spec.image.partition("/")
    is_host = slash and (host == "localhost" or "." in host or ":" in host)
    auth = {
        "username": spec.registry_auth.username,
        "password": spec.registry_auth.password,
        "serveraddress": host if is_host else _HUB,
    }
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()}
