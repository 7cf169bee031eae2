"""`upshot verify-metrics`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from upshot.cli.api_commands import api_command
from upshot.cli.params import read_json
from upshot.client.http import Client
from upshot.client.login import Server
from upshot.console import Output
from upshot.errors import InvalidInput, UpshotError
from upshot.sdk.connection import use_server
from upshot.sdk.evaluation import DEFAULT_TOLERANCE, Comparison, Rules, compare_scores

if TYPE_CHECKING:
    from upshot.sdk.artifact import Artifact

_SHOWN_CHARS = 200


@click.command("verify-metrics", short_help="Score a version again, and compare with what its run has reported.")
@click.argument("reference", metavar="REF")
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]")
@click.option(
    "--metrics",
    "metrics_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON file with the metrics that were found, in place of a command.",
)
@click.option("--metric", "names", multiple=True, help="Compare only this metric. Can be repeated.")
@click.option(
    "--tolerance",
    type=float,
    default=DEFAULT_TOLERANCE,
    show_default=True,
    help="How far a metric may be off, absolutely or relatively.",
)
@click.option("--project", help="Project of the evaluation's run. By default, the project of the artifact.")
@click.option("--no-record", is_flag=True, help="Do not write the verdict into the version's metadata.")
@api_command
def verify_metrics(
    client: Client,
    output: Output,
    reference: str,
    command: tuple[str, ...],
    *,
    metrics_file: Path | None,
    names: tuple[str, ...],
    tolerance: float,
    project: str | None,
    no_record: bool,
) -> None:
    """
    Score the version REF again, and compare with the summary of the run that logged it.

    COMMAND finds the version's files in the directory UPSHOT_INPUT, and the configuration of that run as JSON on
    standard input. The last line that it prints is a JSON object of metrics. The exit code is 0 if all are within the
    tolerance, and otherwise 1.
    """
    if bool(command) == (metrics_file is not None):
        raise click.UsageError("write either --metrics FILE, or -- and a command that prints metrics")
    use_server(Server(client.url, client.token, is_local=client.is_local))

    def find_scores(artifact: Artifact, config: Mapping[str, Any]) -> Any:
        if metrics_file is not None:
            return _read(metrics_file.read_text(), str(metrics_file))
        return _run(command, artifact.download(), config)

    rules = Rules(names or None, tolerance, project, record=not no_record)
    evaluation = compare_scores(reference, find_scores, rules)
    rows = [comparison._asdict() for comparison in evaluation.metrics]
    if output.as_json:
        output.json(
            {
                "reference": evaluation.reference,
                "digest": evaluation.digest,
                "producer": evaluation.producer,
                "run": evaluation.run,
                "passed": evaluation.passed,
                "metrics": rows,
            }
        )
    else:
        _print(output, evaluation.metrics)
        verdict = "passed" if evaluation.passed else "failed"
        output.line(
            f"{evaluation.reference} {verdict}: reported by {evaluation.producer}, evaluated by {evaluation.run}"
        )
    if not evaluation.passed:
        raise click.exceptions.Exit(1)


def _print(output: Output, comparisons: Sequence[Comparison]) -> None:
    columns = {
        "metric": lambda comparison: comparison.name,
        "reported": lambda comparison: repr(comparison.reported),
        "found": lambda comparison: repr(comparison.found),
        "verdict": lambda comparison: "within" if comparison.within else "differs",
    }
    output.rows(comparisons, columns, empty="")


def _run(command: Sequence[str], folder: str, config: Mapping[str, Any]) -> Any:
    """Run a command that prints metrics, and return them."""
    try:
        done = subprocess.run(
            command,
            input=json.dumps(dict(config)),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "UPSHOT_INPUT": folder},  # noqa: TID251 - the command inherits the environment
        )
    except OSError as error:
        raise InvalidInput(f"{command[0]}: {error.strerror}; write the command after `--`") from error
    if done.returncode:
        raise UpshotError(f"{command[0]} ended with exit code {done.returncode}, so there are no metrics to compare")
    lines = done.stdout.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return _read(last, f"the last line that {command[0]} printed")


def _read(text: str, place: str) -> Any:
    try:
        found = read_json(text)
    except ValueError as error:
        raise InvalidInput(f"{place}: {text.strip()[:_SHOWN_CHARS]!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput(f'{place}: must be a JSON object of metrics, such as {{"accuracy": 0.93}}')
    return found
