"""`upshot doctor`: check everything that an installation needs, and suggest remedies."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import click

from upshot import __version__
from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.actions.inputs import literal_url
from upshot.actions.protocol import Action
from upshot.adapters.redis_info import redis_info
from upshot.adapters.sql.clock import DatabaseClock
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.migrate import REVISIONS, stored_revision
from upshot.automations.files import printable_path
from upshot.automations.loader import load_folder
from upshot.automations.template import compile_leaf, template_leaves
from upshot.cli.connection import connect
from upshot.cli.settings import settings_with, with_running_endpoint
from upshot.clock import SystemClock, parse_time
from upshot.console import Output
from upshot.domain.automation import Automation
from upshot.errors import ConfigError, UpshotError
from upshot.private_files import is_private_directory
from upshot.schema.queues import JobsConfig
from upshot.settings import Settings, environment_warnings
from upshot.wiring.jobs_file import EVENTS_QUEUE, find_jobs_file, load_jobs_config
from upshot.wiring.parts import database_url, make_secrets

_MIN_REDIS = (6, 2)  # Celery's broker needs it, and so does XAUTOCLAIM
_MAX_QUEUED_JOBS = 1_000  # queued jobs that are checked
_MIN_FREE_BYTES = 1_000_000_000
_MAX_REDIS_SILENCE = timedelta(seconds=30)  # since a worker last got an answer from Redis
_MAX_CLOCK_SKEW = timedelta(seconds=2)  # between machines that share leases of half a minute


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    state: Literal["ok", "warn", "fail"]
    subject: str
    detail: str
    remedy: str | None = None


Check = Callable[[Settings], Iterator[CheckResult]]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data directory.")
@click.option("--automations", type=click.Path(path_type=Path, file_okay=False), help="Directory of automation files.")
def doctor(as_json: bool, data: Path | None, automations: Path | None) -> None:
    """
    Check the installation, and suggest remedies.

    Upshot may be running or not. The exit code is 1 if a check fails.
    """
    settings = with_running_endpoint(settings_with(data=data, automations=automations))
    results = [result for check in _CHECKS for result in _run(check, settings)]
    output = Output(as_json=as_json)
    if as_json:
        output.json([asdict(result) for result in results])
    else:
        for result in results:
            output.line(output.state(f"{result.state:<4}"), f"  {result.subject}: {result.detail}")
            if result.remedy:
                output.line(f"        {result.remedy}")
    sys.exit(1 if any(result.state == "fail" for result in results) else 0)


def _run(check: Check, settings: Settings) -> Iterator[CheckResult]:
    """Run a check. Report an exception as a failure, so that the other checks still run."""
    subject = check.__name__.removeprefix("_check_").replace("_", " ")
    try:
        yield from check(settings)
    except UpshotError as error:
        yield CheckResult("fail", subject, str(error))
    except Exception as error:  # noqa: BLE001 - a check that breaks has found a problem
        yield CheckResult("fail", subject, f"{type(error).__name__}: {error}")


def _check_program(_settings: Settings) -> Iterator[CheckResult]:
    versions = f"Upshot {__version__} on Python {platform.python_version()}, {platform.platform()}"
    yield CheckResult("ok", "program", versions)


def _check_settings(_settings: Settings) -> Iterator[CheckResult]:
    for warning in environment_warnings(os.environ):  # noqa: TID251 - settings are variables
        yield CheckResult("warn", "settings", warning)


def _check_data_directory(settings: Settings) -> Iterator[CheckResult]:
    subject, directory = "data directory", settings.data.absolute()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        yield CheckResult("fail", subject, f"{existing} is not writable", "choose another directory with UPSHOT_DATA")
        return
    if directory == existing and not is_private_directory(directory.resolve()):
        remedy = "if it is used for nothing else, run chmod 700 on it as its owner"
        yield CheckResult("warn", subject, f"other users can enter {directory}", remedy)
    free_bytes = shutil.disk_usage(existing).free
    detail = f"{directory}, {free_bytes / 1e9:.1f} GB free"
    if free_bytes < _MIN_FREE_BYTES:
        remedy = "free some disk space: Redis and the database stop when the disk is full"
        yield CheckResult("warn", subject, detail, remedy)
    else:
        yield CheckResult("ok", subject, detail)


def _check_database(settings: Settings) -> Iterator[CheckResult]:
    if settings.database_url is None and not settings.sqlite_path.exists():
        yield CheckResult("ok", "database", "SQLite; the first start creates it")
        return
    database = Database(database_url(settings))
    product, query = (
        ("SQLite", "select sqlite_version()") if database.is_sqlite else ("PostgreSQL", "show server_version")
    )
    try:
        version = database.read(lambda connection: connection.exec_driver_sql(query).scalar_one())
        yield CheckResult("ok", "database", f"{product} {version} answers")
        yield _check_schema(database)
        if not database.is_sqlite:
            yield _compare_clocks("database", DatabaseClock(database).now())
    finally:
        database.close()


def _check_schema(database: Database) -> CheckResult:
    try:
        revision = stored_revision(database)
    except ConfigError as error:
        return CheckResult("fail", "database schema", str(error))
    if revision is None:
        return CheckResult("ok", "database schema", "no tables yet; the first start creates them")
    if revision != REVISIONS[-1]:
        detail = f"revision {revision} is older than this release's {REVISIONS[-1]}; the next start upgrades it"
        return CheckResult("warn", "database schema", detail, "back up the database first, see docs/operations.md")
    return CheckResult("ok", "database schema", f"revision {revision} is that of this release")


def _check_redis(settings: Settings) -> Iterator[CheckResult]:
    if settings.redis_url is None:
        yield CheckResult("ok", "redis", "`upshot up` starts its own; set UPSHOT_REDIS_URL to use another")
        return
    info = redis_info(settings.redis_url)
    if info.version < _MIN_REDIS:
        yield CheckResult("fail", "redis", f"{info.name} is too old", "use Redis 6.2 or newer, or Valkey")
    else:
        yield CheckResult("ok", "redis", f"{info.name} answers")
    if not info.append_only:
        detail = "the append-only file is off; a restart empties Redis, which delays events but loses none"
        yield CheckResult("warn", "redis", detail, "set `appendonly yes` and `appendfsync everysec`")
    if info.eviction_policy not in {"noeviction", "unknown"}:
        detail = f"Redis evicts data when its memory is full (maxmemory-policy {info.eviction_policy})"
        yield CheckResult("warn", "redis", detail, "set `maxmemory-policy noeviction`")
    yield _compare_clocks("redis", info.time)


def _check_service(settings: Settings) -> Iterator[CheckResult]:
    try:
        client = connect(None if settings.url else settings.data)
    except ConfigError:
        detail = f"no Upshot runs on {settings.data}"
        yield CheckResult("warn", "service", detail, "start `upshot up`, or set UPSHOT_URL")
        return
    with client:
        workers = client.get("/workers")["items"]
        yield CheckResult("ok", "service", f"{client.url} answers")
        yield from _check_workers(workers)
        yield from _check_backends(workers)
        jobs = client.items("/jobs", state="queued", limit=_MAX_QUEUED_JOBS)
        yield from _check_queues(_jobs_config(settings).queues, jobs, workers)
        if client.server_time:
            yield _compare_clocks("service", client.server_time)


def _check_workers(workers: list[dict[str, Any]]) -> Iterator[CheckResult]:
    if not workers:
        remedy = "start `upshot worker`, or look at its log"
        yield CheckResult("fail", "worker", "no worker is alive; events are not answered", remedy)
    elif not any(EVENTS_QUEUE in worker["queues"] for worker in workers):
        remedy = f"start a worker without --queues, or include {EVENTS_QUEUE} in its --queues"
        yield CheckResult("fail", "worker", "all workers take only jobs; events are not answered", remedy)
    for worker in workers:
        if abs(worker["clock_skew_seconds"]) > _MAX_CLOCK_SKEW.total_seconds():
            ahead = f"{worker['clock_skew_seconds']:+.0f} s"
            detail = f"the clock of {worker['id']} on {worker['host']} differs from the database's by {ahead}"
            yield CheckResult("warn", "worker clock", detail, "run a time service on that machine")
        detail = (
            f"{worker['id']} on {worker['host']}, {worker['in_progress']} executions in progress, "
            f"{worker['automations']} automations, takes {', '.join(worker['queues'])}"
        )
        loaded = worker["automation_set"]
        if EVENTS_QUEUE in worker["queues"] and loaded is not None and not loaded["matches"]:
            yield CheckResult(
                "fail",
                "worker automations",
                f"{worker['id']} on {worker['host']} answers no events, because other automations are in force than it "
                f"has loaded: {loaded['difference']}",
                "give all workers the same automation files; `upshot validate` there lists mistakes in them",
            )
        redis_answered_at = parse_time(worker["stream_read_at"] or worker["started_at"])
        if EVENTS_QUEUE in worker["queues"] and SystemClock().now() - redis_answered_at > _MAX_REDIS_SILENCE:
            remedy = "check Redis, and look at the worker's log"
            yield CheckResult("warn", "worker", f"{detail}; it gets no answer from Redis", remedy)
        else:
            yield CheckResult("ok", "worker", detail)


def _check_backends(workers: list[dict[str, Any]]) -> Iterator[CheckResult]:
    machines: dict[str, set[str]] = {}
    for worker in workers:
        for backend in worker["engines"]:
            machines.setdefault(backend, set()).add(worker["machine"])
    for backend, reached_from in sorted(machines.items()):
        yield CheckResult("ok", "backend", f"{backend} is reachable from {', '.join(sorted(reached_from))}")
    if not machines:
        yield CheckResult("ok", "backend", "no worker can reach an engine that runs jobs")


def _check_queues(
    declared_queues: Iterable[str], jobs: list[dict[str, Any]], workers: list[dict[str, Any]]
) -> Iterator[CheckResult]:
    """Report queues that no worker takes, and queued jobs that no worker can start."""
    waiting = Counter((job["queue"], job["backend"]) for job in jobs)
    taken = {queue for worker in workers for queue in worker["queues"]}
    untaken = set(declared_queues) - taken - {queue for queue, _ in waiting}
    for queue in sorted(untaken) if workers else ():
        yield CheckResult("warn", f"queue {queue}", "no worker takes it", _start_worker_for(queue))
    for (queue, backend), count in sorted(waiting.items()):
        jobs_wait = "1 job waits" if count == 1 else f"{count} jobs wait"
        workers_of_queue = [worker for worker in workers if queue in worker["queues"]]
        if not workers_of_queue:
            detail = f"{jobs_wait} in it, but no worker takes it"
            yield CheckResult("fail", f"queue {queue}", detail, _start_worker_for(queue))
        elif not any(backend in worker["engines"] for worker in workers_of_queue):
            detail = f"{jobs_wait} in it for backend {backend}, but none of its workers can reach that backend"
            yield CheckResult("fail", f"queue {queue}", detail, "check the engine, and look at the worker's log")


def _start_worker_for(queue: str) -> str:
    return f"start `upshot worker --queues {queue}` on a machine that can run its jobs"


def _compare_clocks(subject: str, time: datetime) -> CheckResult:
    skew = abs(SystemClock().now() - time)
    if skew <= _MAX_CLOCK_SKEW:
        return CheckResult("ok", f"{subject} clock", "agrees with this machine's clock")
    return CheckResult(
        "fail",
        f"{subject} clock",
        f"differs from this machine's clock by {skew.total_seconds():.0f} s",
        "run a time service (chrony, systemd-timesyncd) on every machine: leases and signatures depend on it",
    )


def _jobs_config(settings: Settings) -> JobsConfig:
    path = find_jobs_file(settings)
    return load_jobs_config(path)[0] if path else JobsConfig()  # `_check_jobs_file` reports its errors


def _check_jobs_file(settings: Settings) -> Iterator[CheckResult]:
    path = find_jobs_file(settings)
    if path is None:
        yield CheckResult("ok", "jobs file", "none; jobs have one queue, `default`, on Docker")
        return
    config, errors = load_jobs_config(path)
    if not errors:
        backends = ", ".join(f"{name} ({backend.uses})" for name, backend in config.backends.items())
        yield CheckResult("ok", "jobs file", f"{path}: queues {', '.join(config.queues)}; backends {backends}")
    for error in errors:
        yield CheckResult("fail", "jobs file", str(error))


def _check_automations(settings: Settings) -> Iterator[CheckResult]:
    if not settings.automations.is_dir():
        remedy = "run `upshot init` to get a first automation, or name another directory with --automations"
        yield CheckResult("warn", "automations", f"{printable_path(settings.automations)} does not exist", remedy)
        return
    rules = EgressRules.parse(settings.egress_allow)
    catalog = load_catalog(_jobs_config(settings))
    loaded = load_folder(settings.automations, catalog)
    yield CheckResult(
        "ok", "automations", f"{len(loaded.automations)} are valid in {printable_path(settings.automations)}"
    )
    for error in loaded.errors:
        yield CheckResult("fail", "automations", str(error))
    yield from _check_urls(settings, loaded.automations, catalog, rules)
    users = _users_of_secrets(loaded.automations), _users_of_secrets(loaded.automations, only_jobs=True)
    workers = _workers_with_secrets(settings)
    if workers:
        yield from _check_secrets_of_workers(users, workers)
    else:
        yield from _check_secrets_here(users[0], settings, rules)


def _workers_with_secrets(settings: Settings) -> list[dict[str, Any]]:
    """Return the live workers that report their secrets, if an Upshot answers."""
    try:
        with connect(None if settings.url else settings.data) as client:
            workers = client.get("/workers")["items"]
    except (UpshotError, KeyError):  # `_check_service` reports it
        return []
    return [worker for worker in workers if worker.get("secrets") is not None]


def _check_secrets_of_workers(
    users: tuple[dict[str, list[str]], dict[str, list[str]]], workers: list[dict[str, Any]]
) -> Iterator[CheckResult]:
    """
    Report each secret that a worker lacks. A worker that answers events needs the secrets of all automations. Another
    worker needs those of jobs.
    """
    is_complete = True
    for worker in workers:
        of_worker = users[0] if EVENTS_QUEUE in worker["queues"] else users[1]
        for name, automations in sorted(of_worker.items()):
            if name not in worker["secrets"]:
                is_complete = False
                noun = "automation" if len(automations) == 1 else "automations"
                detail = f"{name} is missing on worker {worker['id']} on {worker['host']}; needed by the {noun} "
                detail += ", ".join(automations)
                remedy = (
                    f"set UPSHOT_SECRET_{name} in its environment and restart it, or write the file {name} into its "
                    "UPSHOT_SECRETS_DIR, or into `secrets` in its data directory"
                )
                yield CheckResult("fail", "secrets", detail, remedy)
    if is_complete and users[0]:
        yield CheckResult("ok", "secrets", f"every worker has the secrets that it needs: {', '.join(sorted(users[0]))}")


def _check_secrets_here(users: dict[str, list[str]], settings: Settings, rules: EgressRules) -> Iterator[CheckResult]:
    """Report each secret that a worker with this environment would lack. No running worker reports its secrets."""
    secrets = make_secrets(settings)
    for name, automations in sorted(users.items()):
        try:
            value = secrets.get(name)
        except ConfigError as error:
            yield CheckResult("fail", "secrets", f"{name}: {error}")
            continue
        if value is None:
            detail = f"{name} is not set; {', '.join(automations)} would fail without it"
            remedy = f"set UPSHOT_SECRET_{name}, or write it to {settings.data}/secrets/{name}"
            yield CheckResult("fail", "secrets", detail, remedy)
        elif value.startswith(("http://", "https://")) and (blocked := rules.check_url(value)):
            yield CheckResult("fail", "secrets", f"the URL in {name}: {blocked}")


def _check_urls(
    settings: Settings, automations: Iterable[Automation], catalog: Mapping[str, Action], rules: EgressRules
) -> Iterator[CheckResult]:
    """Report the URLs in automation files that the settings of this machine do not allow."""
    for automation in automations:
        for step in (*automation.steps, *automation.on_failure):
            for key in getattr(catalog[step.uses], "url_keys", ()):
                if (url := literal_url(step.with_, key)) and (blocked := rules.check_url(url)):
                    place = f"{printable_path(settings.automations / automation.path)}:{step.lines.get(key, step.line)}"
                    yield CheckResult("fail", "egress", f"{place}: with.{key}: {blocked}")


def _users_of_secrets(automations: Iterable[Automation], *, only_jobs: bool = False) -> dict[str, list[str]]:
    """Return the names of the automations that use each secret, by secret. `only_jobs` counts only uses in jobs."""
    users: dict[str, list[str]] = {}
    for automation in automations:
        paths = [
            reference.parts
            for step in (*automation.steps, *automation.on_failure)
            if step.uses == "launch" or not only_jobs
            for leaf, text, is_expression in template_leaves(step.with_)
            if not is_expression
            for reference in compile_leaf(text, path=automation.path, line=None, leaf=leaf).paths
        ]
        for secret in {path[1] for path in paths if len(path) > 1 and path[0] == "secrets"}:
            users.setdefault(secret, []).append(automation.name)
    return users


_CHECKS: tuple[Check, ...] = (
    _check_program,
    _check_settings,
    _check_data_directory,
    _check_database,
    _check_redis,
    _check_service,
    _check_jobs_file,
    _check_automations,
)
