"""`upshot runs`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem
from typing_extensions import override

from upshot.cli.api_commands import api_command, limit_option
from upshot.cli.ids import completion
from upshot.cli.params import OBJECT
from upshot.cli.waiting import Finish, wait_option
from upshot.cli.whole_number import WholeNumber
from upshot.client.downloads import download, safe_target
from upshot.client.http import Client, api_path
from upshot.console import Output, format_value, local_time
from upshot.csv_text import csv_line
from upshot.domain.manifest import ManifestEntry
from upshot.domain.reference import check_existing_name
from upshot.domain.run import RunState

_NAMES = 200  # runs that are completed
_ALL_FILES = 100_000
_HISTORY_ROWS = 500
_MAX_SAMPLES = 10_000
_SHOWN_KEYS = 40  # of the config and the summary


class RunType(click.ParamType[tuple[str, str]]):
    """A pair `PROJECT/RUN`: names of a project and the id of a run, with W&B's entity in front or without it."""

    name = "PROJECT/RUN"

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _complete_run(ctx, param, incomplete)

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        parts = value.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            self.fail(f"{value!r} is not a run; write PROJECT/RUN, such as nature/ab12cd34", param, ctx)
        return parts[-2], parts[-1]


class ProjectType(click.ParamType[str]):
    """The name of a project, with W&B's entity in front or without it."""

    name = "PROJECT"

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _complete_project(ctx, param, incomplete)

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        parts = value.split("/")
        if len(parts) not in (1, 2) or not all(parts):
            self.fail(f"{value!r} is not a project; write its name, such as nature", param, ctx)
        project: str = parts[-1]
        return project


RUN = RunType()
PROJECT = ProjectType()


def _projects(client: Client, incomplete: str) -> Iterable[CompletionItem]:
    del incomplete
    return (CompletionItem(item["name"]) for item in client.items("/projects", limit=_NAMES))


def _candidates(client: Client, incomplete: str) -> Iterable[CompletionItem]:
    project, slash, _ = incomplete.partition("/")
    if not slash:
        return (CompletionItem(f"{item['name']}/") for item in client.items("/projects", limit=_NAMES))
    runs = client.items(api_path("projects", project, "runs"), limit=_NAMES)
    return (CompletionItem(f"{project}/{run['id']}", help=f"{run['name']} {run['state']}") for run in runs)


_complete_run = completion(_candidates)
_complete_project = completion(_projects)


