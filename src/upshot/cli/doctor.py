"""`upshot doctor`: looks at everything that an installation needs, and says what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from upshot import __version__
from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.adapters.redis_info import survey_redis
from upshot.adapters.sql.database import Database
from upshot.automations.loader import load_folder
from upshot.automations.template import compile_leaf, template_leaves
from upshot.cli.api_commands import connect
from upshot.cli.settings import joined, settings_with
from upshot.client.output import Output
from upshot.clock import SystemClock, parse_time
from upshot.domain.automation import Automation
from upshot.errors import ConfigError, UpshotError
from upshot.schema.queues import JobsConfig
from upshot.settings import Settings
from upshot.wiring.jobs_file import EVENTS, jobs_file_of, load_queue_book
from upshot.wiring.parts import database_url, make_secrets

_OLDEST_REDIS = (6, 2)  # Celery's broker needs it, and so does XAUTOCLAIM
_MANY_JOBS = 1_000  # queued ones that are looked at
_FREE_BYTES = 1_000_000_000
_SILENCE = timedelta(seconds=30)  # of Redis, as a worker has it
_SKEW = timedelta(seconds=2)  # between machines that share leases of half a minute


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at."""

    state: str  #: ok, warn or fail
    subject: str
    detail: str
    remedy: str | None = None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder.")
