"""Names of container images: what one looks like, and whether a pattern of an operator's means it."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

MAX_IMAGE_CHARS = 512

_HUB = "docker.io"  # what engines put before a name without a host, and `library/` before one without a slash
_HOST = r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?"
_WORD = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}"
_IMAGE = re.compile(rf"(?:{_HOST}/)?{_WORD}(?:/{_WORD})*(?::{_TAG})?(?:@{_DIGEST})?")
_TAG_OR_DIGEST = re.compile(rf"(?::{_TAG})?(?:@{_DIGEST})?$")


def judge_image(text: str) -> str | None:
    """Tell what is wrong with an image's name; None where nothing is."""
    if len(text) > MAX_IMAGE_CHARS:
        return f"has {len(text)} characters; the name of an image has at most {MAX_IMAGE_CHARS}"
    if _IMAGE.fullmatch(text):
        return None
    if "://" in text:
        return f"{text!r} is a URL; write the image without {text.partition('://')[0]}://"
    if text != text.lower() and _IMAGE.fullmatch(text.lower()):
        return f"{text!r} is not an image: its name is in lower case; write {text.lower()}"
    return f"{text!r} is not an image; write one such as ghcr.io/acme/evaluate:1.4"


def is_meant(image: str, pattern: str) -> bool:
    """
    Tell whether a glob means an image, both by their whole names: `python` is `docker.io/library/python`.

    A glob without a tag means all tags; `*` alone means every image. A host is never matched by the
    `*` of a name without one: `python*` does not mean `python.example.com/anything`.
    """
    if pattern == "*":
        return True
    whole, glob = _whole(image), _whole(pattern)
    return fnmatchcase(whole, glob) or fnmatchcase(_TAG_OR_DIGEST.sub("", whole), glob)


def _whole(name: str) -> str:
    host, slash, path = name.partition("/")
    if not slash or not _is_host(host):
        host, path = _HUB, name
    if host in (_HUB, f"index.{_HUB}"):
        return f"{_HUB}/{path}" if "/" in path else f"{_HUB}/library/{path}"
    return name


def _is_host(word: str) -> bool:
    """As engines tell it: what comes before the first slash is a host only if it looks like none of Docker Hub's."""
    return word == "localhost" or word != word.lower() or any(sign in word for sign in ".:*")
