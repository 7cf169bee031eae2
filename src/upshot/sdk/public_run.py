"""Runs as the server describes them, for programs that look at them later."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from upshot.client.addresses import ApiError, api_path
from upshot.json_numbers import NOT_FINITE
from upshot.sdk.connection import client
from upshot.sdk.sdk_errors import InvalidArgument
from upshot.sdk.summary import SummaryValues

if TYPE_CHECKING:
    from upshot.sdk.artifact import Artifact

_NOT_FOUND = 404
_PAGE_ROWS = 1_000
_MAX_SAMPLES = 10_000


class PublicRun:
    """A run that a server has recorded."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        self._set(run)

    def _set(self, run: Mapping[str, Any]) -> None:
        self._json = run
        self.id = str(run["id"])
        self.name = str(run["name"])
        self.project = str(run["project"])
        self.entity: str | None = run.get("entity")
        self.job_type: str | None = run["job_type"]
        self.state = str(run["state"])
        self.config: dict[str, Any] = dict(run["config"] or {})
        self.summary = SummaryValues(with_numbers(run["summary"] or {}))
        self.tags: list[str] = list(run["tags"] or [])
        self.group: str | None = run["group"]
        self.notes: str | None = run["notes"] or None
        self.metadata: dict[str, Any] = dict(run.get("info") or {})
        self.created_at = str(run["created_at"])
        self.url: str | None = run["url"]

    def __repr__(self) -> str:
        return f"<Run {self.project}/{self.id} ({self.state})>"

    @property
    def path(self) -> list[str]:
        """Project and id."""
        return [self.project, self.id]

    @property
    def username(self) -> str | None:
        """The user whose program it was."""
        user: str | None = self.metadata.get("user") or self._json.get("created_by")
        return user

    @property
    def summary_metrics(self) -> dict[str, Any]:
        """The summary as a dictionary."""
        return dict(self.summary)

    def load(self, force: bool = False) -> None:
        """
        Ask the server for the run as it is now.

        Args:
            force: Has no effect.
        """
        self._set(client().get(self._path()))

    def _path(self, *more: str) -> str:
        return api_path("projects", self.project, "runs", self.id, *more)

    # --- artifacts --------------------------------------------------------------------------------

    def used_artifacts(self, per_page: int = 100) -> list[Artifact]:
        """
        Return the artifacts that the run used, named by their source.

        Args:
            per_page: Has no effect.
        """
        return self._artifacts("inputs")

    def logged_artifacts(self, per_page: int = 100) -> list[Artifact]:
        """
        Return the artifacts that the run logged.

        Args:
            per_page: Has no effect.
        """
        return self._artifacts("outputs")

    def _artifacts(self, direction: str) -> list[Artifact]:
        from upshot.sdk.artifact import Artifact

        found = client().get(self._path(direction))
        return [Artifact.from_version(version) for version in found["items"]]

    # --- history ----------------------------------------------------------------------------------

    def history(
        self,
        samples: int = 500,
        keys: list[str] | None = None,
        x_axis: str = "_step",
        pandas: bool = True,
        stream: str = "default",
    ) -> Any:
        """
        Return rows of what was logged, spread evenly over the run.

        Args:
            samples: At most so many rows.
            keys: Only these metrics, in the rows that have all of them.
            x_axis: A metric that the rows must have, too.
            pandas: Return a DataFrame, if pandas is installed.
            stream: `default`. Metrics of the machine are not recorded.

        Returns:
            A DataFrame, or a list of mappings: `_step`, `_timestamp` and the values.

        Raises:
            ValueError: An argument is invalid.
        """
        if stream != "default":
            raise InvalidArgument(f"history(stream={stream!r}): metrics of the machine are not recorded; leave it out")
        query = {**_query_keys(keys), "samples": max(1, min(samples, _MAX_SAMPLES)), "x_axis": x_axis}
        rows = [with_numbers(row) for row in client().get(self._path("history"), **query)["items"]]
        if pandas:
            try:
                return import_module("pandas").DataFrame.from_records(rows)
            except ImportError:
                return rows
        return rows

    def scan_history(
        self,
        keys: list[str] | None = None,
        page_size: int = 1000,
        min_step: int = 0,
        max_step: int | None = None,
        use_cache: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """
        Yield every row of what was logged.

        Args:
            keys: Only these metrics, in the rows that have all of them.
            page_size: Rows of a request.
            min_step: The first step.
            max_step: The step before which to end.
            use_cache: Has no effect.

        Raises:
            ValueError: An argument is invalid.
        """
        query: dict[str, Any] = {
            **_query_keys(keys),
            "from_step": min_step,
            "to_step": None if max_step is None else max_step - 1,
            "limit": max(1, min(page_size, _PAGE_ROWS * 10)),
        }
        return self._scan(query) if max_step is None or max_step > min_step else iter(())

    def _scan(self, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        cursor = None
        while True:
            page = client().get(self._path("history"), **query, cursor=cursor)
            yield from map(with_numbers, page["items"])
            cursor = page["next"]
            if cursor is None:
                return

    # --- files ------------------------------------------------------------------------------------

    def files(
        self, names: Sequence[str] | None = None, pattern: str | None = None, per_page: int = 50
    ) -> list[RunFile]:
        """
        Return the files of the run.

        Args:
            names: Only those with these paths.
            pattern: Only those that match this pattern: `%` is any text, as in W&B; `*` too.
            per_page: Has no effect.
        """
        from fnmatch import fnmatchcase

        glob = None if pattern is None else pattern.replace("%", "*")
        return [
            RunFile(self, file)
            for file in client().every_item(self._path("files"))
            if (names is None or file["path"] in names) and (glob is None or fnmatchcase(file["path"], glob))
        ]

    def file(self, name: str) -> RunFile:
        """
        Return a file of the run.

        Args:
            name: Its path.

        Raises:
            ValueError: There is none.
        """
        for file in self.files(names=[name]):
            return file
        raise InvalidArgument(f"run {self.project}/{self.id} has no file {name!r}")

    # --- changes ----------------------------------------------------------------------------------

    def update(self) -> None:
        """Store the name, notes, tags, group, config and summary that the program has changed."""
        body = {
            "name": self.name,
            "notes": self.notes or "",
            "tags": list(self.tags),
            "config": self.config,
            "summary": dict(self.summary),
        }
        self._set(client().put(self._path(), body))

    def stop(self) -> None:
        """Ask the program of the run to stop."""
        client().post(self._path("stop"))


class RunFile:
    """A file of a run."""

    def __init__(self, run: PublicRun, file: Mapping[str, Any]) -> None:
        self._run = run
        self.name = str(file["path"])
        self.size: int = file["size"]
        self.digest = str(file["digest"])

    def __repr__(self) -> str:
        return f"<File {self.name} ({self.size} bytes)>"

    def download(
        self, root: str | os.PathLike[str] = ".", replace: bool = False, exist_ok: bool = False, api: object = None
    ) -> TextIO:
        """
        Download the file, and return it, opened. Its attribute `name` is the path.

        Args:
            root: The directory. The path of the file in the run is added to it.
            replace: Whether to replace a file that exists.
            exist_ok: Whether to leave a file that exists as it is, without an error.
            api: Has no effect.

        Raises:
            ValueError: The file exists, or the server does not have its bytes.
        """
        from upshot.client.blob_cache import new_file_beside
        from upshot.client.downloads import safe_target

        target = safe_target(Path(root), self.name)
        if target.exists() and not replace:
            if exist_ok:
                return target.open(encoding="utf-8")
            raise InvalidArgument(f"{target} exists; pass replace=True or exist_ok=True")
        target.parent.mkdir(parents=True, exist_ok=True)
        new_path = new_file_beside(target)
        path = api_path("projects", self._run.project, "runs", self._run.id, "files")
        try:
            source = path + "/" + "/".join(map(_quoted, self.name.split("/")))
            with client().stream(source) as chunks, new_path.open("xb") as file:
                file.writelines(chunks)
            new_path.replace(target)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            raise InvalidArgument(f"{self.name}: {error}") from error
        finally:
            new_path.unlink(missing_ok=True)
        return target.open(encoding="utf-8")


def with_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the numbers that JSON does not have."""
    return {key: _number(value) for key, value in values.items()}


def _query_keys(keys: object) -> dict[str, Any]:
    """
    Return the query for some keys of a history.

    Raises:
        InvalidArgument: They are not a list of texts.
    """
    if keys is None:
        return {}
    if not isinstance(keys, list | tuple | set) or not all(isinstance(key, str) for key in keys):
        raise InvalidArgument(f"keys={keys!r}: pass a list of texts")
    if any("," in key for key in keys):
        return {"key": list(keys)}
    return {"keys": ",".join(keys) or None}


def _number(value: Any) -> Any:
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _quoted(segment: str) -> str:
    return api_path(segment)[1:]
