"""Names of images: which are ones, and which an operator's pattern means."""

from __future__ import annotations

import pytest

from upshot.domain.image import is_meant, judge_image

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
def test_names_of_images_are_taken(image):
    """Whatever an engine would take."""
    assert judge_image(image) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "is not an image", id="empty"),
        pytest.param("a b", "is not an image", id="space"),
        pytest.param("acme/../etc", "is not an image", id="dots"),
        pytest.param("ghcr.io/Acme/Evaluate:V1", "write ghcr.io/acme/evaluate:v1", id="capitals"),
        pytest.param("https://ghcr.io/acme/evaluate", "write the image without https://", id="URL"),
        pytest.param("a" * 600, "has at most 512", id="long"),
        pytest.param("a:" + "b" * 200, "is not an image", id="long tag"),
    ],
)
def test_what_is_no_image_is_found(text, says):
    """Before an engine is asked."""
    assert says in (judge_image(text) or "")


@pytest.mark.parametrize(
    ("image", "pattern", "meant"),
    [
        pytest.param("ghcr.io/acme/evaluate:1.4", "ghcr.io/acme/*", True, id="below"),
        pytest.param("ghcr.io/acme/team/evaluate", "ghcr.io/acme/*", True, id="further below"),
        pytest.param("ghcr.io/acme-evil/evaluate", "ghcr.io/acme/*", False, id="beside"),
        pytest.param("ghcr.io/acme/evaluate:1.4", "ghcr.io/acme/evaluate", True, id="no tag means all"),
        pytest.param("ghcr.io/acme/evaluate:1.4", "ghcr.io/acme/evaluate:1.*", True, id="some tags"),
        pytest.param("ghcr.io/acme/evaluate:2.0", "ghcr.io/acme/evaluate:1.*", False, id="other tags"),
        pytest.param(f"ghcr.io/acme/evaluate@{DIGEST}", "ghcr.io/acme/*@sha256:*", True, id="pinned"),
        pytest.param("ghcr.io/acme/evaluate:1.4", "ghcr.io/acme/*@sha256:*", False, id="not pinned"),
        pytest.param("busybox", "docker.io/library/*", True, id="the hub's short name"),
        pytest.param("docker.io/busybox", "busybox", True, id="the hub's longer name"),
        pytest.param("index.docker.io/library/busybox:1", "busybox:*", True, id="the hub's other name"),
        pytest.param("acme/evaluate", "acme/*", True, id="of somebody on the hub"),
        pytest.param("python.example.com/anything", "python*", False, id="a host is no name on the hub"),
        pytest.param("PYTHON/anything", "python*", False, id="a host in capitals is none either"),
        pytest.param(DIGEST, "ghcr.io/*", False, id="an id says not where it comes from"),
        pytest.param("anything.example.com/a:1", "*", True, id="every image"),
        pytest.param("localhost:5000/a", "localhost:5000/*", True, id="a registry of one's own"),
    ],
)
def test_a_pattern_means_whole_names(image, pattern, meant):
    """As engines complete them; a short name cannot be passed off as another's."""
    assert is_meant(image, pattern) is meant
