"""Names and references: `model/churn:v3`, `project/artifact:latest`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from upshot.errors import InvalidInput

MAX_NAME_CHARS = 128  # W&B's limit for names of collections, artifacts and aliases
LATEST = "latest"
# What references and URLs use, control characters and line breaks, and lone surrogates, which no store can keep.
_FORBIDDEN = re.compile(r"[/\\#?%:\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})")


def check_name(name: str, what: str) -> str:
    """
    Let a good name through.

    Args:
        name: As the user wrote it.
        what: What it names, for the message: "collection", "alias", …

    Raises:
        InvalidInput: It is empty, too long, padded, or has a character that references use.
    """
    if not name:
        raise InvalidInput(f"{what}: the name is empty")
    if len(name) > MAX_NAME_CHARS:
        raise InvalidInput(f"{what}: the name has {len(name)} characters; at most {MAX_NAME_CHARS} are allowed")
    if found := _FORBIDDEN.search(name):
        raise InvalidInput(
            f"{what} {name!r}: {found.group()!r} is not allowed in a name; none of / \\ # ? % : or a line break is"
        )
    if name != name.strip() or name in {".", ".."}:
        raise InvalidInput(f"{what} {name!r}: a name neither begins nor ends with a space, and is not a dot")
    return name


def check_alias(name: str) -> str:
    """
    Let an alias through that can be given to a version.

    Raises:
        InvalidInput: Not a good name, or of the form `vN`, which always means the version itself.
    """
    check_name(name, "alias")
    if _VERSION.fullmatch(name):
        raise InvalidInput(f"alias {name!r}: {name} always means the version itself; choose another word")
    return name


def version_number(name: str) -> int | None:
    """The number in `v3`; None when the name is not of that form (so it is an alias)."""
    return int(name[1:]) if _VERSION.fullmatch(name) else None


@dataclass(frozen=True, slots=True)
class Reference:
    """One version of something: `scope/name:version`, where version is `vN` or an alias."""

    scope: str  #: a project, or a registry
    name: str  #: an artifact, or a collection
    version: str  #: `v3`, or an alias such as `latest`

    def __str__(self) -> str:
        return f"{self.scope}/{self.name}:{self.version}"


def parse_reference(text: str, *, default_version: str = LATEST) -> Reference:
    """
    Read `scope/name:version`; without `:version` the default is meant.

    The older W&B form `entity/model-registry/Name:alias` reads as registry `model`.

    Raises:
        InvalidInput: The text is not of this form.
    """
    path, colon, version = text.partition(":")
    parts = path.split("/")
    if len(parts) == 3 and parts[1] == "model-registry":  # noqa: PLR2004 - entity, the fixed word, name
        parts = ["model", parts[2]]
    if len(parts) != 2 or (colon and not version):  # noqa: PLR2004 - scope and name
        raise InvalidInput(
            f"reference {text!r}: write project/artifact:v3, project/artifact:alias, "
            "registry/collection:v3 or registry/collection:alias"
        )
    return Reference(
        check_name(parts[0], "project or registry"),
        check_name(parts[1], "artifact or collection"),
        check_name(version, "version") if colon else default_version,
    )
