"""
What events say of the registry, as plain data.

`registry`    {name}
`collection`  {name, type, reference, registry, description, tags, aliases: {"production": "v3"},
              created_at, created_by, url}
`version`     {name: "v3", number, reference: "model/churn:v3", digest, metadata, description,
              aliases, tags, artifact: "project/name:v0", artifact_version: "v0", project,
              linked_at, linked_by, created_at, created_by, url}
`artifact`    {name, type, reference: "project/name:v0", version: "v0", project, url}
`project`     {name}

Times are RFC 3339 in UTC. `url` is the address in the REST API, null where the server's public
address is not known. Aliases of a version are those in its collection, aliases of an artifact
version those in its project; both are sorted, as tags are. An artifact's form is that of the
version that was logged; its content is in `version`.

An event's `data` holds the forms above as they are after the whole mutation, under these names:

| event | subject | data |
|---|---|---|
| collection-created, -deleted | `model/churn` | registry, collection |
| collection-updated | `model/churn` | the same, `changes` {description: {before, after}} |
| version-linked | `model/churn:v3` | registry, collection, version, project, artifact, `aliases`: all it came with |
| version-unlinked | `model/churn:v3` | the same; `aliases`: those that went with it |
| version-updated | `model/churn:v3` | the same; `aliases`; `changes` {metadata: {KEY: {before, after}},
                   description: {before, after} or null}; a key that did not exist, or does no more, is null there |
| alias-added | `model/churn:v3` | the same; `alias`, `aliases`: all that the version has now, `previous`: the version
                that held it before, or null, `automatic` |
| alias-removed | `model/churn:v2` | the same, of the version that lost it; `moved_to`: "v3", or null |
| tag-added, -removed on a version | `model/churn:v3` | the same; `tag`, `on`: "version" |
| tag-added, -removed on a collection | `model/churn` | registry, collection, `tag`, `on`: "collection" |
| artifact-created | `project/name:v0` | project, artifact, `version`, `aliases` |
| alias-added, -removed in a project | `project/name:v0` | the same, `alias`, `previous`, `moved_to`, `automatic` |
| version-updated in a project | `project/name:v0` | project, artifact, `version`, `aliases`, `changes` |
| tag-added, -removed in a project | `project/name:v0` | project, artifact, `version`, `aliases`, `tag`, `on` |

What happens in a project has no `registry` and no `collection`; its `version` is the artifact
version in the form of a version, whose reference is `project/name:v0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from upshot.clock import format_time
from upshot.domain.registry import ArtifactVersion, Collection, Version


def collection_form(collection: Collection, base_url: str | None = None) -> dict[str, Any]:
    """The collection as plain data."""
    return {
        "name": collection.name,
        "type": collection.artifact_type,
        "reference": collection.reference,
        "registry": collection.registry,
        "description": collection.description,
        "tags": list(collection.tags),
        "aliases": dict(collection.aliases),
        "created_at": format_time(collection.created_at),
        "created_by": collection.created_by,
        "url": _url(base_url, "registries", collection.registry, "collections", collection.name),
    }


def version_form(version: Version, base_url: str | None = None) -> dict[str, Any]:
    """The version as plain data."""
    place = ("registries", version.registry, "collections", version.collection, "versions", version.name)
    return {
        "name": version.name,
        "number": version.number,
        "reference": version.reference,
        "aliases": list(version.aliases),
        **_content(version.artifact),
        "linked_at": format_time(version.linked_at),
        "linked_by": version.linked_by,
        "url": _url(base_url, *place),
    }


def artifact_form(artifact: ArtifactVersion, base_url: str | None = None) -> dict[str, Any]:
    """The artifact version as plain data, without its manifest."""
    return {
        **_short_artifact_form(artifact, base_url),
        "number": artifact.number,
        "digest": artifact.digest,
        "metadata": artifact.metadata,
        "description": artifact.description,
        "aliases": list(artifact.aliases),
        "tags": list(artifact.tags),
        "created_at": format_time(artifact.created_at),
        "created_by": artifact.created_by,
    }


def collection_context(collection: Collection, base_url: str | None) -> dict[str, Any]:
    """What every event about a collection says."""
    return {"registry": {"name": collection.registry}, "collection": collection_form(collection, base_url)}


def version_context(collection: Collection, version: Version, base_url: str | None) -> dict[str, Any]:
    """What every event about a version says."""
    return {
        **collection_context(collection, base_url),
        "version": version_form(version, base_url),
        "aliases": list(version.aliases),
        "project": {"name": version.artifact.project},
        "artifact": _short_artifact_form(version.artifact, base_url),
    }


def artifact_context(artifact: ArtifactVersion, base_url: str | None) -> dict[str, Any]:
    """What every event about an artifact version in its project says."""
    return {
        "version": logged_version_form(artifact, base_url),
        "aliases": list(artifact.aliases),
        "project": {"name": artifact.project},
        "artifact": _short_artifact_form(artifact, base_url),
    }


def logged_version_form(artifact: ArtifactVersion, base_url: str | None) -> dict[str, Any]:
    """The artifact version in the form of a version that is linked nowhere."""
    return {
        "name": artifact.version,
        "number": artifact.number,
        "reference": artifact.reference,
        "aliases": list(artifact.aliases),
        **_content(artifact),
        "linked_at": None,
        "linked_by": None,
        "url": _artifact_url(artifact, base_url),
    }


def metadata_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that changed, each with what it was and is; null where it is missing."""
    return {
        key: {"before": before.get(key), "after": after.get(key)}
        for key in sorted({*before, *after})
        if (key in before) != (key in after) or not same_json(before[key], after[key])
    }


def same_json(one: Any, other: Any) -> bool:
    """Whether both are the same JSON; to Python true is 1 and 1 is 1.0."""
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


def _short_artifact_form(artifact: ArtifactVersion, base_url: str | None) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "type": artifact.type,
        "reference": artifact.reference,
        "version": artifact.version,
        "project": artifact.project,
        "url": _artifact_url(artifact, base_url),
    }


def _artifact_url(artifact: ArtifactVersion, base_url: str | None) -> str | None:
    return _url(base_url, "projects", artifact.project, "artifacts", artifact.name, "versions", artifact.version)


def _content(artifact: ArtifactVersion) -> dict[str, Any]:
    """What a link shows of the artifact version that it points to."""
    return {
        "digest": artifact.digest,
        "metadata": artifact.metadata,
        "description": artifact.description,
        "tags": list(artifact.tags),
        "artifact": artifact.reference,
        "artifact_version": artifact.version,
        "project": artifact.project,
        "created_at": format_time(artifact.created_at),
        "created_by": artifact.created_by,
    }


@lru_cache(maxsize=4096)  # the same few names come again and again, at every mutation
def _url(base_url: str | None, *parts: str) -> str | None:
    """Address in the REST API; None where the server's public address is not known."""
    if base_url is None:
        return None
    return "/".join([f"{base_url.rstrip('/')}/api/v1", *(quote(part, safe="") for part in parts)])
