"""Names of images: their syntax, and which patterns match them."""

from __future__ import annotations

import pytest

from upshot.domain.image import check_image, image_matches

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "image",
    [
        "busybox",
        "python:3.12-slim",
        "ghcr.io/acme/evaluate:1.4",
        "localhost:5000/a/b_c/d--e:latest",
        f"ghcr.io/acme/evaluate:1.4@{DIGEST}",
        f"acme/evaluate@{DIGEST}",
        DIGEST,
    ],
)
def test_names_of_images_are_valid(image):
    """Every name that an engine accepts is valid."""
    assert check_image(image) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "is not an image", id="empty"),
        pytest.param("a b", "is not an image", id="space"),
        pytest.param("acme/../etc", "is not an image", id="dots"),
        pytest.param("ghcr.io/Acme/Evaluate:V1", "write ghcr.io/acme/evaluate:v1", id="upper case"),
        pytest.param("https://ghcr.io/acme/evaluate", "write the image without https://", id="URL"),
        pytest.param("a" * 600, "has at most 512", id="long"),
        pytest.param("a:" + "b" * 200, "is not an image", id="long tag"),
    ],
)
def test_other_texts_are_not_images(text, message):
    """The message says what to write instead."""
    assert message in (check_image(text) or "")


@pytest.mark.parametrize(
    ("image", "pattern", "matches"),
    [
        pytest.param("ghcr.io/acme/evaluate:1.4", "ghcr.io/acme/*", True, id="in the namespace"),
        pytest.param("ghcr.io/acme/team/evaluate", "ghcr.io/acme/*", True, id="deeper in the namespace"),
        pytest.param("ghcr.io/acme-evil/evaluate", "ghcr.io/acme/*", False, id="similar namespace"),
        pytest.param("ghcr.io/acme/evaluate:1.4", "ghcr.io/acme/evaluate", True, id="no tag matches all tags"),
        pytest.param("ghcr.io/acme/evaluate:1.4", "ghcr.io/acme/evaluate:1.*", True, id="some tags"),
        pytest.param("ghcr.io/acme/evaluate:2.0", "ghcr.io/acme/evaluate:1.*", False, id="other tags"),
        pytest.param(f"ghcr.io/acme/evaluate@{DIGEST}", "ghcr.io/acme/*@sha256:*", True, id="pinned"),
        pytest.param("ghcr.io/acme/evaluate:1.4", "ghcr.io/acme/*@sha256:*", False, id="not pinned"),
        pytest.param("busybox", "docker.io/library/*", True, id="short name on Docker Hub"),
        pytest.param("docker.io/busybox", "busybox", True, id="name on Docker Hub with a host"),
        pytest.param("index.docker.io/library/busybox:1", "busybox:*", True, id="other host of Docker Hub"),
        pytest.param("acme/evaluate", "acme/*", True, id="namespace on Docker Hub"),
        pytest.param("python.example.com/anything", "python*", False, id="a host is not a name on Docker Hub"),
        pytest.param("PYTHON/anything", "python*", False, id="host in upper case"),
        pytest.param(DIGEST, "ghcr.io/*", False, id="an id has no origin"),
        pytest.param("anything.example.com/a:1", "*", True, id="every image"),
        pytest.param("localhost:5000/a", "localhost:5000/*", True, id="own image registry"),
    ],
)
def test_patterns_match_full_names(image, pattern, matches):
    """Names are completed as engines complete them, so that a short name cannot imitate another image."""
    assert image_matches(image, pattern) is matches