@click.option("--automations", type=click.Path(path_type=Path, file_okay=False), help="Folder of automation files.")
def doctor(as_json: bool, data: Path | None, automations: Path | None) -> None:
    """
    Check the installation, with a remedy for what is wrong.

    Works beside a running Upshot and without one. Exits 1 if something must be put right.
    """
    settings = joined(settings_with(data=data, automations=automations))
    findings = [finding for check in _CHECKS for finding in _safely(check, settings)]
    output = Output(as_json=as_json)
    if as_json:
        output.data([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            output.line(output.state(f"{finding.state:<4}"), f"  {finding.subject}: {finding.detail}")
            if finding.remedy:
                output.line(f"        {finding.remedy}")
    sys.exit(1 if any(finding.state == "fail" for finding in findings) else 0)


Check = Callable[[Settings], Iterator[CheckResult]]


def _safely(check: Check, settings: Settings) -> Iterator[CheckResult]:
    try:
        yield from check(settings)
    except UpshotError as error:
        yield CheckResult("fail", _subject(check), str(error))
    except Exception as error:  # noqa: BLE001 - however a check breaks, it has found something, and the others go on
        yield CheckResult("fail", _subject(check), f"{type(error).__name__}: {error}")


def _subject(check: Check) -> str:
    return check.__name__.strip("_").replace("_", " ")


def _program(_settings: Settings) -> Iterator[CheckResult]:
    yield CheckResult(
        "ok", "program", f"Upshot {__version__} on Python {platform.python_version()}, {platform.platform()}"
    )


def _data_folder(settings: Settings) -> Iterator[CheckResult]:
    folder = settings.data.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        yield CheckResult("fail", "data folder", f"{existing} cannot be written to", "choose another with UPSHOT_DATA")
        return
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {free / 1e9:.1f} GB free"
    if free < _FREE_BYTES:
        yield CheckResult("warn", "data folder", detail, "make room: Redis and the database stop when the disk is full")
    else:
        yield CheckResult("ok", "data folder", detail)


def _database(settings: Settings) -> Iterator[CheckResult]:
    if settings.database_url is None and not settings.sqlite_path.exists():
        yield CheckResult("ok", "database", "SQLite; the first start makes it")
        return
    database = Database(database_url(settings))
    try:
        question = "select sqlite_version()" if database.is_sqlite else "show server_version"
        version = database.read(lambda connection: connection.exec_driver_sql(question).scalar_one())
        yield CheckResult("ok", "database", f"{'SQLite' if database.is_sqlite else 'PostgreSQL'} {version} answers")
    finally:
        database.close()


def _redis(settings: Settings) -> Iterator[CheckResult]:
    if settings.redis_url is None:
        yield CheckResult("ok", "redis", "`upshot up` brings its own; UPSHOT_REDIS_URL names another")
        return
    facts = survey_redis(settings.redis_url)
    if facts.version < _OLDEST_REDIS:
        yield CheckResult("fail", "redis", f"{facts.name} is too old", "use Redis 6.2 or newer, or Valkey")
    else:
        yield CheckResult("ok", "redis", f"{facts.name} answers")
    if not facts.keeps_on_disk:
        yield CheckResult(
            *("warn", "redis", "its append-only file is off; a restart empties it, which delays and loses nothing"),
            "set `appendonly yes` and `appendfsync everysec`",
        )
    if facts.eviction not in {"noeviction", "unknown"}:
        yield CheckResult(
            *("warn", "redis", f"it throws data away when its memory is full (maxmemory-policy {facts.eviction})"),
            "set `maxmemory-policy noeviction`",
        )
    yield _clock_finding("redis", facts.time)


def _service(settings: Settings) -> Iterator[CheckResult]:
    try:
        client = connect(None if settings.url else settings.data)
    except ConfigError:
        yield CheckResult("warn", "service", f"nothing runs on {settings.data}", "start `upshot up`, or set UPSHOT_URL")
        return
    with client:
        workers = client.get("/workers")["items"]
        yield CheckResult("ok", "service", f"{client.url} answers")
        yield from _workers(workers)
        yield from _engines(workers)
        queued = client.items("/jobs", state="queued", limit=_MANY_JOBS)
        yield from _queues(_book(settings).queues, queued, workers)
        if client.server_time:
            yield _clock_finding("service", client.server_time)


def _workers(workers: list[dict[str, Any]]) -> Iterator[CheckResult]:
    if not workers:
        yield CheckResult(
            "fail", "worker", "none was seen lately; events wait", "start `upshot worker`, or look at its log"
        )
    elif not any(EVENTS in one["queues"] for one in workers):
        yield CheckResult(
            *("fail", "worker", "all that are alive take jobs alone; events wait"),
            f"start one without --queues, or with {EVENTS} among them",
        )
    for one in workers:
        detail = f"{one['id']} on {one['host']}, holds {one['in_hand']}, {one['automations']} automations"
        detail += f"; takes {', '.join(one['queues'])}"
        heard = parse_time(one["stream_read_at"] or one["started_at"])
        if EVENTS in one["queues"] and SystemClock().now() - heard > _SILENCE:
            yield CheckResult(
                "warn", "worker", f"{detail}; Redis does not answer it", "look at Redis and the worker's log"
            )
        else:
            yield CheckResult("ok", "worker", detail)


def _engines(workers: list[dict[str, Any]]) -> Iterator[CheckResult]:
    machines: dict[str, set[str]] = {}
    for worker in workers:
        for backend in worker["engines"]:
            machines.setdefault(backend, set()).add(worker["machine"])
    for backend, reached_from in sorted(machines.items()):
        yield CheckResult("ok", "backend", f"{backend} is reached from {', '.join(sorted(reached_from))}")
    if not machines:
        yield CheckResult("ok", "backend", "no worker reaches an engine that runs jobs")


def _queues(
    declared: Iterable[str], jobs: list[dict[str, Any]], workers: list[dict[str, Any]]
) -> Iterator[CheckResult]:
    """Queues that nobody takes, and jobs that nobody will take as things stand."""
    waiting = Counter((job["queue"], job["backend"]) for job in jobs)
    taken = {queue for worker in workers for queue in worker["queues"]}
    idle = set(declared) - taken - {queue for queue, _ in waiting}
    for queue in sorted(idle) if workers else ():
        yield CheckResult("warn", f"queue {queue}", "no worker takes it", _take(queue))
    for (queue, backend), count in sorted(waiting.items()):
        wait = f"{'1 job waits' if count == 1 else f'{count} jobs wait'} in it"
        takers = [worker for worker in workers if queue in worker["queues"]]
        if not takers:
            yield CheckResult("fail", f"queue {queue}", f"no worker takes it, and {wait}", _take(queue))
        elif not any(backend in worker["engines"] for worker in takers):
            detail = f"no worker that takes it reaches backend {backend}, and {wait}"
            yield CheckResult("fail", f"queue {queue}", detail, "look at that engine, or at the worker's log")


def _take(queue: str) -> str:
    return f"start `upshot worker --queues {queue}` where its jobs can run"


def _clock_finding(subject: str, their_time: datetime) -> CheckResult:
    skew = SystemClock().now() - their_time
    if abs(skew) <= _SKEW:
        return CheckResult("ok", f"{subject} clock", "agrees with this machine's")
    return CheckResult(
        *("fail", f"{subject} clock", f"differs from this machine's by {abs(skew).total_seconds():.0f} s"),
        "run a time service (chrony, systemd-timesyncd) on every machine: leases and signatures count on it",
    )


def _book(settings: Settings) -> JobsConfig:
    """The operator's rules; what is wrong with their file is found on its own."""
    path = jobs_file_of(settings)
    return load_queue_book(path)[0] if path else JobsConfig()


def _jobs_file(settings: Settings) -> Iterator[CheckResult]:
    path = jobs_file_of(settings)
    if path is None:
        yield CheckResult("ok", "jobs file", "none; jobs have one queue, `default`, on Docker")
        return
    book, errors = load_queue_book(path)
    if not errors:
        engines = ", ".join(f"{name} ({settings.uses})" for name, settings in book.backends.items())
        yield CheckResult("ok", "jobs file", f"{path}: queues {', '.join(book.queues)}; backends {engines}")
    for error in errors:
        yield CheckResult("fail", "jobs file", str(error))


def _automations(settings: Settings) -> Iterator[CheckResult]:
    if not settings.automations.is_dir():
        yield CheckResult(
            "warn", "automations", f"{settings.automations} is not there", "name their folder: --automations"
        )
        return
    rules = EgressRules.parse(settings.egress_allow)
    loaded = load_folder(settings.automations, load_catalog(rules, _book(settings)))
    yield CheckResult("ok", "automations", f"{len(loaded.automations)} are sound in {settings.automations}")
    for error in loaded.errors:
        yield CheckResult("fail", "automations", str(error))
    secrets = make_secrets(settings)
    for name, users in sorted(_secrets_named(loaded.automations).items()):
        value = secrets.get(name)
        if value is None:
            yield CheckResult(
                *("fail", "secrets", f"{name} is not set, and {', '.join(users)} would fail without it"),
                f"set UPSHOT_SECRET_{name}, or put a file {name} into UPSHOT_SECRETS_DIR",
            )
        elif value.startswith(("http://", "https://")) and (blocked := rules.check_url(value)):
            yield CheckResult("fail", "secrets", f"the URL in {name}: {blocked}")


def _secrets_named(automations: tuple[Automation, ...]) -> dict[str, list[str]]:
    """Names of the automations that use each secret."""
    found: dict[str, list[str]] = {}
    for automation in automations:
        for name in _secrets_of(automation):
            found.setdefault(name, []).append(automation.name)
    return found


def _secrets_of(automation: Automation) -> set[str]:
    leaves = [
        compile_leaf(text, path=automation.path, line=None, leaf=leaf)
        for step in (*automation.steps, *automation.on_failure)
        for leaf, text, is_expression in template_leaves(step.with_)
        if not is_expression
    ]
    paths = [used.parts for compiled in leaves for used in compiled.paths]
    return {parts[1] for parts in paths if len(parts) > 1 and parts[0] == "secrets"}


_CHECKS: tuple[Check, ...] = (_program, _data_folder, _database, _redis, _service, _jobs_file, _automations)
