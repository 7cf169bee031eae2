"""
`upshot demo`: candidates are evaluated and promoted or not, and everything that happens because of it is shown.

Everything is real but the receivers: `upshot up` in a folder of its own, the sample automations, the
REST API, containers. Stand-ins for GitHub, Slack and a receiver of signed webhooks run in this process.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from upshot.client.http import Client, path_of
from upshot.client.output import Output
from upshot.clock import SystemClock, stopwatch
from upshot.demo.image import IMAGE, example_image
from upshot.demo.jobs import plan_jobs
from upshot.demo.report import tell_act, tell_requests
from upshot.demo.sample_files import examples
from upshot.demo.scenario import Data, Scenario, Stage, shortcomings, watch
from upshot.demo.system import DemoSystem
from upshot.receivers import ReceiversThread


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the data here, to look at it afterwards with `upshot up --data DIR`.",
)
@click.option("--image", "only_image", is_flag=True, help="Only make the image that the sample jobs run in.")
def demo(data: Path | None, *, only_image: bool) -> None:
    """
    Watch candidates being evaluated and promoted, or not, and what happens because of it.

    Starts Upshot with its sample automations beside local stand-ins for GitHub, Slack and a receiver
    of signed webhooks; logs three models, one after another, and gives each the alias `candidate`: the
    first is promoted, the second is worse and is not, the third is. Their jobs run in containers where
    this machine's Docker answers. Exits 0 only if all of that has happened, and everything that
    should arrive has arrived and was verified.
    """
    output = Output(as_json=False)
    if only_image:
        image = example_image(output.line)
        output.line(f"{IMAGE} is there: {image.name}, {image.id} ({image.how})")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped like that, it cleans up as after Ctrl-C
    began = stopwatch()
    missing = _play(output, data, began)
    for line in missing:
        output.line(output.state("fail"), f"  {line}")
    if not missing:
        output.line()
        output.line(
            output.state("ok"), f"  all of it happened, arrived and was verified; it took {stopwatch() - began:.1f} s"
        )
        if data:
            output.line(f"look at it again: upshot up --data {data}, then upshot events list --data {data}")
    sys.exit(1 if missing else 0)


def _play(output: Output, data: Path | None, began: float) -> list[str]:
    """Play all acts, telling each as it has ended; returns what did not go as it should."""
    with contextlib.ExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upshot-demo-")))
        folder.mkdir(parents=True, exist_ok=True)
        receivers = stack.enter_context(ReceiversThread())
        output.line(
            "starting Upshot with its sample automations, and stand-ins for GitHub, Slack and a webhook receiver"
        )
        plan = stack.enter_context(plan_jobs(folder, output.line))
        system = stack.enter_context(DemoSystem(folder, plan.automations, receivers, plan.settings))
        output.line(f"it listens on {system.endpoint.url} after {stopwatch() - began:.1f} s")
        output.line(plan.words)
        client = stack.enter_context(Client(system.endpoint.url, system.endpoint.token, is_local=True))
        story = Scenario(SystemClock().now(), receivers, plan.with_jobs)
        for play in (_first, _worse, _better) if plan.with_jobs else (_by_hand,):
            act = play(client, story)
            watch(client, act)
            tell_act(output, story, act)
        tell_requests(output, story)
        return shortcomings(story)


# --- what a person or a training script would do, through the REST API -------------------------------


def _first(client: Client, story: Scenario) -> Stage:
    act = story.begin_act(is_promoted=True)
    _link(client, act, "first", "a model", alias="candidate")
    return act


def _worse(client: Client, story: Scenario) -> Stage:
    act = story.begin_act(is_promoted=False)
    _link(client, act, "simpler", "a simpler model, which is worse,", alias="candidate")
    return act


def _better(client: Client, story: Scenario) -> Stage:
    act = story.begin_act(is_promoted=True)
    _link(client, act, "better", "a better model", alias="candidate")
    return act


def _by_hand(client: Client, story: Scenario) -> Stage:
    act = story.begin_act(is_promoted=True)
    version = _link(client, act, "first", "a model", alias="staging")
    moment = SystemClock().now()
    moved = client.put(
        path_of("registries", "model", "collections", "fraud", "aliases", "production"), {"version": version["version"]}
    )
    act.note(f"the alias `production` is moved to {version['reference']}", moved, moment)
    return act


def _link(client: Client, act: Stage, model: str, what: str, *, alias: str) -> Any:
    """Log a model of the examples, and link it under an alias."""
    metadata: Data = json.loads((examples() / "evaluate" / "models" / f"{model}.json").read_text())
    moment = SystemClock().now()
    artifact = client.post(
        path_of("projects", "fraud", "artifacts"),
        {"name": "logistic", "type": "model", "metadata": {**metadata, "trained": act.began.isoformat()}},
    )
    act.note(f"{what} is logged as {artifact['reference']}", artifact, moment)
    moment = SystemClock().now()
    version = client.post(
        path_of("registries", "model", "collections", "fraud", "versions"),
        {"artifact": artifact["reference"], "aliases": [alias]},
    )
    act.version = version["reference"]
    act.note(f"it is linked to the registry as {version['reference']}, alias {alias}", version, moment)
    return version
