"""Build the web process."""

from __future__ import annotations

from functools import partial

from upshot.actions.catalog import load_catalog
from upshot.adapters.redis import RedisPublisher, ping
from upshot.adapters.sql.access import SqlSessions, SqlTokens
from upshot.adapters.sql.automation_sets import SqlAutomationSets
from upshot.adapters.sql.clock import DatabaseClock
from upshot.adapters.sql.counters import SqlCounters
from upshot.adapters.sql.deliveries import SqlDeliveries
from upshot.adapters.sql.destinations import SqlDestinations
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.idempotency import SqlIdempotency
from upshot.adapters.sql.installation import SqlInstallation
from upshot.adapters.sql.job_admin import SqlJobAdmin
from upshot.adapters.sql.revisions import SqlRevisions
from upshot.adapters.sql.workers import SqlBacklog, SqlWorkers
from upshot.automations.folder import AutomationFolder
from upshot.settings import Settings
from upshot.web.dependencies import WebDependencies
from upshot.wiring.jobs_file import read_jobs_config
from upshot.wiring.parts import base_url, load_installation, make_blobs, make_registry, open_database, redis_url


def build_web(settings: Settings) -> WebDependencies:
    """
    Build the objects of the web process.

    Raises:
        ConfigError: The settings or the operator's jobs file are invalid, or the database's schema is newer.
        Unavailable: The database does not answer.
    """
    url = redis_url(settings)
    jobs_config = read_jobs_config(settings)
    database = open_database(settings)
    clock = DatabaseClock(database)
    catalog = load_catalog(jobs_config)
    revisions = SqlRevisions(database)
    installation = load_installation(SqlInstallation(database), clock)
    return WebDependencies(
        settings=settings,
        clock=clock,
        base_url=base_url(settings),
        registry=make_registry(settings, database, RedisPublisher(url, installation.id), clock),
        blobs=make_blobs(settings, database, clock),
        events=SqlEvents(database),
        executions=SqlExecutions(database),
        jobs=SqlJobAdmin(database),
        jobs_config=jobs_config,
        installation=installation,
        notifier=None,  # the workers' sweepers find a retried or cancelled execution within a second
        automations=AutomationFolder(settings.automations, catalog, revisions),
        revisions=revisions,
        automation_sets=SqlAutomationSets(database),
        backlog=SqlBacklog(database),
        counters=SqlCounters(database),
        deliveries=SqlDeliveries(database),
        workers=SqlWorkers(database),
        destinations=SqlDestinations(database),
        idempotency=SqlIdempotency(database),
        tokens=SqlTokens(database),
        sessions=SqlSessions(database),
        ping_database=database.ping,
        ping_redis=partial(ping, url),
        synchronize_clock=clock.synchronize,
        clock_skew_seconds=lambda: clock.skew_seconds,
    )
