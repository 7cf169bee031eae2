"""How `upshot validate` reports mistakes to other programs: GitHub's annotations, and SARIF for code scanning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from upshot import __version__
from upshot.errors import ConfigError, TemplateInvalid

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_RESULTS = 5000  # annotations of one run that GitHub shows

_RULES = {
    "automation": "The automation file or the jobs file is invalid.",
    "template": "A template or expression is invalid.",
}


def github_annotations(errors: Iterable[ConfigError]) -> list[str]:
    """
    Return one workflow command for each error, which GitHub Actions shows beside the line of the file.

    See docs.github.com, "Workflow commands": `::error file=…,line=…,title=…::message`.
    """
    return [_annotation(*_place(error)) for error in errors]


def _annotation(path: str, line: int | None, reason: str) -> str:
    properties = {"file": path, **({"line": str(line)} if line else {}), "title": "upshot validate"}
    listed = ",".join(f"{name}={_escape_property(value)}" for name, value in properties.items())
    return f"::error {listed}::{_escape_data(reason)}"


def _escape_data(text: str) -> str:
    """Escape the characters that would end the command, which is one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")


def sarif(errors: Sequence[ConfigError]) -> dict[str, Any]:
    """
    Return a SARIF 2.1.0 log.

    Paths are relative to the current directory, which should be the root of the checkout.
    """
    rules = [
        {"id": rule, "name": rule, "shortDescription": {"text": text}, "defaultConfiguration": {"level": "error"}}
        for rule, text in _RULES.items()
    ]
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "upshot", "version": __version__, "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(error) for error in errors[:MAX_RESULTS]],
            }
        ],
    }


def _result(error: ConfigError) -> dict[str, Any]:
    path, line, reason = _place(error)
    rule = "template" if isinstance(error, TemplateInvalid) else "automation"
    artifact: dict[str, Any] = {"uri": quote(path) if not Path(path).is_absolute() else Path(path).as_uri()}
    if not Path(path).is_absolute():
        artifact["uriBaseId"] = "%SRCROOT%"
    fingerprint = hashlib.sha256(f"{path}\n{rule}\n{reason}".encode()).hexdigest()
    return {
        "ruleId": rule,
        "ruleIndex": list(_RULES).index(rule),
        "level": "error",
        "message": {"text": reason},
        # GitHub shows nothing without a line.
        "locations": [{"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": line or 1}}}],
        "partialFingerprints": {"mistake/v1": fingerprint},
    }


def _place(error: Any) -> tuple[str, int | None, str]:
    """Return the path (relative to the current directory if it is below it), the line if known, and the reason."""
    path = Path(error.path)
    absolute = path if path.is_absolute() else Path.cwd() / path
    shown = absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute
    return shown.as_posix(), error.line, error.reason
