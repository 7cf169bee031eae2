"""The web process."""

from __future__ import annotations

from functools import partial

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.adapters.redis import RedisPublisher, redis_answers
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.idempotency import SqlIdempotency
from upshot.adapters.sql.installation import SqlInstallation
from upshot.adapters.sql.job_admin import SqlJobAdmin
from upshot.adapters.sql.workers import SqlBacklog, SqlWorkers
from upshot.automations.folder import AutomationFolder
from upshot.clock import SystemClock
from upshot.settings import Settings
from upshot.web.dependencies import WebDependencies
from upshot.wiring.jobs_file import read_queue_book
from upshot.wiring.parts import find_installation, make_registry, open_database, redis_url


def build_web(settings: Settings) -> WebDependencies:
    """Everything that the web process is made of; raises as `open_database`, `redis_url`, `read_queue_book` do."""
    url = redis_url(settings)
    book = read_queue_book(settings)
    database = open_database(settings)
    clock = SystemClock()
    return WebDependencies(
        settings=settings,
        clock=clock,
        registry=make_registry(settings, database, RedisPublisher(url), clock),
        events=SqlEvents(database),
        executions=SqlExecutions(database),
        jobs=SqlJobAdmin(database),
        book=book,
        installation=find_installation(SqlInstallation(database), clock),
        doorbell=None,  # what a person sets going, the workers' sweepers find within a second
        automations=AutomationFolder(
            settings.automations, load_catalog(EgressRules.parse(settings.egress_allow), book)
        ),
        backlog=SqlBacklog(database),
        workers=SqlWorkers(database),
        idempotency=SqlIdempotency(database),
        database_answers=database.answers,
        redis_answers=partial(redis_answers, url),
    )
