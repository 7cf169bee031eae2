"""
Create schemas.json: the published schemas of the objects that Upshot sends and reads, without descriptions.

Kubernetes publishes the schema of its API as OpenAPI with each release (api/openapi-spec/swagger.json of
github.com/kubernetes/kubernetes, Apache-2.0). The package `kubernetes-validate` (Apache-2.0) contains it as JSON Schema
that forbids unknown fields. To update it to another release of Kubernetes, run this in a new environment, because the
package is large:

    pip install kubernetes-validate
    python tests/fakes/kubernetes/make_schemas.py 1.37.0
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

KINDS = (
    "io.k8s.api.batch.v1.Job",
    "io.k8s.api.core.v1.Event",
    "io.k8s.api.core.v1.Pod",
    "io.k8s.api.core.v1.Secret",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
)
TARGET = Path(__file__).with_name("schemas.json")
SOURCE = "kubernetes-validate {package}, v{release}: Kubernetes' OpenAPI, (c) The Kubernetes Authors, Apache-2.0"


def without_descriptions(value: Any) -> Any:
    """Return the schema without its descriptions, which are nine tenths of it."""
    if isinstance(value, dict):
        return {
            key: without_descriptions(member)
            for key, member in value.items()
            if not (key == "description" and isinstance(member, str)) and not key.startswith("x-")
        }
    return [without_descriptions(member) for member in value] if isinstance(value, list) else value


def with_local_references(value: Any) -> Any:
    """Return the schema with references into the one file."""
    if isinstance(value, dict):
        return {
            key: f"#/$defs/{member.rsplit('/', 1)[-1]}" if key == "$ref" else with_local_references(member)
            for key, member in value.items()
        }
    return [with_local_references(member) for member in value] if isinstance(value, list) else value


def referenced_names(value: Any) -> Iterator[str]:
    """Yield the names of the definitions that a schema references."""
    if isinstance(value, dict):
        for key, member in value.items():
            if key == "$ref":
                yield member.rsplit("/", 1)[-1]
            else:
                yield from referenced_names(member)
    elif isinstance(value, list):
        for member in value:
            yield from referenced_names(member)


def main(release: str) -> None:
    """Write the definitions of the kinds, and of everything that they reference."""
    from importlib.metadata import version

    directory = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{release}-local-strict"
    published = json.loads((directory / "_definitions.json").read_text())["$defs"]
    definitions: dict[str, Any] = {}
    names = list(KINDS)
    while names:
        name = names.pop()
        if name not in definitions:
            definitions[name] = with_local_references(without_descriptions(published[name]))
            names += referenced_names(definitions[name])
    source = SOURCE.format(package=version("kubernetes-validate"), release=release)
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(body, sort_keys=True)}" for name, body in sorted(definitions.items())
    )
    TARGET.write_text(f'{{"source": {json.dumps(source)},\n"$defs": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main(sys.argv[1])
