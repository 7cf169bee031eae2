"""Holds what is sent against the schema that Kubernetes publishes; see make_schemas.py."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_PUBLISHED = json.loads(Path(__file__).with_name("schemas.json").read_text())

#: Definitions by `apiVersion/kind`.
NAMES = {
    "batch/v1/Job": "io.k8s.api.batch.v1.Job",
    "v1/Event": "io.k8s.api.core.v1.Event",
    "v1/Pod": "io.k8s.api.core.v1.Pod",
    "v1/Secret": "io.k8s.api.core.v1.Secret",
    "v1/APIResourceList": "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList",
    "v1/Status": "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
}


@cache
def _validator(name: str, *, partial: bool) -> Draft202012Validator:
    definitions = copy.deepcopy(_PUBLISHED["$defs"])
    if partial:
        _require_nothing(definitions)
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


def _require_nothing(schema: Any) -> None:
    """A patch holds only what it changes."""
    if isinstance(schema, dict):
        if isinstance(schema.get("required"), list):
            del schema["required"]
        for member in schema.values():
            _require_nothing(member)


def problems(kind: str, body: Any, *, partial: bool = False) -> list[str]:
    """
    What is wrong with an object, as sent; nothing, of a kind that nobody publishes.

    Args:
        kind: Such as `batch/v1/Job`.
        body: The object.
        partial: It is a patch.
    """
    if kind not in NAMES:
        return []
    found = _validator(NAMES[kind], partial=partial).iter_errors(body)
    return [f"{'.'.join(map(str, one.absolute_path)) or kind}: {one.message}" for one in found]
