"""`upshot validate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.automations.loader import load_file, load_folder, merge
from upshot.cli.settings import settings_with
from upshot.client.output import Output
from upshot.schema.queues import JobsConfig
from upshot.wiring.jobs_file import jobs_file_of, load_queue_book


@click.command()
@click.argument("where", metavar="[DIR|FILE]", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def validate(where: Path | None, as_json: bool) -> None:
    """
    Check a folder of automations (./automations, or UPSHOT_AUTOMATIONS), or one file of it: every mistake at once.

    Each is printed as `file:line: what is wrong and what would be right`. Where UPSHOT_JOBS_FILE names the
    operator's file, that is checked, too, and jobs are held against its queues. Needs no server. Exits 1
    if anything is wrong.
    """
    one_file = where if where is not None and where.is_file() else None
    settings = settings_with(automations=one_file.parent if one_file else where)
    named = settings.automations
    jobs_file = jobs_file_of(settings)
    book, jobs_errors = load_queue_book(jobs_file) if jobs_file else (JobsConfig(), ())
    catalog = load_catalog(EgressRules.parse(settings.egress_allow), book)
    loaded = merge([load_file(named, one_file.name, catalog)]) if one_file else load_folder(named, catalog)
    errors = (*jobs_errors, *loaded.errors)
    output = Output(as_json=as_json)
    if as_json:
        output.data(
            {
                "automations": [
                    {"name": one.name, "path": str(named / one.path), "line": one.line} for one in loaded.automations
                ],
                "errors": [{"path": one.path, "line": one.line, "reason": one.reason} for one in errors],
            }
        )
    else:
        for automation in loaded.automations:
            output.line(f"{named / automation.path}:{automation.line}: {automation.name} ", output.state("ok"))
        if jobs_file and not jobs_errors:
            output.line(f"{jobs_file.as_posix()}: queues {', '.join(book.queues)} ", output.state("ok"))
        for error in errors:
            output.line(str(error))
        output.line(_summary(len(loaded.automations), len(errors)))
    sys.exit(1 if errors else 0)


def _summary(sound: int, mistakes: int) -> str:
    automations = "1 automation is" if sound == 1 else f"{sound} automations are"
    return f"{automations} sound; {mistakes} {'mistake' if mistakes == 1 else 'mistakes'} found"
