"""Validate the input of the registry, and define its limits."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from upshot.domain.manifest import ManifestEntry
from upshot.domain.reference import check_alias, check_name
from upshot.errors import InvalidInput
from upshot.ids import EventId
from upshot.unicode_text import to_nfc

MAX_JSON_BYTES = 65_536  #: of the data of a custom event; a CloudEvent should stay within 64 KB
MAX_METADATA_BYTES = 262_144  #: of a version, or of a collection
MAX_RUN_JSON_BYTES = 2_097_152  #: of the config of a run, or of its summary
MAX_JSON_DEPTH = 32
MAX_DESCRIPTION_CHARS = 32_768
MAX_COMMENT_CHARS = 10_000
MAX_ALIASES_PER_REQUEST = 100
MAX_ALIASES = 1_000  #: of one collection, or of one artifact
MAX_TAGS = 100  #: of one version, collection or run
MAX_RUN_TEXT_CHARS = 128  #: of the name, job type, group or entity of a run
MAX_MANIFEST_ENTRIES = 10_000  #: in one request
MAX_FILES = 100_000  #: of one artifact version
MAX_FILES_PER_REQUEST = 5_000
MAX_URI_CHARS = 4_096
MAX_MANIFEST_PATH_CHARS = 1_024
MAX_MANIFEST_BYTES = 4_194_304
MAX_EVENTS_PER_REQUEST = 1_000
MAX_PROTECTED_PATTERNS = 100
MAX_ALLOWED_AUTOMATIONS = 100

_INT64 = range(-(2**63), 2**64)  # integers that all JSON readers and writers support
_DIGEST = re.compile(r"[!-~]{1,200}")  # visible ASCII: `sha256:…`, an etag, a commit
_BLOB_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")  # PostgreSQL cannot store NUL, and UTF-8 has no lone surrogates


class Unchanged:
    """The type of `UNCHANGED`, which stands for a value that is not changed where None is a value."""


UNCHANGED = Unchanged()


def check_metadata(value: object, what: str = "metadata") -> dict[str, Any]:
    """Validate metadata, and return a copy of it. See `check_json`."""
    return check_json(value, what, max_bytes=MAX_METADATA_BYTES)


def check_json(value: object, what: str, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """
    Validate a JSON object, and return a copy of it.

    Args:
        value: Metadata, or the data of an event.
        what: What the value is, for the message.
        max_bytes: Maximum size of the JSON text.

    Raises:
        InvalidInput: The value is not JSON (NaN, infinity, a Python object), or it is too large or nested too deeply.
    """
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: must be a JSON object, not a {type(value).__name__}")
    _check_json(value, what, depth=1)
    text = orjson.dumps(value)
    if len(text) > max_bytes:
        raise InvalidInput(f"{what}: {len(text):,} bytes of JSON; at most {max_bytes:,} are allowed")
    copy: dict[str, Any] = orjson.loads(text)
    return copy


def check_value(value: Any, what: str, *, max_bytes: int) -> None:
    """
    Validate a JSON value of any kind.

    Raises:
        InvalidInput: As `check_json` raises it.
    """
    _check_json(value, what, depth=1)
    check_size(value, what, max_bytes=max_bytes)


def check_size(value: Any, what: str, *, max_bytes: int) -> None:
    """
    Check the size of a valid JSON value.

    Raises:
        InvalidInput: It is too large.
    """
    if (size := len(orjson.dumps(value))) > max_bytes:
        raise InvalidInput(f"{what}: {size:,} bytes of JSON; at most {max_bytes:,} are allowed")


def _check_json(value: Any, path: str, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise InvalidInput(f"{path}: nested deeper than {MAX_JSON_DEPTH} levels")
    match value:
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInput(f"{path}: key {key!r} is not a string")
                _check_text(key, f"{path}: a key")
                _check_json(item, f"{path}.{key}", depth + 1)
        case list() | tuple():
            for index, item in enumerate(value):
                _check_json(item, f"{path}[{index}]", depth + 1)
        case str():
            _check_text(value, path)
        case int() | float():
            _check_number(value, path)
        case None:
            pass
        case _:
            raise InvalidInput(f"{path}: a {type(value).__name__} is not JSON; write it as a string or a number")


def _check_number(value: Any, path: str) -> None:
    if isinstance(value, int) and value not in _INT64:
        raise InvalidInput(f"{path}: {value} does not fit into 64 bits; write it as a string")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{path}: {value} is not a JSON number; omit it, or write null or a string")


def _check_text(text: str, what: str) -> None:
    if found := _UNSTORABLE.search(text):
        raise InvalidInput(f"{what}: the character {found.group()!r} cannot be stored; remove it")


def check_description(text: str, what: str) -> None:
    """
    Validate a description (Markdown).

    Raises:
        InvalidInput: The text is too long, or contains a character that cannot be stored.
    """
    if len(text) > MAX_DESCRIPTION_CHARS:
        raise InvalidInput(
            f"{what}: the description has {len(text):,} characters; at most {MAX_DESCRIPTION_CHARS:,} are allowed"
        )
    _check_text(text, f"{what}: the description")


def check_comment(text: str) -> str:
    """
    Validate the text of a comment, and return it.

    Raises:
        InvalidInput: It is blank or too long, or contains a character that cannot be stored.
    """
    if not text.strip():
        raise InvalidInput("comment: the text is empty")
    if len(text) > MAX_COMMENT_CHARS:
        raise InvalidInput(f"comment: the text has {len(text):,} characters; at most {MAX_COMMENT_CHARS:,} are allowed")
    _check_text(text, "comment: the text")
    return text


def check_aliases(aliases: Iterable[str]) -> tuple[str, ...]:
    """
    Validate aliases, and return them without duplicates, in the given order.

    Raises:
        InvalidInput: An alias is invalid, or there are too many.
    """
    unique = tuple(dict.fromkeys(check_alias(alias) for alias in aliases))
    if len(unique) > MAX_ALIASES_PER_REQUEST:
        raise InvalidInput(f"{len(unique)} aliases in one request; at most {MAX_ALIASES_PER_REQUEST} are allowed")
    return unique


def check_text_of_run(text: str, what: str) -> None:
    """
    Validate the name, job type, group or entity of a run.

    Raises:
        InvalidInput: The text is empty, too long, or contains a character that cannot be stored.
    """
    if not 0 < len(text) <= MAX_RUN_TEXT_CHARS:
        raise InvalidInput(f"{what} {text[:80]!r}: must have 1 to {MAX_RUN_TEXT_CHARS} characters")
    _check_text(text, what)


def check_patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    """
    Validate patterns of protected aliases, and return them sorted, without duplicates.

    Raises:
        InvalidInput: A pattern is empty, too long or not printable, or there are too many.
    """
    unique = tuple(sorted(set(map(to_nfc, patterns))))
    if len(unique) > MAX_PROTECTED_PATTERNS:
        raise InvalidInput(f"{len(unique)} protected aliases; at most {MAX_PROTECTED_PATTERNS} patterns are allowed")
    for pattern in unique:
        check_name(pattern.replace("?", "_"), "protected alias")  # patterns may contain `?`, names may not
    return unique


def check_automations(names: Iterable[str]) -> tuple[str, ...]:
    """
    Validate names of automations, and return them sorted, without duplicates.

    Raises:
        InvalidInput: A name is invalid, or there are too many.
    """
    unique = tuple(sorted(set(names)))
    if len(unique) > MAX_ALLOWED_AUTOMATIONS:
        raise InvalidInput(f"{len(unique)} automations; at most {MAX_ALLOWED_AUTOMATIONS} are allowed")
    return tuple(check_name(name, "automation") for name in unique)


def check_client_id(value: str, prefix: str) -> str:
    """
    Validate an id that the client made, and return it.

    Raises:
        InvalidInput: The id does not have the form `PREFIX_…`.
    """
    if not re.fullmatch(rf"{prefix}_[0-9a-z]{{10,36}}", value):
        raise InvalidInput(f"id {value[:80]!r}: must be {prefix}_ and 10 to 36 characters of 0-9 and a-z; or omit it")
    return value


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """
    Validate tags, and return them sorted, without duplicates.

    Raises:
        InvalidInput: A tag is invalid, or there are too many.
    """
    unique = tuple(sorted({check_name(tag, "tag") for tag in tags}))
    if len(unique) > MAX_TAGS:
        raise InvalidInput(f"{len(unique)} tags; at most {MAX_TAGS} are allowed")
    return unique


def check_content(
    digest: str | None, manifest: Mapping[str, str] | None, metadata: Mapping[str, Any]
) -> tuple[str, dict[str, str] | None]:
    """
    Validate the content of an artifact version, and return its digest and manifest.

    Args:
        digest: As the client sent it. None computes the digest from the manifest.
        manifest: Content digest by path.
        metadata: Determines the digest if there is neither a digest nor a manifest. Otherwise a version with
            other metadata would count as a repetition of the latest version, and its metadata would be lost.

    Raises:
        InvalidInput: The digest or the manifest is invalid, or the two do not match.
    """
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"digest {digest[:80]!r}: must be 1 to 200 visible ASCII characters, such as sha256:…")
    if manifest is None and digest is not None:
        return digest, None
    if manifest is None:
        return f"sha256:{hashlib.sha256(orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS)).hexdigest()}", None
    if len(manifest) > MAX_MANIFEST_ENTRIES:
        raise InvalidInput(f"manifest: {len(manifest):,} entries; at most {MAX_MANIFEST_ENTRIES:,} are allowed")
    for path, content_digest in manifest.items():
        _check_path(path)
        if not _DIGEST.fullmatch(content_digest):
            raise InvalidInput(
                f"manifest: the digest of {path!r} is {content_digest!r}; it must be 1 to 200 visible ASCII characters"
            )
    sorted_manifest = dict(sorted(manifest.items()))
    text = orjson.dumps(sorted_manifest)
    if len(text) > MAX_MANIFEST_BYTES:
        raise InvalidInput(f"manifest: {len(text):,} bytes of JSON; at most {MAX_MANIFEST_BYTES:,} are allowed")
    computed = f"sha256:{hashlib.sha256(text).hexdigest()}"  # as `domain.manifest.manifest_digest`
    if digest not in (None, computed):
        raise InvalidInput(
            f"digest {digest!r} does not match the manifest, whose digest is {computed}; omit the digest"
        )
    return computed, sorted_manifest


def _check_path(path: str) -> None:
    if not 0 < len(path) <= MAX_MANIFEST_PATH_CHARS:
        raise InvalidInput(f"manifest: path {path[:80]!r}: must have 1 to {MAX_MANIFEST_PATH_CHARS} characters")
    _check_text(path, f"manifest: {path!r}")
    if "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise InvalidInput(f"manifest: {path!r} is not a path inside the artifact; write it like data/train.csv")


def check_files(entries: Sequence[ManifestEntry]) -> None:
    """
    Validate entries of a manifest.

    Raises:
        InvalidInput: A path, a digest, a size or a URI is invalid, or there are too many entries.
    """
    if not 0 < len(entries) <= MAX_FILES_PER_REQUEST:
        raise InvalidInput(f"{len(entries):,} files in one request; 1 to {MAX_FILES_PER_REQUEST:,} are allowed")
    for entry in entries:
        _check_path(entry.path)
        pattern = _DIGEST if entry.ref is not None else _BLOB_DIGEST
        if not pattern.fullmatch(entry.digest):
            form = "1 to 200 visible ASCII characters" if entry.ref is not None else "sha256: and 64 hexadecimal digits"
            raise InvalidInput(f"file {entry.path!r}: the digest {entry.digest[:80]!r} must be {form}")
        if entry.size is not None and not 0 <= entry.size < 2**63:
            raise InvalidInput(f"file {entry.path!r}: the size {entry.size} is not a number of bytes")
        if entry.ref is not None:
            if not 0 < len(entry.ref) <= MAX_URI_CHARS:
                raise InvalidInput(f"file {entry.path!r}: the URI must have 1 to {MAX_URI_CHARS:,} characters")
            _check_text(entry.ref, f"file {entry.path!r}: the URI")
        elif entry.size is None:
            raise InvalidInput(f"file {entry.path!r}: the size is missing")


def check_emitted(
    events: Sequence[tuple[str, Mapping[str, Any]]], event_ids: Sequence[EventId] | None
) -> list[tuple[str, dict[str, Any]]]:
    """
    Validate custom events, and return copies of them.

    Raises:
        InvalidInput: A name or the data is invalid, there are too many events, or their number differs from the ids'.
    """
    if not 0 < len(events) <= MAX_EVENTS_PER_REQUEST:
        raise InvalidInput(f"{len(events):,} events in one request; 1 to {MAX_EVENTS_PER_REQUEST:,} are allowed")
    if event_ids is not None and len(event_ids) != len(events):
        raise InvalidInput(f"{len(events)} events, but {len(event_ids)} event ids")
    return [(check_name(name, "event"), check_json(data, f"event {name!r}: data")) for name, data in events]


def merge_patch(target: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the target with a JSON merge patch applied (RFC 7396): null removes a key, objects are merged."""
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = merge_patch(merged.get(key), value)
        else:
            merged[key] = value
    return merged