def csv_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--csv`."""
    return click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")(command)


@click.group()
def runs() -> None:
    """List, show, compare, tag, stop and delete runs; print their metrics."""


@runs.command("list")
@click.argument("project", type=PROJECT)
@click.option("--job-type", help="Only those of this job type.")
@click.option(
    "--state",
    multiple=True,
    type=click.Choice([state.value for state in RunState]),
    help="Only those in this state. Can be repeated.",
)
@click.option("--tag", "tags", multiple=True, help="Only those with this tag. Can be repeated: with all of them.")
@click.option("--group", help="Only those of this group.")
@click.option("--name", help="Only those with this name, which need not be unique.")
@click.option(
    "--filters",
    type=OBJECT,
    help='Filters as the Python Api takes them: \'{"config.lr": {"$lt": 0.1}, "summary_metrics.acc": {"$gt": 0.9}}\', '
    "or @FILE.",
)
@click.option(
    "--order",
    metavar="[-]KEY",
    help="Sort by createdAt, state, config.KEY, summary_metrics.KEY, …; with - in front, the largest first. "
    "By default, -createdAt.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="config.KEY|summary.KEY",
    help="Another column of the table. Can be repeated.",
)
@limit_option(50)
@csv_option
@api_command
def list_runs(
    client: Client,
    output: Output,
    project: str,
    *,
    job_type: str | None,
    state: tuple[str, ...],
    tags: tuple[str, ...],
    group: str | None,
    name: str | None,
    filters: dict[str, Any] | None,
    order: str | None,
    columns: tuple[str, ...],
    limit: int,
    as_csv: bool,
) -> None:
    """List the runs of PROJECT, newest first."""
    _check_format(output, as_csv=as_csv)
    wanted = _all_of(
        [
            *([filters] if filters else []),
            *([{"jobType": job_type}] if job_type else []),
            *([{"state": {"$in": list(state)}}] if state else []),
            *({"tags": tag} for tag in tags),
            *([{"group": group}] if group else []),
            *([{"displayName": name}] if name else []),
        ]
    )
    found = client.items(
        api_path("projects", project, "runs"),
        limit=limit,
        filters=json.dumps(wanted) if wanted else None,
        order=order,
    )
    chosen = {column: _value_at(column) for column in columns}
    table: dict[str, Callable[[Any], Any]] = {
        "id": lambda run: run["id"],
        "name": lambda run: run["name"],
        "state": lambda run: run["state"],
        "job type": lambda run: run["job_type"],
        **chosen,
        "tags": lambda run: run["tags"],
        "created": lambda run: local_time(run["created_at"]),
        "by": lambda run: run["created_by"],
    }
    if as_csv:
        _print_csv(table | {"created": lambda run: run["created_at"]}, found)
        return
    output.rows(
        found,
        table,
        empty=f"{project} has no runs{' that pass the filters' if wanted else ''}",
        optional=("by", "tags", "created", "job type"),
        wrapped="tags",
    )


def _all_of(conditions: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    if not conditions:
        return None
    return conditions[0] if len(conditions) == 1 else {"$and": list(conditions)}


def _value_at(column: str) -> Callable[[Any], Any]:
    """Return a function that finds a value in the config or the summary of a run."""
    place, _, key = column.partition(".")
    field = {"config": "config", "summary": "summary", "summary_metrics": "summary"}.get(place)
    if field is None or not key:
        raise click.BadParameter(
            f"{column!r}: write config.KEY or summary.KEY, such as summary.val/loss", param_hint="--column"
        )

    def find(run: Any) -> Any:
        values = run[field]
        if key in values:
            return values[key]
        for part in key.split("."):
            values = values.get(part) if isinstance(values, Mapping) else None
        return values

    return find


@runs.command()
@click.argument("run", type=RUN)
@api_command
def show(client: Client, output: Output, run: tuple[str, str]) -> None:
    """Show a run: its state, configuration, summary, inputs, outputs, code and hardware."""
    shown = client.get(_path(run))
    inputs = client.get(_path(run, "inputs"))["items"]
    outputs = client.get(_path(run, "outputs"))["items"]
    if output.as_json:
        output.json({**shown, "inputs": inputs, "outputs": outputs})
        return
    info = shown["info"]
    git = info.get("git") if isinstance(info.get("git"), Mapping) else {}
    ended = f"{local_time(shown['finished_at'])}" if shown["finished_at"] else None
    output.fields(
        (
            ("id", f"{run[0]}/{shown['id']}"),
            ("name", shown["name"]),
            ("state", shown["state"]),
            ("reason", shown.get("reason")),
            ("exit code", shown.get("exit_code")),
            ("job type", shown["job_type"]),
            ("tags", ", ".join(shown["tags"]) or None),
            ("group", shown["group"]),
            ("notes", shown["notes"] or None),
            ("started", f"{local_time(shown['created_at'])} by {shown['created_by']}"),
            ("ended", ended),
            ("command", _command(info)),
            ("commit", git.get("commit") if git else None),
            ("host", info.get("hostname")),
            ("python", info.get("python")),
            ("url", shown["url"]),
        )
    )
    _print_mapping(output, "config", shown["config"])
    _print_mapping(output, "summary", shown["summary"])
    _print_list(output, "inputs", [version["artifact"] for version in inputs])
    _print_list(output, "outputs", [version["artifact"] for version in outputs])


def _command(info: Mapping[str, Any]) -> str | None:
    argv = info.get("argv")
    return " ".join(map(str, argv)) if isinstance(argv, list) and argv else info.get("program")


def _print_mapping(output: Output, title: str, values: Mapping[str, Any]) -> None:
    if values:
        output.line("")
        output.line(output.dim(title))
        output.fields(
            (f"  {key}", "null" if value is None else format_value(value))
            for key, value in list(values.items())[:_SHOWN_KEYS]
        )
        if len(values) > _SHOWN_KEYS:
            output.line(output.dim(f"  and {len(values) - _SHOWN_KEYS} more (use --json)"))


def _print_list(output: Output, title: str, entries: Sequence[str]) -> None:
    if entries:
        output.line("")
        output.line(output.dim(title))
        for entry in entries:
            output.line(f"  {entry}")


@runs.command()
@click.argument("run", type=RUN)
@click.option("--key", "keys", multiple=True, help="A metric. Can be repeated: rows that have all of them.")
@click.option(
    "--samples",
    type=WholeNumber(1, _MAX_SAMPLES),
    help=f"So many rows, spread evenly over the run. By default, {_HISTORY_ROWS}.",
)
@click.option("--all", "everything", is_flag=True, help="Every row, exactly as it was logged.")
@csv_option
@api_command
def history(
    client: Client,
    output: Output,
    run: tuple[str, str],
    *,
    keys: tuple[str, ...],
    samples: int | None,
    everything: bool,
    as_csv: bool,
) -> None:
    """Print the metrics of a run by step."""
    _check_format(output, as_csv=as_csv)
    if everything and samples is not None:
        raise click.UsageError("--all and --samples exclude each other")
    query: dict[str, Any] = {"key": list(keys)}
    if everything:
        rows = client.items(_path(run, "history"), limit=sys.maxsize, **query)
    else:
        rows = client.get(_path(run, "history"), samples=samples or _HISTORY_ROWS, **query)["items"]
    names = list(dict.fromkeys(key for row in rows for key in row if not key.startswith("_"))) or list(keys)
    if as_csv:
        _print_csv({name: _cell_of(name) for name in ("_step", "_timestamp", *names)}, rows)
        return
    shown = names[: max(_SHOWN_KEYS, len(keys))]
    output.rows(
        rows,
        {name: _cell_of(name) for name in ("_step", *shown)},
        empty=f"{run[0]}/{run[1]} has logged no {'row with these metrics' if keys else 'metrics'}",
        optional=tuple(reversed(shown[1:])),
    )
    if len(names) > len(shown) and not output.as_json:
        output.line(output.dim(f"and {len(names) - len(shown):,} more metrics (use --key, --csv or --json)"))


def _cell_of(name: str) -> Callable[[Any], Any]:
    return lambda row: row.get(name)


@runs.command()
@click.argument("compared", metavar="PROJECT/RUN...", type=RUN, nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Also what is the same in all of them.")
@csv_option
@api_command
def compare(
    client: Client, output: Output, compared: tuple[tuple[str, str], ...], *, everything: bool, as_csv: bool
) -> None:
    """Compare the configurations and summaries of runs: a row for each key that differs."""
    _check_format(output, as_csv=as_csv)
    if len(set(compared)) == 1 and not everything:
        raise click.UsageError("name the runs to compare, or use --all to see everything of one")
    found = [client.get(_path(run)) for run in compared]
    rows = []
    for place in ("config", "summary"):
        for key in dict.fromkeys(key for run in found for key in run[place]):
            values = [run[place].get(key) for run in found]
            if everything or any(value != values[0] for value in values):
                rows.append({"key": f"{place}.{key}", "values": dict(zip(_labels(compared), values, strict=True))})
    columns: dict[str, Callable[[Any], Any]] = {"key": lambda row: row["key"]}
    for label in _labels(compared):
        columns[label] = _compared_cell(label, as_csv=as_csv)
    if as_csv:
        _print_csv(columns, rows)
        return
    output.rows(rows, columns, empty="these runs have the same configuration and summary")


def _labels(compared: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{project}/{run_id}" for project, run_id in compared]


def _compared_cell(label: str, *, as_csv: bool) -> Callable[[Any], Any]:
    return lambda row: row["values"][label] if as_csv else format_value(row["values"][label])


@runs.command()
@click.argument("run", type=RUN)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="Download the files into this directory.",
)
@api_command
def files(client: Client, output: Output, run: tuple[str, str], root: Path | None) -> None:
    """List the files of a run, or download them."""
    found = client.items(_path(run, "files"), limit=_ALL_FILES)
    if root is None:
        columns: dict[str, Callable[[Any], Any]] = {
            "path": lambda file: file["path"],
            "bytes": lambda file: f"{file['size']:,}",
            "changed": lambda file: local_time(file["updated_at"]),
            "digest": lambda file: file["digest"],
        }
        output.rows(found, columns, empty=f"{run[0]}/{run[1]} has no files", optional=("digest", "changed"))
        return
    for file in found:
        safe_target(root, file["path"])
    entries = [ManifestEntry(file["path"], file["digest"], file["size"]) for file in found]
    download(client, entries, root, cache=None, what=f"{run[0]}/{run[1]}")
    output.result({"root": str(root), "file_count": len(entries)}, str(root))


@runs.command()
@click.argument("run", type=RUN)
@api_command
def stop(client: Client, output: Output, run: tuple[str, str]) -> None:
    """Ask the program of a run to stop. The run is then `killed`."""
    stopped = client.post(_path(run, "stop"))
    if stopped["state"] != RunState.RUNNING.value:
        line = f"{run[0]}/{run[1]} has ended already: it is {stopped['state']}"
    else:
        line = f"{run[0]}/{run[1]} is asked to stop; without a sign of life, it is killed after 60 seconds"
    output.result(stopped, line)


@runs.command()
@click.argument("run", type=RUN)
@click.option("--yes", is_flag=True, help="Do not ask.")
@wait_option
@api_command
def delete(client: Client, output: Output, run: tuple[str, str], *, yes: bool, finish: Finish) -> None:
    """Delete a run with its metrics and files. The artifact versions that it logged stay."""
    shown = client.get(_path(run))
    if not yes:
        click.confirm(
            f"Delete the run {shown['name']} ({run[0]}/{run[1]}) with its metrics and files? Its artifacts stay.",
            abort=True,
            err=True,
        )
    finish(client, output, client.delete(_path(run)), f"deleted {run[0]}/{run[1]}")


@runs.command()
@click.argument("run", type=RUN)
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Remove these tags.")
@api_command
def tag(client: Client, output: Output, run: tuple[str, str], *, tags: tuple[str, ...], remove: bool) -> None:
    """Add tags to a run, or remove them."""
    for name in tags:
        check_existing_name(name, "tag")
    for name in tags:
        path = _path(run, "tags", name)
        changed = client.delete(path) if remove else client.put(path)
    output.result(changed, f"{run[0]}/{run[1]} has the tags: {', '.join(changed['tags']) or 'none'}")


def _path(run: tuple[str, str], *more: str) -> str:
    return api_path("projects", run[0], "runs", run[1], *more)


def _check_format(output: Output, *, as_csv: bool) -> None:
    if as_csv and output.as_json:
        raise click.UsageError("--csv and --json exclude each other")


def _print_csv(columns: Mapping[str, Callable[[Any], Any]], rows: Iterable[Any]) -> None:
    click.echo(csv_line(columns), nl=False)
    for row in rows:
        click.echo(csv_line(_csv_cell(find(row)) for find in columns.values()), nl=False)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
