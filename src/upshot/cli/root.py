"""The root of all commands."""

from __future__ import annotations

import click

from upshot import __version__
from upshot.cli.lazy import LazyGroup

_COMMANDS = {
    "demo": ("upshot.cli.demo:demo", "Watch a version being promoted, and what happens because of it."),
    "up": ("upshot.cli.up:up", "Run everything on this machine, in the foreground."),
    "validate": ("upshot.cli.validate:validate", "Check a folder of automations; every mistake at once."),
    "doctor": ("upshot.cli.doctor:doctor", "Check the installation, with a remedy for what is wrong."),
    "registry": ("upshot.cli.registry:registry", "Collections, artifacts, links, aliases, tags, history."),
    "events": ("upshot.cli.events:events", "What happened, and what answered it; emit your own."),
    "executions": ("upshot.cli.executions:executions", "What automations did; retry, cancel."),
    "jobs": ("upshot.cli.jobs:jobs", "Container jobs: where they stand, what they say; cancel."),
    "automations": ("upshot.cli.automations:automations", "What is loaded, and what is broken."),
    "serve": ("upshot.cli.processes:serve", "Run the web process alone."),
    "worker": ("upshot.cli.processes:worker", "Run a worker alone."),
    "migrate": ("upshot.cli.processes:migrate", "Bring the database to the present form."),
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 it worked; 1 it did not, and standard error says why; 2 the command was not understood. "
    "Commands find what `upshot up` started through its data folder (--data, UPSHOT_DATA), "
    "or a server through UPSHOT_URL and UPSHOT_TOKEN.",
)
@click.version_option(__version__, "-V", "--version", prog_name="upshot")
def main() -> None:
    """When a model changes in the registry, make the rest happen."""
