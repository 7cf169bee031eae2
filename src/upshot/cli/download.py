"""`upshot download`."""

from __future__ import annotations

from pathlib import Path

import click

from upshot.cli.api_commands import api_command
from upshot.cli.artifact_files import default_root, find_version, list_files
from upshot.client.downloads import download as download_files
from upshot.client.http import Client
from upshot.console import Output
from upshot.domain.manifest import ManifestEntry
from upshot.errors import UpshotError
from upshot.sdk.connection import blob_cache
from upshot.sdk.stored_elsewhere import download_references


@click.command()
@click.argument("reference", metavar="REF")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The directory. By default, artifacts/NAME:VERSION, or in UPSHOT_ARTIFACT_DIR.",
)
@click.option("--stored", is_flag=True, help="Leave out the files that REF only refers to.")
@api_command
def download(client: Client, output: Output, reference: str, root: Path | None, *, stored: bool) -> None:
    """
    Download the files of REF (project/artifact:v3, or registry/collection:ALIAS), and print the directory.

    Every digest is compared. Files that are there already are kept, and an interrupted download continues.
    """
    version = find_version(client, reference)
    if not version["is_stored"]:
        raise UpshotError(
            f"{version['artifact']} was logged without its bytes: there is nothing to download; log it again with its "
            "files"
        )
    folder = root or default_root(version)
    entries = [
        ManifestEntry(file["path"], file["digest"], file["size"], file["ref"])
        for file in list_files(client, version)
        if file["ref"] is None or not stored
    ]
    what = f"{version['artifact_name']}:{version['artifact_version']}"
    download_files(client, [entry for entry in entries if entry.ref is None], folder, cache=blob_cache(), what=what)
    download_references((entry for entry in entries if entry.ref is not None), folder)
    output.result({"artifact": version["artifact"], "root": str(folder), "file_count": len(entries)}, str(folder))
