"""The root of all commands."""

from __future__ import annotations

import click

from upshot import __version__
from upshot.cli.lazy import LazyGroup

_COMMANDS = {
    "demo": ("upshot.cli.demo:demo", "Watch models being evaluated and promoted, with real jobs."),
    "init": ("upshot.cli.init:init", "Write a first automation and what it needs."),
    "up": ("upshot.cli.up:up", "Run everything on this machine, in the foreground."),
    "receivers": ("upshot.receivers:main", "Receive, verify and print the requests of automations, to try them."),
    "validate": ("upshot.cli.validate:validate", "Check automation files, and list every mistake."),
    "schema": ("upshot.cli.schema:schema", "Print a JSON Schema of automation files, for editors."),
    "doctor": ("upshot.cli.doctor:doctor", "Check the installation, and suggest remedies."),
    "login": ("upshot.cli.login:login", "Check the token of a server, and keep it for later commands."),
    "tokens": ("upshot.cli.tokens:tokens", "Make, list and revoke tokens of people and programs."),
    "open": ("upshot.cli.tokens:open_pages", "Print an address that signs your browser in to the pages."),
    "registry": ("upshot.cli.registry:registry", "Manage collections, artifacts, links, aliases and tags."),
    "artifacts": ("upshot.cli.artifacts:artifacts", "Log, list, show, compare, verify and delete artifact versions."),
    "download": ("upshot.cli.download:download", "Download the files of a version."),
    "lineage": ("upshot.cli.lineage:lineage", "Show what a version was made from, and what was made from it."),
    "runs": ("upshot.cli.runs:runs", "List, show, compare, tag, stop and delete runs; print their metrics."),
    "sync": ("upshot.cli.sync:sync", "Bring in runs that were kept without a server."),
    "verify-metrics": (
        "upshot.cli.verify_metrics:verify_metrics",
        "Score a version again, and compare with what its run has reported.",
    ),
    "comments": ("upshot.cli.comments:comments", "Comment on versions and runs."),
    "events": ("upshot.cli.events:events", "List, show and follow events; emit custom events."),
    "executions": ("upshot.cli.executions:executions", "List, show, retry and cancel executions."),
    "destinations": ("upshot.cli.destinations:destinations", "List, show and release destinations of requests."),
    "jobs": ("upshot.cli.jobs:jobs", "List, show and cancel container jobs; print their logs."),
    "automations": ("upshot.cli.automations:automations", "List and show the loaded automations."),
    "serve": ("upshot.cli.processes:serve", "Run only the web process."),
    "worker": ("upshot.cli.processes:worker", "Run only a worker."),
    "completion": ("upshot.cli.completion:completion", "Print the completion script of your shell."),
    "health": ("upshot.cli.health:health", "Check the process in this container."),
    "migrate": ("upshot.cli.processes:migrate", "Upgrade the database schema."),
}
#: The commands that need the extra `server`. The others only talk to a server.
_SERVER_COMMANDS = frozenset(
    {"demo", "doctor", "health", "init", "migrate", "receivers", "schema", "serve", "up", "validate", "worker"}
)


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    server=_SERVER_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 means success. 1 means failure; standard error says why. 2 means that the command is "
    "invalid. Commands connect to the `upshot up` that runs on the data directory (--data, UPSHOT_DATA), or to the "
    "server that UPSHOT_URL and UPSHOT_TOKEN name.",
)
@click.version_option(__version__, "-V", "--version", prog_name="upshot")
def main() -> None:
    """When a model changes in the registry, make the rest happen."""
