"""`upshot validate`."""

from __future__ import annotations

import sys
from collections.abc import Sized
from pathlib import Path

import click

from upshot.actions.catalog import load_catalog
from upshot.automations.files import printable_path
from upshot.automations.loader import load_file, load_folder, merge
from upshot.cli.report_formats import github_annotations, sarif
from upshot.cli.settings import settings_with
from upshot.console import Output
from upshot.schema.queues import JobsConfig
from upshot.wiring.jobs_file import find_jobs_file, load_jobs_config


@click.command()
@click.argument("path", metavar="[DIR|FILE]", type=click.Path(exists=True, path_type=Path), required=False)
@click.option(
    "--format",
    "report_format",
    type=click.Choice(["text", "json", "github", "sarif"]),
    default="text",
    show_default=True,
    help="github: annotations in a workflow of GitHub Actions. sarif: a log for code scanning.",
)
@click.option("--json", "report_format", flag_value="json", help="The same as --format json.")
def validate(path: Path | None, report_format: str) -> None:
    """
    Check a directory of automation files, or one file of it, and list every mistake.

    The default is UPSHOT_AUTOMATIONS, or ./automations. Each mistake is printed as `file:line: what is wrong and
    how to fix it`. If UPSHOT_JOBS_FILE names a jobs file, it is checked too, and jobs must comply with the limits of
    its queues. No server is needed. The exit code is 1 if there is a mistake.
    """
    file = path if path is not None and path.is_file() else None
    settings = settings_with(automations=file.parent if file else path)
    directory = settings.automations
    jobs_file = find_jobs_file(settings)
    jobs_config, jobs_file_errors = load_jobs_config(jobs_file) if jobs_file else (JobsConfig(), ())
    catalog = load_catalog(jobs_config)
    loaded = merge([load_file(directory, file.name, catalog)]) if file else load_folder(directory, catalog)
    automations, errors = loaded.automations, (*jobs_file_errors, *loaded.errors)
    output = Output(as_json=report_format != "text")
    if report_format == "sarif":
        output.json(sarif(errors))
    elif report_format == "github":
        output.raw("".join(f"{line}\n" for line in github_annotations(errors)))
        output.raw(f"{_summary(automations, errors)}\n")
    elif report_format == "json":
        output.json(
            {
                "automations": [
                    {
                        "name": automation.name,
                        "path": printable_path(directory / automation.path),
                        "line": automation.line,
                    }
                    for automation in automations
                ],
                "errors": [{"path": error.path, "line": error.line, "reason": error.reason} for error in errors],
            }
        )
    else:
        for automation in automations:
            output.line(
                f"{printable_path(directory / automation.path)}:{automation.line}: {automation.name} ",
                output.state("ok"),
            )
        if jobs_file and not jobs_file_errors:
            output.line(f"{jobs_file.as_posix()}: queues {', '.join(jobs_config.queues)} ", output.state("ok"))
        for error in errors:
            output.line(str(error))
        output.line(_summary(automations, errors))
    sys.exit(1 if errors else 0)


def _summary(automations: Sized, errors: Sized) -> str:
    valid = "1 automation is" if len(automations) == 1 else f"{len(automations)} automations are"
    mistakes = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
    return f"{valid} valid; {mistakes} found"
