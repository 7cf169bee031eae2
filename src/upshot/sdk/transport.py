"""Send records of a run: requests, and the files that travel with them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upshot.client.addresses import ApiError
from upshot.errors import InvalidInput
from upshot.sdk.connection import new_client, say_once
from upshot.sdk.journal import Record

if TYPE_CHECKING:
    from upshot.client.http import Client

_TRY_AGAIN = frozenset({401, 403, 408, 425, 429})  # and every status from 500
_SERVER_ERROR = 500
_REFUSED_BODY = frozenset({413, 422})


class Transport:
    """
    Sends records with a connection of its own.

    Args:
        folder: The folder of the run, with files that are not in the records themselves.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._client: Client | None = None

    def send(self, record: Record) -> Any:
        """
        Send a record, and return the data of the answer.

        Raises:
            Unavailable: No server answers.
            ApiError: The server rejected it.
        """
        if self._client is None:
            self._client = new_client()
        answer = self._client.send_json(record.method, record.path, record.body, key=record.key)
        if record.files:
            self._send_files(record, set(answer["missing"]))
        return answer

    def send_instead(self, record: Record) -> None:
        """
        Send a request with metrics without what the server may have rejected, so that it takes those that follow.

        First the summary and the config are left out, then also the metrics.
        """
        if self._client is None or record.kind != "log":
            return
        fields = json.loads(record.body)
        bare = {"session": fields["session"], "sequence": fields["sequence"]}
        if "rows" in fields and len(fields) > len(bare) + 1:
            try:
                self._client.send_json(record.method, record.path, json.dumps({**bare, "rows": fields["rows"]}))
            except ApiError as error:
                if not is_about_body(error):
                    raise
            else:
                return
        self._client.send_json(record.method, record.path, json.dumps(bare))

    def _send_files(self, record: Record, missing: set[str]) -> None:
        from upshot.client.file_digest import LocalFile
        from upshot.client.uploads import upload
        from upshot.domain.blob_frames import frame
        from upshot.domain.manifest import ManifestEntry

        if self._client is None:
            raise AssertionError("unreachable: the record itself has been sent")
        frames = []
        stored = []
        for file in record.files:
            if file["digest"] not in missing:
                continue
            missing.discard(file["digest"])
            if file.get("content") is not None:
                frames.append(frame(file["digest"], base64.b64decode(file["content"])))
            else:
                entry = ManifestEntry(file["path"], file["digest"], file["size"])
                stored.append(LocalFile(entry, self._folder / file["source"]))
        if frames:
            body = b"".join(frames)
            self._client.send_bytes("POST", "/blobs", lambda: [body], size=len(body))
        try:
            upload(self._client, stored, what=record.files[0]["path"])
        except (OSError, InvalidInput) as error:
            say_once(
                f"{', '.join(file.entry.path for file in stored)}: the copy cannot be read ({error}); it is not kept"
            )
        self.forget_files(record)

    def forget_files(self, record: Record) -> None:
        """Remove the copies of the files of a record."""
        for file in record.files:
            if file.get("source") is not None:
                (self._folder / file["source"]).unlink(missing_ok=True)


def is_temporary(error: ApiError) -> bool:
    """Return whether the request may succeed later."""
    return error.status in _TRY_AGAIN or error.status >= _SERVER_ERROR


def is_unavailable(error: ApiError) -> bool:
    """Return whether the server could not do its work, whatever the request was."""
    return error.status >= _SERVER_ERROR or error.status in {408, 425, 429}


def is_about_body(error: ApiError) -> bool:
    """Return whether the server rejected what the request contains."""
    return error.status in _REFUSED_BODY


def file_record(run_path: str, files: list[Mapping[str, Any]]) -> Record:
    """Return the record that adds files to a run."""
    listed = [{"path": file["path"], "digest": file["digest"], "size": file["size"]} for file in files]
    return Record("files", "POST", f"{run_path}/files", json.dumps({"files": listed}), files=files)
