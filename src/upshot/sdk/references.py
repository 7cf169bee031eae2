"""How programs write references and link targets: `nature:v3`, `project/nature`, `acme/model-registry/Name:staging`."""

from __future__ import annotations

from dataclasses import dataclass

from upshot.domain.reference import Reference, parse_reference
from upshot.errors import InvalidInput
from upshot.sdk.connection import check_entity, read_settings
from upshot.sdk.sdk_errors import InvalidArgument

_WANDB_REGISTRY = "wandb-registry-"


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """The collection that an artifact is linked into."""

    registry: str
    collection: str


def read_reference(text: str, project: str | None) -> Reference:
    """
    Parse a reference. A name alone is an artifact of the project.

    Raises:
        InvalidArgument: It is invalid.
    """
    if not isinstance(text, str):
        raise InvalidArgument(f"{text!r}: write a reference as text, such as 'nature:latest'")
    path = text.partition(":")[0]
    if not all(path.split("/")):
        raise InvalidArgument(f"reference {text!r}: a name is missing; write project/artifact:v3")
    if "/" not in path:
        if project is None:
            raise InvalidArgument(f"reference {text!r}: write project/{text}, or a reference with a registry")
        text = f"{project}/{text}"
    elif path.count("/") > 1:
        check_entity(path.partition("/")[0])
    try:
        return parse_reference(text)
    except InvalidInput as error:
        raise InvalidArgument(str(error)) from error


def read_target(text: str) -> LinkTarget:
    """
    Parse the target of a link: `model-registry/NAME`, `wandb-registry-R/NAME` or `REGISTRY/COLLECTION`.

    Raises:
        InvalidArgument: It has a version, it has one part only, or a name is invalid.
    """
    if not isinstance(text, str) or not text:  # type: ignore[redundant-expr]
        raise InvalidArgument("target path: write REGISTRY/COLLECTION, such as model-registry/Review Summarization")
    path, colon, _ = text.partition(":")
    if colon:
        whole = path if "/" in path else f"model-registry/{path}"
        raise InvalidArgument(
            f"target path {text!r}: a link gets a version of its own; write {whole!r} and give aliases with aliases=[…]"
        )
    parts = path.split("/")
    if len(parts) == 1:
        raise InvalidArgument(
            f"target path {text!r}: the registry is missing; write model-registry/{text}, or REGISTRY/{text}"
        )
    reference = read_reference(text, None)
    return LinkTarget(reference.scope, reference.name)


def with_entity(reference: str) -> str:
    """Return a reference with the entity of the installation, if UPSHOT_ENTITY says it."""
    entity = read_settings().entity
    return f"{entity}/{reference}" if entity else reference
