"""
The data of registry events: a snapshot of the state after the whole mutation.

`registry`, `collection`, `version` and `artifact` have the shapes that `upshot.resources` declares; `project` is
`{name}`. Every event about a version that a run logged also has `run`: id, name, job_type, state, project, url.

| event | subject | data |
|---|---|---|
| collection-created, -deleted | `model/churn` | registry, collection |
| collection-updated | `model/churn` | the same, `changes` {name: {before, after}, description: {before, after},
                        metadata: {KEY: {before, after}}, ttl_seconds: {before, after}}, each only if it changed |
| version-linked | `model/churn:v3` | registry, collection, version, project, artifact, `aliases` of the new version |
| version-unlinked | `model/churn:v3` | the same; `aliases`: those that were removed with the link |
| version-updated | `model/churn:v3` | the same; `changes` {metadata: {KEY: {before, after}},
                   description: {before, after} or null, ttl_seconds: {before, after} if it changed}; null also stands
                   for a key that is missing before or after |
| alias-added | `model/churn:v3` | the same; `alias`, `aliases`: all that the version has now, `previous`: the version
                that held the alias before, or null, `automatic`; `asked_at`: when a program without a connection
                asked for it, if one did |
| alias-removed | `model/churn:v2` | the same, of the version that lost the alias; `moved_to`: "v3", or null |
| stage-changed | `model/churn:v3` | the same; `stage` {from, to} |
| tag-added, -removed on a version | `model/churn:v3` | the same; `tag`, `on`: "version" |
| tag-added, -removed on a collection | `model/churn` | registry, collection, `tag`, `on`: "collection" |
| artifact-created, -deleted | `project/name:v0` | project, artifact, `version`, `aliases`; if deleted,
                  `reason`: "request" or "ttl" |
| comment-added on a version | `model/churn:v3` | registry, collection, version, project, artifact, `aliases`,
                `comment`, `mentions`: the names in it, `on`: "version" |
| comment-added on a run | `project/run` | project, run, `comment`, `mentions`, `on`: "run" |
| alias-added, -removed in a project | `project/name:v0` | the same, `alias`, `previous`, `moved_to`, `automatic` |
| version-updated in a project | `project/name:v0` | project, artifact, `version`, `aliases`, `changes` |
| tag-added, -removed in a project | `project/name:v0` | project, artifact, `version`, `aliases`, `tag`, `on` |

| run-started, -finished, -failed | `project/run` | project, `run` with its config, summary and tags |
| run-metric | `project/run` | the same; `automation`: the only one that the event is for, `metric`: see
                `metric_conditions` |

An event in a project has no `registry` and no `collection`. Its `version` is the artifact version.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from upshot.domain.registry import ArtifactVersion, Collection, Series, Version
from upshot.domain.run import Run
from upshot.resources.artifact import artifact_json
from upshot.resources.collection import collection_json
from upshot.resources.registry import registry_json
from upshot.resources.run import run_json, run_reference
from upshot.resources.version import version_json


def collection_context(collection: Collection, base_url: str | None) -> dict[str, Any]:
    """Return the data that every event about a collection carries."""
    return {"registry": registry_json(collection.registry), "collection": collection_json(collection, base_url)}


def version_context(series: Series, version: Version | ArtifactVersion, base_url: str | None) -> dict[str, Any]:
    """Return the data that every event about a version of a collection, or of an artifact in its project, carries."""
    return {
        **(collection_context(series, base_url) if isinstance(series, Collection) else {}),
        "version": version_json(version, base_url),
        "aliases": list(version.aliases),
        "project": {"name": version.artifact_version.project},
        "artifact": artifact_json(version.artifact_version, base_url),
        **({"run": run_reference(run, base_url)} if (run := version.artifact_version.run) else {}),
    }


def run_context(run: Run, base_url: str | None, now: datetime) -> dict[str, Any]:
    """Return the data that every event about a run carries."""
    return {"project": {"name": run.summary.project}, "run": run_json(run, base_url, now)}


def metadata_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that changed, each with its values before and after; null where the key is missing."""
    return {
        key: {"before": before.get(key), "after": after.get(key)}
        for key in sorted({*before, *after})
        if (key in before) != (key in after) or not same_json(before[key], after[key])
    }


def same_json(left: Any, right: Any) -> bool:
    """Return whether both values are the same JSON; to Python, true equals 1 and 1 equals 1.0."""
    return orjson.dumps(left, option=orjson.OPT_SORT_KEYS) == orjson.dumps(right, option=orjson.OPT_SORT_KEYS)
