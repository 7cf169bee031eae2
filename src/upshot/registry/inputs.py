"""What people may put into the registry: sizes, forms, and what is said about the rest."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from upshot.domain.reference import check_alias, check_name
from upshot.errors import InvalidInput
from upshot.ids import EventId

MAX_JSON_BYTES = 65_536  #: of metadata, or of a custom event's data: a CloudEvent should stay within 64 KB
MAX_JSON_DEPTH = 32
MAX_DESCRIPTION_CHARS = 32_768
MAX_ALIASES_AT_ONCE = 100  #: in one call
MAX_ALIASES = 1_000  #: of one collection, or of one artifact
MAX_TAGS = 100  #: of one version or collection
MAX_MANIFEST_ENTRIES = 10_000
MAX_MANIFEST_PATH_CHARS = 1_024
MAX_MANIFEST_BYTES = 4_194_304
MAX_EMITTED_AT_ONCE = 1_000
MAX_PROTECTED_PATTERNS = 100

_INT64 = range(-(2**63), 2**64)  # what JSON writers and readers agree on
_DIGEST = re.compile(r"[!-~]{1,200}")  # visible ASCII: `sha256:…`, an etag, a commit
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")  # PostgreSQL keeps no NUL, UTF-8 has no lone surrogates


def check_json(value: object, what: str) -> dict[str, Any]:
    """
    Let plain data through, as a copy.

    Args:
        value: What should be a JSON object: metadata, or the data of an event.
        what: What it is, for the message.

    Raises:
        InvalidInput: It holds what is no JSON (NaN, infinity, an object of Python), is nested too deeply or too big.
    """
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: a {type(value).__name__} is given; a JSON object is needed")
    _check_json(value, what, depth=1)
    text = orjson.dumps(value)
    if len(text) > MAX_JSON_BYTES:
        raise InvalidInput(f"{what}: {len(text):,} bytes of JSON; at most {MAX_JSON_BYTES:,} are allowed")
    copy: dict[str, Any] = orjson.loads(text)
    return copy


def _check_json(value: Any, place: str, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise InvalidInput(f"{place}: nested deeper than {MAX_JSON_DEPTH} levels")
    match value:
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInput(f"{place}: the key {key!r} is no string")
                _check_text(key, f"{place}: a key")
                _check_json(item, f"{place}.{key}", depth + 1)
        case list() | tuple():
            for index, item in enumerate(value):
                _check_json(item, f"{place}[{index}]", depth + 1)
        case _:
            _check_leaf(value, place)


def _check_leaf(value: Any, place: str) -> None:
    match value:
        case None | bool():
            return
        case str():
            _check_text(value, place)
        case int():
            if value not in _INT64:
                raise InvalidInput(f"{place}: {value} does not fit into 64 bits; write it as a string")
        case float():
            if not math.isfinite(value):
                raise InvalidInput(f"{place}: {value} is no JSON number; leave it out, or write null or a string")
        case _:
            raise InvalidInput(f"{place}: a {type(value).__name__} is no JSON; write it as a string or a number")


def _check_text(text: str, place: str) -> None:
    if found := _UNSTORABLE.search(text):
        raise InvalidInput(f"{place}: the character {found.group()!r} cannot be kept; leave it out")


def check_description(text: str, what: str) -> str:
    """
    Let a description (Markdown) through.

    Raises:
        InvalidInput: It is too long, or holds a character that cannot be kept.
    """
    if len(text) > MAX_DESCRIPTION_CHARS:
        raise InvalidInput(
            f"{what}: the description has {len(text):,} characters; at most {MAX_DESCRIPTION_CHARS:,} are allowed"
        )
    _check_text(text, f"{what}: the description")
    return text


def check_aliases(aliases: Iterable[str]) -> tuple[str, ...]:
    """
    Let aliases through, each once, in the order given.

    Raises:
        InvalidInput: One is no good alias, or they are too many.
    """
    once = tuple(dict.fromkeys(check_alias(alias) for alias in aliases))
    if len(once) > MAX_ALIASES_AT_ONCE:
        raise InvalidInput(f"{len(once)} aliases at once; at most {MAX_ALIASES_AT_ONCE} are allowed")
    return once


def check_patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    """
    Let patterns of protected aliases through, each once, sorted.

    Raises:
        InvalidInput: One is empty, too long or unprintable, or they are too many.
    """
    once = tuple(sorted(set(patterns)))
    if len(once) > MAX_PROTECTED_PATTERNS:
        raise InvalidInput(f"{len(once)} protected aliases; at most {MAX_PROTECTED_PATTERNS} patterns are allowed")
    for pattern in once:
        # `?` and `[…]` belong to patterns, though not to names.
        check_name(pattern.replace("?", "_"), "protected alias")
    return once


def digest_of(
    digest: str | None, manifest: Mapping[str, str] | None, metadata: Mapping[str, Any]
) -> tuple[str, dict[str, str] | None]:
    """
    Name the content of an artifact version.

    Args:
        digest: As the user gave it; None where it is computed from the manifest.
        manifest: Content digest by path.
        metadata: What there is to go by when neither is given: a version that is logged with other
            metadata must not be taken for the one before, and its metadata be lost.

    Returns:
        The digest and the manifest, checked.

    Raises:
        InvalidInput: Either breaks a rule, or both are given and do not agree.
    """
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"digest {digest[:80]!r}: 1 to 200 visible ASCII characters are needed, such as sha256:…")
    if manifest is None and digest is not None:
        return digest, None
    if manifest is None:
        return f"sha256:{hashlib.sha256(orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS)).hexdigest()}", None
    checked = _check_manifest(manifest)
    text = orjson.dumps(checked)
    if len(text) > MAX_MANIFEST_BYTES:
        raise InvalidInput(f"manifest: {len(text):,} bytes of JSON; at most {MAX_MANIFEST_BYTES:,} are allowed")
    computed = f"sha256:{hashlib.sha256(text).hexdigest()}"
    if digest not in (None, computed):
        raise InvalidInput(f"digest {digest!r} is not that of the manifest, {computed}; leave one of the two out")
    return computed, checked


def _check_manifest(manifest: Mapping[str, str]) -> dict[str, str]:
    if len(manifest) > MAX_MANIFEST_ENTRIES:
        raise InvalidInput(f"manifest: {len(manifest):,} entries; at most {MAX_MANIFEST_ENTRIES:,} are allowed")
    for path, digest in manifest.items():
        _check_path(path)
        if not _DIGEST.fullmatch(digest):
            raise InvalidInput(
                f"manifest: the digest of {path!r} is {digest!r}; 1 to 200 visible ASCII characters are needed"
            )
    return dict(sorted(manifest.items()))


def _check_path(path: str) -> None:
    if not 0 < len(path) <= MAX_MANIFEST_PATH_CHARS:
        raise InvalidInput(f"manifest: a path has 1 to {MAX_MANIFEST_PATH_CHARS} characters, not {path[:80]!r}")
    _check_text(path, f"manifest: {path!r}")
    if "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise InvalidInput(f"manifest: {path!r} is no path inside the artifact; write it like data/train.csv")


def check_emitted(
    events: Sequence[tuple[str, Mapping[str, Any]]], event_ids: Sequence[EventId] | None
) -> list[tuple[str, dict[str, Any]]]:
    """
    Let custom events through.

    Raises:
        InvalidInput: A name or the data breaks a rule, there are too many, or not as many ids as events.
    """
    if not 0 < len(events) <= MAX_EMITTED_AT_ONCE:
        raise InvalidInput(f"{len(events):,} events at once; 1 to {MAX_EMITTED_AT_ONCE:,} are allowed")
    if event_ids is not None and len(event_ids) != len(events):
        raise InvalidInput(f"{len(events)} events, but {len(event_ids)} event ids")
    return [(check_name(name, "event"), check_json(data, f"event {name!r}: data")) for name, data in events]


def merge_patch(target: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    """The target with a JSON merge patch applied (RFC 7396): null removes a key, objects are merged."""
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = merge_patch(merged.get(key), value)
        else:
            merged[key] = value
    return merged
