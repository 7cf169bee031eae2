"""
Makes schemas.json: what Kubernetes publishes of the objects that we send and read, without its prose.

Kubernetes publishes the schema of its API as OpenAPI with each release
(api/openapi-spec/swagger.json of github.com/kubernetes/kubernetes, Apache-2.0). The package
`kubernetes-validate` (Apache-2.0) carries it as JSON Schema, unknown fields forbidden. For another
release of Kubernetes, in an environment of its own, for the package is large:

    pip install kubernetes-validate
    python tests/kubernetes/make_schemas.py 1.37.0
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


def without_prose(value: Any) -> Any:
    """Leave out the descriptions, which are nine tenths of it."""
    if isinstance(value, dict):
        return {
            key: without_prose(member)
            for key, member in value.items()
            if not (key == "description" and isinstance(member, str)) and not key.startswith("x-")
        }
    return [without_prose(member) for member in value] if isinstance(value, list) else value


def with_short_references(value: Any) -> Any:
    """Have references lead into the one file."""
    if isinstance(value, dict):
        return {
            key: f"#/$defs/{member.rsplit('/', 1)[-1]}" if key == "$ref" else with_short_references(member)
            for key, member in value.items()
        }
    return [with_short_references(member) for member in value] if isinstance(value, list) else value


def referred(value: Any) -> Iterator[str]:
    """Names of the definitions that a schema leads to."""
    if isinstance(value, dict):
        for key, member in value.items():
            if key == "$ref":
                yield member.rsplit("/", 1)[-1]
            else:
                yield from referred(member)
    elif isinstance(value, list):
        for member in value:
            yield from referred(member)


def main(release: str) -> None:
    """Take what the kinds need, and what that needs."""
    from importlib.metadata import version

    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{release}-local-strict"
    published = json.loads((folder / "_definitions.json").read_text())["$defs"]
    taken: dict[str, Any] = {}
    wanted = list(KINDS)
    while wanted:
        name = wanted.pop()
        if name not in taken:
            taken[name] = with_short_references(without_prose(published[name]))
            wanted += referred(taken[name])
    source = SOURCE.format(package=version("kubernetes-validate"), release=release)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(taken[name], sort_keys=True)}" for name in sorted(taken))
    TARGET.write_text(f'{{"source": {json.dumps(source)},\n"$defs": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main(sys.argv[1])
