"""The images of an engine: find them, pull them, read their digests."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from upshot.backends.docker.client import DockerApiError, DockerClient, DockerServerError
from upshot.backends.image_registry import credentials_key
from upshot.backends.protocol import StartRefused
from upshot.domain.job import FailureKind, JobSpec, Pull

_PULL_IDLE_SECONDS = 300.0  # without a report on the pull's progress


class Images:
    """
    The images of one engine.

    Args:
        client: Client of the engine.
    """

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._digests: dict[str, str] = {}  # by the image's own id

    async def ensure(self, spec: JobSpec) -> Mapping[str, Any]:
        """
        Make the image available, pulled as the spec says, and return what the engine knows about it.

        Raises:
            StartRefused: The image does not exist, and may not or cannot be pulled.
        """
        try:
            image = None if spec.pull is Pull.ALWAYS else await self._find(spec.image)
            if image is None and spec.pull is Pull.NEVER:
                raise StartRefused(
                    FailureKind.IMAGE_MISSING,
                    f"image {spec.image} does not exist on {self._client.address}, and `pull: never` forbids pulling; "
                    "load it there, or write `pull: missing`",
                )
            if image is None:
                await self._pull(spec)
                image = await self._find(spec.image)
        except DockerApiError as error:
            raise StartRefused(FailureKind.REFUSED, f"image {spec.image}: {error}") from error
        if image is None:
            raise StartRefused(FailureKind.IMAGE_MISSING, f"image {spec.image} was removed right after it was pulled")
        return image

    async def find_digest(self, image_id: str, image_name: str) -> str:
        """Return the digest of a container's image, which may have been removed since."""
        if image_id not in self._digests:
            try:
                image = await self._find(image_id)
            except DockerApiError as error:
                raise self._client.as_unavailable(error) from error
            return image_id if image is None else self.read_digest(image, image_name)
        return self._digests[image_id]

    def read_digest(self, image: Mapping[str, Any], image_name: str) -> str:
        """Return the digest that the image registry knows, preferably for this name; otherwise the image's own id."""
        repository = image_name.partition("@")[0]
        found = [reference.partition("@") for reference in image.get("RepoDigests") or ()]
        found.sort(key=lambda parts: not (repository == parts[0] or repository.startswith(f"{parts[0]}:")))
        digest = str(found[0][2]) if found else str(image["Id"])
        self._digests[str(image["Id"])] = digest
        return digest

    async def _find(self, name: str) -> Mapping[str, Any] | None:
        try:
            image: Mapping[str, Any] = await self._client.request_json(f"images/{quote(name, safe='/:@')}/json")
        except DockerApiError as error:
            if error.is_missing:
                return None
            raise
        return image

    async def _pull(self, spec: JobSpec) -> None:
        params = {"fromImage": spec.image}
        if ":" not in spec.image.rpartition("/")[2] and "@" not in spec.image:
            params["tag"] = "latest"  # without a tag, the engine pulls all of them
        headers = {}
        if spec.registry_auth is not None:
            credentials = {
                "username": spec.registry_auth.username,
                "password": spec.registry_auth.password,
                "serveraddress": credentials_key(spec.image),
            }
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()
        try:
            async with self._client.request(
                "images/create", "POST", params=params, headers=headers, idle_seconds=_PULL_IDLE_SECONDS
            ) as response:
                async for progress in self._client.iter_json_lines(response):
                    if "error" in progress:
                        raise DockerApiError(response.status, str(progress["error"]))
        except (DockerApiError, DockerServerError) as error:
            await self._client.check_alive(error)
            raise StartRefused(FailureKind.IMAGE_MISSING, f"image {spec.image} cannot be pulled: {error}") from error
