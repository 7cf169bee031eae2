"""Programs that download a version, ready to paste."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from upshot.sdk.references import with_entity


def usage_program(version: Mapping[str, Any], alias: str | None, project: str | None) -> str:
    """Return a program that downloads a version, as the server describes it. See `Artifact.usage`."""
    name, path = version["name"], f"{version['project']}/{version['artifact_name']}"
    if version["registry"] is not None:
        registry = version["registry"]
        scope = "model-registry" if registry == "model" else f"wandb-registry-{registry}"
        path = f"{scope}/{version['collection']}"
    reference = f"{with_entity(path)}:{alias or name}"
    return (
        "import upshot\n\n"
        f'run = upshot.init(project={_quoted(project or version["project"])}, job_type="inference")\n'
        f"artifact = run.use_artifact({_quoted(reference)}, type={_quoted(version['artifact_type'])})\n"
        "artifact_dir = artifact.download()\n"
    )


def _quoted(text: str) -> str:
    """Return a text as Python source."""
    return json.dumps(text, ensure_ascii=False)
