"""Validate objects against the schema that Kubernetes publishes; see make_schemas.py."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_PUBLISHED = json.loads(Path(__file__).with_name("schemas.json").read_text())

#: Names of definitions, by `apiVersion/kind`.
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
        _make_fields_optional(definitions)
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


def _make_fields_optional(schema: Any) -> None:
    if isinstance(schema, dict):
        if isinstance(schema.get("required"), list):
            del schema["required"]
        for member in schema.values():
            _make_fields_optional(member)


def schema_errors(kind: str, body: Any, *, partial: bool = False) -> list[str]:
    """
    Return the errors in an object; none for a kind without a published schema.

    Args:
        kind: Such as `batch/v1/Job`.
        body: The object.
        partial: The object is a patch, which contains only what it changes.
    """
    if kind not in NAMES:
        return []
    errors = _validator(NAMES[kind], partial=partial).iter_errors(body)
    return [f"{'.'.join(map(str, error.absolute_path)) or kind}: {error.message}" for error in errors]
