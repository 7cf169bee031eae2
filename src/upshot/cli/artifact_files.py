"""The commands of `upshot artifacts` about the files of a version: list, compare and verify them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click

from upshot.cli.api_commands import api_command, limit_option
from upshot.cli.params import artifact_path, collection_path
from upshot.cli.waiting import Finish, wait_option
from upshot.client.client_settings import read_client_settings
from upshot.client.http import ApiError, Client
from upshot.client.uploads import groups
from upshot.console import Output, format_value
from upshot.domain.reference import Reference, parse_reference
from upshot.errors import UpshotError

DIGEST_ONLY = "none: it was logged with a digest only"
_NOT_FOUND = 404
_ALL_FILES = 100_000  # the server's limit for one version
_SHOWN_PROBLEMS = 20
_BLOBS_PER_REQUEST = 100  # that the server reads back before it answers


def find_version(client: Client, text: str) -> Any:
    """
    Return the artifact version that a reference names, directly or through a link.

    Raises:
        ApiError: There is none.
        InvalidInput: The reference is invalid.
    """
    reference = parse_reference(text)
    try:
        if not reference.is_registry:
            return client.get(artifact_path(reference, "versions", reference.version))
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise
        try:
            return client.get(collection_path(reference, "versions", reference.version))
        except ApiError as other:
            # A registry with this name knows more than the projects do.
            raise error if "there is no registry" in str(other) else other from None
    return client.get(collection_path(reference, "versions", reference.version))


def source_of(version: Any) -> Reference:
    """Return the reference of the artifact version behind a version."""
    return parse_reference(version["artifact"])


def list_files(client: Client, version: Any, limit: int = _ALL_FILES) -> list[Any]:
    """Return the files of a version, by path."""
    source = source_of(version)
    return client.items(artifact_path(source, "versions", source.version, "files"), limit=limit)


@click.command()
@click.argument("reference", metavar="REF")
@limit_option(1_000)
@api_command
def files(client: Client, output: Output, reference: str, limit: int) -> None:
    """List the files of REF (project/artifact:v3, or registry/collection:ALIAS)."""
    version = find_version(client, reference)
    columns = {
        "path": lambda file: file["path"],
        "bytes": lambda file: "" if file["size"] is None else f"{file['size']:,}",
        "digest": lambda file: file["digest"],
        "reference": lambda file: file["ref"],
    }
    listed = list_files(client, version, limit)
    output.rows(listed, columns, empty=f"{version['artifact']} has no files", optional=("digest",))
    if (count := version["file_count"] or 0) > len(listed):
        click.echo(f"note: {len(listed):,} of {count:,} files are shown; use --limit", err=True)


@click.command()
@click.argument("reference", metavar="REF")
@click.option(
    "--format",
    "form",
    type=click.Choice(["all", "python", "cli", "curl"]),
    default="all",
    show_default=True,
    help="Only the program of this kind, without a heading.",
)
@api_command
def usage(client: Client, output: Output, reference: str, form: str) -> None:
    """Print programs that download REF, ready to paste: in Python, as a command, and with curl."""
    asked = parse_reference(reference)
    path = collection_path if asked.is_registry else artifact_path
    found = client.get(path(asked, "versions", asked.version, "usage"))
    if output.as_json:
        output.json(found)
    elif form != "all":
        output.text(found[form])
    else:
        for heading, name in (("Python", "python"), ("command line", "cli"), ("curl", "curl")):
            output.line(f"# {heading}")
            output.text(found[name])
            output.line("")


@click.command()
@click.argument("reference", metavar="REF")
@click.argument("other", metavar="OTHER")
@api_command
def diff(client: Client, output: Output, reference: str, other: str) -> None:
    """
    Show how OTHER differs from REF: files that it adds (+), lacks (-) or changes (~), and its metadata.

    OTHER is a reference, or a version of the same artifact such as v3.
    """
    source = source_of(find_version(client, reference))
    # `with` is a keyword in Python.
    found = client.get(artifact_path(source, "versions", source.version, "diff"), **{"with": other})
    if output.as_json:
        output.json(found)
        return
    signs = (("added", "+"), ("removed", "-"), ("changed", "~"))
    if not found["files_compared"]:
        output.line("the files are not compared, because one of the versions was logged with a digest only")
    for kind, sign in signs:
        for file in found[kind]:
            output.line(f"{sign} {file['path']}")
        if (rest := found[f"{kind}_count"] - len(found[kind])) > 0:
            output.line(f"{sign} … and {rest:,} more")
    for key, change in found["metadata"].items():
        output.line(f"  metadata {key}: {format_value(change['before'])} -> {format_value(change['after'])}")
    if found["files_compared"] and not any(found[f"{kind}_count"] for kind, _ in signs) and not found["metadata"]:
        output.line(f"{found['before']} and {found['after']} do not differ")


@click.command()
@click.argument("reference", metavar="REF")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The directory that was downloaded. By default, artifacts/NAME:VERSION.",
)
@click.option("--server", "on_server", is_flag=True, help="Let the server read its own files back instead.")
@api_command
def verify(client: Client, output: Output, reference: str, root: Path | None, *, on_server: bool) -> None:
    """
    Compare the files in a directory with those of REF. Other files in the directory do not matter.

    With --server, the server reads the files that it has of REF, and compares their digests.
    """
    if on_server and root:
        raise click.UsageError("--root: with --server, no directory is compared; leave one of them out")
    version = find_version(client, reference)
    if on_server:
        _verify_on_server(client, output, version)
        return
    folder = root or default_root(version)
    problems = []
    checked = 0
    for file in list_files(client, version):
        if file["ref"] is not None:
            continue
        checked += 1
        path = folder.joinpath(*file["path"].split("/"))
        if not path.is_file():
            problems.append(f"{file['path']}: missing")
        elif _digest(path) != file["digest"]:
            problems.append(f"{file['path']}: its content differs")
    if output.as_json:
        output.json({"artifact": version["artifact"], "root": str(folder), "checked": checked, "problems": problems})
    elif not problems:
        output.line(f"{folder} has the files of {version['artifact']} ({checked:,})")
    if problems:
        raise UpshotError(f"{folder} differs from {version['artifact']}: {_shown(problems)}; download it again")


def _verify_on_server(client: Client, output: Output, version: Any) -> None:
    paths = {file["digest"]: file["path"] for file in list_files(client, version) if file["ref"] is None}
    missing: list[str] = []
    for digests in groups(paths, _BLOBS_PER_REQUEST):
        missing += client.post("/blobs/verify", {"digests": digests}, takes_long=True)["missing"]
    problems = [f"{paths[digest]}: damaged or lost" for digest in missing]
    if output.as_json:
        output.json({"artifact": version["artifact"], "checked": len(paths), "problems": problems})
    elif not problems:
        output.line(f"the server has the files of {version['artifact']} ({len(paths):,})")
    if problems:
        raise UpshotError(
            f"the server's files of {version['artifact']}: {_shown(problems)}; log an artifact with the same content "
            "again, or restore the server's disk from a backup"
        )


def _shown(problems: list[str]) -> str:
    shown = "; ".join(problems[:_SHOWN_PROBLEMS])
    return shown + (f"; and {len(problems) - _SHOWN_PROBLEMS:,} more" if len(problems) > _SHOWN_PROBLEMS else "")


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--yes", is_flag=True, help="Do not ask.")
@wait_option
@api_command
def delete(client: Client, output: Output, reference: str, finish: Finish, *, yes: bool) -> None:
    """
    Delete the artifact version REF, and every link to it.

    REF is project/artifact:v3, or a version of a collection: the artifact version behind it is deleted. `upshot
    registry unlink` removes only the version of the collection.
    """
    version = find_version(client, reference)
    source = source_of(version)  # an alias may move while the question is open
    path = artifact_path(source, "versions", source.version)
    if not yes:
        links = [link["reference"] for link in client.items(f"{path}/links", limit=_SHOWN_PROBLEMS)]
        names = f" ({', '.join(links)})" if links else ""
        click.confirm(f"Delete the artifact version {source} and every link to it{names}?", abort=True, err=True)
    deleted = client.delete(path)
    finish(client, output, deleted, f"deleted {source}")


def default_root(version: Any) -> Path:
    """Return the directory into which a version is downloaded if no other is given."""
    return (
        read_client_settings(with_file=True).artifact_dir / f"{version['artifact_name']}:{version['artifact_version']}"
    )


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
