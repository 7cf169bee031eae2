"""Names of container images: their syntax, and how an operator's patterns match them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

MAX_IMAGE_CHARS = 512

_HUB = "docker.io"  # engines add it to a name without a host, and `library/` to a name without a slash
_HOST = r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?"
_WORD = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}"
_IMAGE = re.compile(rf"(?:{_HOST}/)?{_WORD}(?:/{_WORD})*(?::{_TAG})?(?:@{_DIGEST})?")
_TAG_OR_DIGEST = re.compile(rf"(?::{_TAG})?(?:@{_DIGEST})?$")


def check_image(text: str) -> str | None:
    """Return what is wrong with the name of an image, or None."""
    if len(text) > MAX_IMAGE_CHARS:
        return f"has {len(text)} characters; the name of an image has at most {MAX_IMAGE_CHARS}; write a shorter name"
    if _IMAGE.fullmatch(text):
        return None
    if "://" in text:
        return f"{text!r} is a URL; write the image without {text.partition('://')[0]}://"
    if text != text.lower() and _IMAGE.fullmatch(text.lower()):
        return f"{text!r} is not an image; image names are in lower case, so write {text.lower()}"
    return f"{text!r} is not an image; write a name such as ghcr.io/acme/evaluate:1.4"


def image_matches(image: str, pattern: str) -> bool:
    """
    Return whether a glob matches an image. Both are completed first: `python` is `docker.io/library/python`.

    A glob without a tag matches all tags, and `*` alone matches every image. The `*` in a glob without a
    host never matches a host: `python*` does not match `python.example.com/anything`.
    """
    if pattern == "*":
        return True
    full_name, glob = _full_name(image), _full_name(pattern)
    return fnmatchcase(full_name, glob) or fnmatchcase(_TAG_OR_DIGEST.sub("", full_name), glob)


def _full_name(name: str) -> str:
    host, slash, path = name.partition("/")
    # Engines take the part before the first slash as a host only if no repository on Docker Hub can be named so.
    is_host = slash and (host == "localhost" or host != host.lower() or any(sign in host for sign in ".:*"))
    if not is_host:
        host, path = _HUB, name
    if host in (_HUB, f"index.{_HUB}"):
        return f"{_HUB}/{path}" if "/" in path else f"{_HUB}/library/{path}"
    return name
