"""Names of image registries in container images."""

from __future__ import annotations

_DOCKER_HUB = "https://index.docker.io/v1/"


def credentials_key(image: str) -> str:
    """Return the name under which Docker and Kubernetes look for the credentials of an image's registry."""
    host, slash, _ = image.partition("/")
    is_host = slash and (host == "localhost" or "." in host or ":" in host)
    return host if is_host else _DOCKER_HUB
