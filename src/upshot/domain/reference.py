"""Names and references: `model/churn:v3`, `project/artifact:latest`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from upshot.errors import InvalidInput
from upshot.unicode_text import find_invisible, find_odd_space, to_nfc

MAX_NAME_CHARS = 128  # W&B's limit for names of collections, artifacts and aliases
LATEST = "latest"
MODEL_REGISTRY = "model"  #: the registry that W&B's `model-registry` refers to
# Characters that references and URLs use, control characters, line breaks, and lone surrogates, which no database
# can store.
_FORBIDDEN = re.compile(r"[/\\#?%:\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WANDB_REGISTRY = "wandb-registry-"  # prefix of a registry's project in W&B
_VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})")


def check_name(name: str, what: str) -> str:
    """
    Validate a new name, and return it in its composed Unicode form (NFC).

    Args:
        name: As the client sent it.
        what: The kind of object, for the message: "collection", "alias", …

    Raises:
        InvalidInput: The name is empty or too long, begins or ends with a space, or contains a reserved or an invisible
            character.
    """
    name = check_existing_name(to_nfc(name), what)
    if found := find_invisible(name):
        raise InvalidInput(f"{what} {name!r}: the character {found} cannot be seen; remove it")
    if found := find_odd_space(name):
        raise InvalidInput(f"{what} {name!r}: the character {found} looks like a space; write a space")
    return name


def check_existing_name(name: str, what: str) -> str:
    """
    Validate the name of an existing object, and return it.

    Earlier releases did not convert Unicode forms and accepted invisible characters, so such names can exist.
    `spellings` returns the forms to look for. Arguments and errors are those of `check_name`.
    """
    if not name:
        raise InvalidInput(f"{what}: the name is empty")
    if len(name) > MAX_NAME_CHARS:
        raise InvalidInput(f"{what}: the name has {len(name)} characters; at most {MAX_NAME_CHARS} are allowed")
    if found := _FORBIDDEN.search(name):
        raise InvalidInput(
            f"{what} {name!r}: {found.group()!r} is not allowed; a name must not contain / \\ # ? % : or line breaks"
        )
    if name != name.strip() or name in {".", ".."}:
        raise InvalidInput(f"{what} {name!r}: a name must not begin or end with a space, and must not be . or ..")
    return name


def spellings(name: str, what: str) -> tuple[str, ...]:
    """
    Validate the name of an existing object, and return the forms in which it can be stored: as it is, and composed.

    Raises:
        InvalidInput: See `check_existing_name`.
    """
    check_existing_name(name, what)
    composed = to_nfc(name)
    return (name,) if composed == name else (name, composed)


def check_alias(name: str) -> str:
    """
    Validate a new alias, and return it in its composed Unicode form.

    Raises:
        InvalidInput: The name is invalid, or it has the form `v3`, which always refers to the version itself.
    """
    name = check_name(name, "alias")
    if _VERSION.fullmatch(name):
        raise InvalidInput(f"alias {name!r}: {name} always refers to the version itself; choose another alias")
    return name


def version_number(name: str) -> int | None:
    """Return the number in `v3`, or None if the name does not have this form (and is an alias)."""
    return int(name[1:]) if _VERSION.fullmatch(name) else None


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to one version: `scope/name:version`."""

    scope: str  #: a project, or a registry
    name: str  #: an artifact, or a collection
    version: str  #: `v3`, or an alias such as `latest`
    is_registry: bool = False  #: whether the scope must be a registry, because the text had one of W&B's forms

    def __str__(self) -> str:
        return f"{self.scope}/{self.name}:{self.version}"


def parse_reference(text: str, *, default_version: str = LATEST) -> Reference:
    """
    Parse `scope/name:version`. Without `:version`, the reference gets the default version.

    W&B's forms are also read. An entity in front is ignored, because one installation is one entity:

    - `[entity/]model-registry/Name:alias` refers to the registry `model`,
    - `[organization/]wandb-registry-R/Name:alias` refers to the registry `R`,
    - `entity/project/name:alias` refers to an artifact of the project.

    Raises:
        InvalidInput: The text does not have this form, or a name is invalid.
    """
    path, colon, version = text.partition(":")
    parts = path.split("/")
    if len(parts) == 3:  # noqa: PLR2004 - entity, scope and name
        check_existing_name(parts.pop(0), "entity")
    scope = parts[0]
    if scope == "model-registry":
        scope = MODEL_REGISTRY
    elif scope.startswith(_WANDB_REGISTRY):
        scope = scope.removeprefix(_WANDB_REGISTRY)
    if len(parts) != 2 or (colon and not version):  # noqa: PLR2004 - scope and name
        raise InvalidInput(
            f"reference {text!r}: write project/artifact:v3, project/artifact:alias, "
            "registry/collection:v3 or registry/collection:alias"
        )
    return Reference(
        check_existing_name(scope, "project or registry"),
        check_existing_name(parts[1], "artifact or collection"),
        check_existing_name(version, "version") if colon else default_version,
        is_registry=scope != parts[0],
    )
