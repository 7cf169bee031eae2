"""
The scenario of `upshot demo`: three candidates are trained and linked, and each is promoted or rejected.

Everything is real except the receivers: `upshot up` with its own data directory, the sample automations, the training
script with the SDK, and the jobs. The receivers stand in for GitHub, Slack and webhooks, and run in this process.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from upshot.client.endpoint import Endpoint
from upshot.client.http import Client, api_path
from upshot.clock import SystemClock, stopwatch
from upshot.console import Output
from upshot.demo.jobs import plan_jobs
from upshot.demo.programs import lineage, train
from upshot.demo.report import report_lineage, report_requests, report_stage
from upshot.demo.scenario import Scenario, Stage, failures, observe
from upshot.demo.system import DemoSystem
from upshot.receivers import ReceiversThread

# The features of each candidate, and whether it should be promoted.
_CANDIDATES = (
    ("log_amount,abroad,attempts", True),
    ("log_amount,attempts", False),  # worse, because it does not know which transactions come from abroad
    ("log_amount,night,abroad,attempts,account_age", True),
)
_CANDIDATE = "candidate"  # the alias that the training script sets by default
_COLLECTION = api_path("registries", "model", "collections", "fraud")
# What the quantized version was made from, and what was made from the version in production.
_LINEAGES = (("model/fraud:quantized", "--up"), ("model/fraud:production", "--down"))


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
        stages = _train_candidates if plan.with_jobs else _promote_by_hand
        for stage in stages(client, scenario, system.endpoint):
            observe(client, stage)
            report_stage(output, scenario, stage)
        report_requests(output, scenario)
        for reference, direction in _LINEAGES if plan.with_jobs else _LINEAGES[1:]:
            report_lineage(output, reference, direction, lineage(system.endpoint, reference, direction))
        return failures(scenario)


def _train_candidates(client: Client, scenario: Scenario, endpoint: Endpoint) -> Iterator[Stage]:
    for features, is_promoted in _CANDIDATES:
        stage = scenario.start_stage(is_promoted=is_promoted)
        _train(client, stage, endpoint, features, _CANDIDATE)
        yield stage


def _promote_by_hand(client: Client, scenario: Scenario, endpoint: Endpoint) -> Iterator[Stage]:
    features, is_promoted = _CANDIDATES[0]
    stage = scenario.start_stage(is_promoted=is_promoted)
    version = _train(client, stage, endpoint, features, "staging")
    client.put(f"{_COLLECTION}{api_path('aliases', 'production')}", {"version": version["name"]})
    yield stage


def _train(client: Client, stage: Stage, endpoint: Endpoint, features: str, alias: str) -> Any:
    """Run the training script, which links a version with an alias. Return the version."""
    options = ["--features", features, *([] if alias == _CANDIDATE else ["--alias", alias])]
    stage.command = shlex.join(["python3", "examples/train/train.py", *options])
    stage.printed = train(endpoint, *options)
    version = client.get(f"{_COLLECTION}{api_path('versions', alias)}")
    stage.version = version["reference"]
    return version
