"""
The scenario of `upshot demo`: three candidates are linked, and each is promoted or rejected.

Everything is real except the receivers: `upshot up` with its own data directory, the sample automations,
the REST API and the jobs. The receivers stand in for GitHub, Slack and webhooks, and run in this process.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from upshot.client.http import Client, api_path
from upshot.clock import SystemClock, stopwatch
from upshot.console import Output
from upshot.demo.jobs import plan_jobs
from upshot.demo.report import report_requests, report_stage
from upshot.demo.sample_files import examples
from upshot.demo.scenario import Scenario, Stage, failures, observe
from upshot.demo.system import DemoSystem
from upshot.receivers import ReceiversThread

# The file of each candidate under examples/evaluate/models, its description, and whether it should be promoted.
_CANDIDATES = (
    ("first", "a model", True),
    ("simpler", "a simpler and worse model", False),
    ("better", "a better model", True),
)


def run_demo(output: Output, data: Path | None) -> list[str]:
    """
    Play the scenario, and report each stage when it has ended.

    Args:
        output: Where to report.
        data: The data directory. None means a temporary one.

    Returns:
        What did not go as it should, one line each.
    """
    started = stopwatch()
    with contextlib.ExitStack() as stack:
        data = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upshot-demo-")))
        data.mkdir(parents=True, exist_ok=True)
        receivers = stack.enter_context(ReceiversThread())
        output.line("starting Upshot with its sample automations, and receivers for GitHub, Slack and webhooks")
        plan = stack.enter_context(plan_jobs(data, output.line))
        system = stack.enter_context(DemoSystem(data, plan.automations, receivers, plan.settings))
        output.line(f"it listens on {system.endpoint.url} after {stopwatch() - started:.1f} s")
        output.line(plan.description)
        client = stack.enter_context(Client(system.endpoint.url, system.endpoint.token, is_local=True))
        scenario = Scenario(SystemClock().now(), receivers, plan.with_jobs)
        for stage in _link_candidates(client, scenario) if plan.with_jobs else _promote_by_hand(client, scenario):
            observe(client, stage)
            report_stage(output, scenario, stage)
        report_requests(output, scenario)
        return failures(scenario)


def _link_candidates(client: Client, scenario: Scenario) -> Iterator[Stage]:
    for model, description, is_promoted in _CANDIDATES:
        stage = scenario.start_stage(is_promoted=is_promoted)
        _link(client, stage, model, description, alias="candidate")
        yield stage


def _promote_by_hand(client: Client, scenario: Scenario) -> Iterator[Stage]:
    stage = scenario.start_stage(is_promoted=True)
    version = _link(client, stage, "first", "a model", alias="staging")
    now = SystemClock().now()
    moved = client.put(
        api_path("registries", "model", "collections", "fraud", "aliases", "production"), {"version": version["name"]}
    )
    stage.add_user_action(now, f"the alias `production` is moved to {version['reference']}", moved)
    yield stage


def _link(client: Client, stage: Stage, model: str, description: str, *, alias: str) -> Any:
    """Log a model of the examples, and link it to the registry with an alias."""
    metadata = json.loads((examples() / "evaluate" / "models" / f"{model}.json").read_text())
    now = SystemClock().now()
    artifact = client.post(
        api_path("projects", "fraud", "artifacts"),
        {
            "name": "logistic",
            "artifact_type": "model",
            "metadata": {**metadata, "trained": stage.started_at.isoformat()},
        },
    )
    stage.add_user_action(now, f"{description} is logged as {artifact['reference']}", artifact)
    now = SystemClock().now()
    version = client.post(
        api_path("registries", "model", "collections", "fraud", "versions"),
        {"artifact": artifact["reference"], "aliases": [alias]},
    )
    stage.version = version["reference"]
    stage.add_user_action(now, f"it is linked to the registry as {version['reference']}, alias {alias}", version)
    return version
