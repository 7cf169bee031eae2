"""Programs that download a version, ready to paste: in Python, as a command, and with curl."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from urllib.parse import quote

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.resources.file import FileJson
from upshot.resources.urls import api_path
from upshot.resources.version import VersionJson

MAX_CURL_FILES = 20  #: that the curl program names; the others are listed by the API


class UsageJson(TypedDict):
    """Programs that download a version. Each is complete, and gets the server's token from UPSHOT_TOKEN."""

    reference: str  #: that the programs name: with the alias that was asked for, or the number
    python: str
    cli: str
    curl: str


def usage_json(version: VersionJson, alias: str | None, files: Iterable[FileJson], base_url: str) -> UsageJson:
    """
    Return the programs for a version.

    Args:
        version: A version of a collection, or of an artifact in its project.
        alias: The alias that the programs name, or None for the number.
        files: Its files, up to one more than MAX_CURL_FILES.
        base_url: Public address of the server.
    """
    reference = f"{version['reference'].rpartition(':')[0]}:{alias or version['name']}"
    return {
        "reference": reference,
        "python": python_usage(version, alias),
        "cli": f"upshot download {shlex.quote(reference)}\n",
        "curl": _curl_usage(version, alias, list(files), base_url.rstrip("/")),
    }


def python_usage(
    version: VersionJson, alias: str | None, *, project: str | None = None, entity: str | None = None
) -> str:
    """
    Return the program in Python.

    Args:
        version: The version.
        alias: The alias that it names, or None for the number.
        project: Project of the program's run. By default, the one that the version was logged into.
        entity: The entity that the reference begins with, if any.
    """
    path = f"{version['project']}/{version['artifact_name']}"
    if version["registry"] is not None:
        registry = version["registry"]
        scope = "model-registry" if registry == "model" else f"wandb-registry-{registry}"
        path = f"{scope}/{version['collection']}"
    reference = "/".join([*([entity] if entity else []), f"{path}:{alias or version['name']}"])
    return (
        "import upshot\n\n"
        f'run = upshot.init(project={_in_python(project or version["project"])}, job_type="inference")\n'
        f"artifact = run.use_artifact({_in_python(reference)}, type={_in_python(version['artifact_type'])})\n"
        "artifact_dir = artifact.download()\n"
    )


def _curl_usage(version: VersionJson, alias: str | None, files: list[FileJson], base_url: str) -> str:
    if version["registry"] is not None:
        series = ("registries", version["registry"], "collections", version["collection"] or "")
    else:
        series = ("projects", version["project"], "artifacts", version["artifact_name"])
    address = f"{base_url}{api_path(*series, 'versions', alias or version['name'])}/files"
    folder = f"{version['artifact_name']}:{version['artifact_version']}"
    lines = []
    for file in files[:MAX_CURL_FILES]:
        target = shlex.quote(f"{folder}/{file['path']}")
        if file["ref"] is None:
            source = shlex.quote(f"{address}/{quote(file['path'])}")
            lines.append(f'curl -fL --create-dirs -H "Authorization: Bearer $UPSHOT_TOKEN" -o {target} {source}')
        elif file["ref"].startswith(("http://", "https://")):
            lines.append(f"curl -fL --create-dirs -o {target} {shlex.quote(file['ref'])}")
        else:
            lines.append(f"# {file['path']} is stored at {file['ref']}".replace("\n", " "))
    if len(files) > MAX_CURL_FILES:
        lines.append(f"# There are more files. This lists them: {address}")
    return "".join(f"{line}\n" for line in lines) or "# The version has no files.\n"


def _in_python(text: str) -> str:
    """Return a text as Python source."""
    return json.dumps(text, ensure_ascii=False)
