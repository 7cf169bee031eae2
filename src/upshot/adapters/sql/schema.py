"""
All tables. Migrations create them; a test compares the tables that the migrations create with this module.

Times are integers: microseconds since 1970 in UTC. JSON is text.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from upshot.ports.deliveries import BUCKETS_SECONDS

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UtcTimestamp(TypeDecorator[datetime]):
    """A time in UTC as integer microseconds, which sorts in the same way on every database."""

    impl = sa.BigInteger
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    @override
    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + value * _MICROSECOND


class Json(TypeDecorator[Any]):
    """JSON as text."""

    impl = sa.Text
    cache_ok = True

    @override
    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else orjson.dumps(value, option=orjson.OPT_UTC_Z).decode()

    @override
    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else orjson.loads(value)


def _sorted_text(chars: int) -> sa.String:
    """Return a type for text that is sorted or found by prefix. It sorts by code point on every database."""
    return sa.String(chars).with_variant(sa.String(chars, collation="C"), "postgresql")


_Name = _sorted_text(128)


def _partial_index(name: str, columns: Sequence[sa.Column[Any]], condition: sa.ColumnElement[bool]) -> None:
    sa.Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


# --- events and executions ------------------------------------------------------------------------

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("name", sa.String(128)),
    sa.Column("subject", _sorted_text(300), nullable=False),
    sa.Column("time", UtcTimestamp, nullable=False),
    sa.Column("mutation_id", sa.String(40), nullable=False),
    sa.Column("document", Json, nullable=False),  # `upshot.resources.event.EventJson`
    sa.Column("published_at", UtcTimestamp, nullable=False),  # time of the last attempt to publish
    sa.Column("matched_at", UtcTimestamp),
    sa.Column("subject_base", _sorted_text(300)),  # the subject up to its first `:`
    sa.Column("alias", sa.String(128)),  # of an event of an alias
    sa.Index("ix_events_kind_id", "kind", "id"),
    sa.Index("ix_events_subject_id", "subject", "id"),
    sa.Index("ix_events_subject_base_id", "subject_base", "id"),
    sa.Index("ix_events_mutation_id", "mutation_id"),
)
_partial_index("ix_events_unmatched", (events.c.published_at,), events.c.matched_at.is_(None))

_partial_index("ix_events_name_id", (events.c.name, events.c.id), events.c.name.is_not(None))
_partial_index("ix_events_alias_id", (events.c.subject_base, events.c.alias, events.c.id), events.c.alias.is_not(None))


def has_id_part(column: sa.Column[Any], part: str) -> sa.ColumnElement[bool]:
    """Return the condition that an id begins or ends with a text."""
    return sa.or_(column.startswith(part, autoescape=True), column.endswith(part, autoescape=True))


executions = sa.Table(
    "executions",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("automation", sa.String(128), nullable=False),
    sa.Column("revision_id", sa.String(16), nullable=False),
    sa.Column("event_id", sa.String(40), sa.ForeignKey("events.id"), nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("due_at", UtcTimestamp),
    sa.Column("waits_for", _sorted_text(400)),  # the destination or `automation:NAME` that has no room
    sa.Column("created_at", UtcTimestamp, nullable=False),
    sa.Column("finished_at", UtcTimestamp),
    sa.Column("lease_owner_id", sa.String(80)),
    sa.Column("lease_until", UtcTimestamp),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("notified_at", UtcTimestamp),  # last notification since the execution became due
    sa.Column("steps", Json, nullable=False),
    sa.Column("alias_reference", sa.String(400)),
    sa.Index("ix_executions_event_id", "event_id"),
    sa.Index("ix_executions_automation_id", "automation", "id"),
)
#: Literals and not parameters, because neither database uses a partial index for a condition with a parameter.
is_waiting: sa.ColumnElement[bool] = executions.c.state == sa.literal_column("'waiting'")
is_running: sa.ColumnElement[bool] = executions.c.state == sa.literal_column("'running'")
is_final: sa.ColumnElement[bool] = executions.c.state.not_in(
    [sa.literal_column("'waiting'"), sa.literal_column("'running'")]
)
# An index of all states would be chosen by SQLite instead of the two after these, which the sweeper needs.
_partial_index("ix_executions_final", (executions.c.state, executions.c.id), is_final)
_partial_index("ix_executions_waiting", (executions.c.id,), is_waiting)
_partial_index("ix_executions_running", (executions.c.id,), is_running)
_partial_index("ix_executions_due", (executions.c.due_at,), is_waiting)
_partial_index("ix_executions_leased", (executions.c.lease_until,), is_running)

sa.Index(
    "ix_executions_waits_for",
    executions.c.waits_for,
    executions.c.event_id,
    executions.c.id,
    sqlite_where=executions.c.waits_for.is_not(None),
    postgresql_where=executions.c.waits_for.is_not(None),
)
sa.Index(
    "ix_executions_alias",
    executions.c.alias_reference,
    executions.c.automation,
    executions.c.event_id,
    sqlite_where=executions.c.alias_reference.is_not(None),
    postgresql_where=executions.c.alias_reference.is_not(None),
)

# Rows exist only for events that led to other events, and for those that exceeded a budget.
root_events = sa.Table(
    "root_events",
    metadata,
    sa.Column("event_id", sa.String(40), sa.ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("executions", sa.Integer, nullable=False),  # that the event led to, directly and through other events
    sa.Column("events", sa.Integer, nullable=False),  # that automations and jobs added because of the event
    sa.Column("warning", sa.Text),
)

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("execution_id", sa.String(40), primary_key=True),
    sa.Column("step_id", sa.String(128), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("started_at", UtcTimestamp, nullable=False),
    sa.Column("details", Json, nullable=False),  # all other fields of Receipt
)

revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("revision_id", sa.String(16), primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("source", Json, nullable=False),
    sa.Column("body_files", Json, nullable=False),
    sa.Column("saved_at", UtcTimestamp, nullable=False),
)

active_automations = sa.Table(  # the automations that answer events
    "active_automations",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("revision_id", sa.String(16), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("watches", Json),  # metrics of runs that it watches; null if there are none
)

file_faults = sa.Table(  # automation files that have or had errors
    "file_faults",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("line", sa.Integer),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("error_count", sa.Integer, nullable=False),
    sa.Column("kept", Json, nullable=False),  # names of automations whose last sound revision was in force
    sa.Column("since", UtcTimestamp, nullable=False),
    sa.Column("until", UtcTimestamp),  # null: the file still has the errors
    sa.Index("ix_file_faults_until", "until"),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", UtcTimestamp, nullable=False),
    sa.Column("seen_at", UtcTimestamp, nullable=False),
    sa.Column("in_progress", sa.Integer, nullable=False),
    sa.Column("stream_read_at", UtcTimestamp),
    sa.Column("automations", sa.Integer, nullable=False),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("queues", Json, nullable=False),
    sa.Column("engines", Json, nullable=False),
    sa.Column("clock_skew_seconds", sa.Double, nullable=False, server_default="0"),
    sa.Column("secrets", Json),  # names of the worker's secrets
)

automation_sets = sa.Table(  # sets that have a number
    "automation_sets",
    metadata,
    sa.Column("digest", sa.String(16), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("content", Json, nullable=False),  # by automation: its revision id, and whether it is enabled
    sa.UniqueConstraint("number", name="uq_automation_sets_number"),
)

automation_set_holdings = sa.Table(  # the set that each worker has loaded
    "automation_set_holdings",
    metadata,
    sa.Column("worker_id", sa.String(80), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("digest", sa.String(16), nullable=False),
    sa.Column("quality", sa.String(12), nullable=False),
    sa.Column("held_at", UtcTimestamp, nullable=False),
    sa.Column("matches", sa.Boolean, nullable=False),
    sa.Column("difference", sa.Text),
    sa.Column("has_ended", sa.Boolean, nullable=False),
)

destinations = sa.Table(  # what each worker knows of them
    "destinations",
    metadata,
    sa.Column("name", _sorted_text(300), primary_key=True),
    sa.Column("worker_id", sa.String(80), primary_key=True),
    sa.Column("is_down", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("in_progress", sa.Integer, nullable=False),
    sa.Column("limit", sa.Integer, nullable=False),
    sa.Column("probe_at", UtcTimestamp),
    sa.Column("released_at", UtcTimestamp),  # when a user asked the worker to consider it up
    sa.Column("seen_at", UtcTimestamp, nullable=False),
)

# --- jobs -----------------------------------------------------------------------------------------

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", _sorted_text(40), primary_key=True),
    sa.Column("execution_id", sa.String(40), sa.ForeignKey("executions.id"), nullable=False),
    sa.Column("automation", sa.String(128), nullable=False),
    sa.Column("step_id", sa.String(128), nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),  # the negated priority: the lowest starts first
    sa.Column("concurrency", sa.Integer),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("failure", sa.String(20)),
    sa.Column("reason", sa.Text),
    sa.Column("created_at", UtcTimestamp, nullable=False),
    sa.Column("due_at", UtcTimestamp),
    sa.Column("finished_at", UtcTimestamp),
    sa.Column("machine", sa.Text),
    sa.Column("engine_id", sa.Text),
    sa.Column("lease_owner_id", sa.String(80)),
    sa.Column("lease_until", UtcTimestamp),
    sa.Column("seen_at", UtcTimestamp),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("stop_requested_at", UtcTimestamp),
    sa.Column("stop_requested_by", sa.Text),
    sa.Column("log_number", sa.Integer, nullable=False),  # of the last chunk; never decreases
    sa.Column("log_bytes", sa.BigInteger, nullable=False),  # of all stored chunks
    sa.Column("log_position", sa.Text),
    sa.Column("details", Json, nullable=False),  # other fields of Job; lists do not read the two columns after this one
    sa.Column("outputs", Json),
    sa.Column("log_tail", sa.Text, nullable=False),
    sa.Index("ix_jobs_execution_id", "execution_id"),
    sa.Index("ix_jobs_automation_id", "automation", "id"),
    sa.Index("ix_jobs_queue_id", "queue", "id"),
    sa.Index("ix_jobs_state_id", "state", "id"),
)
is_queued = jobs.c.state == sa.literal_column("'queued'")
is_active = jobs.c.state.in_([sa.literal_column(f"'{state}'") for state in ("starting", "running", "stopping")])
is_leased = jobs.c.lease_until.is_not(None)  # true for active jobs, and only for them
is_finished = jobs.c.finished_at.is_not(None)
is_to_be_stopped = sa.and_(jobs.c.stop_requested_at.is_not(None), jobs.c.finished_at.is_(None))
_partial_index("ix_jobs_queued", (jobs.c.queue, jobs.c.backend, jobs.c.rank, jobs.c.id), is_queued)
_partial_index("ix_jobs_leased", (jobs.c.lease_until,), is_leased)
_partial_index("ix_jobs_finished", (jobs.c.finished_at,), is_finished)
_partial_index("ix_jobs_to_be_stopped", (jobs.c.id,), is_to_be_stopped)

job_logs = sa.Table(
    "job_logs",
    metadata,
    sa.Column("job_id", _sorted_text(40), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("time", UtcTimestamp, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("action", sa.String(64), primary_key=True),
    sa.Column("destination", sa.String(300), primary_key=True),
    sa.Column("result", sa.String(16), primary_key=True),
    sa.Column("attempts", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    *(sa.Column(f"bucket_{index}", sa.BigInteger, nullable=False) for index in range(len(BUCKETS_SECONDS))),
)

installation = sa.Table(
    "installation",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # always 1, because there is one row
    sa.Column("id", sa.String(40), nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
)

# --- idempotency keys -----------------------------------------------------------------------------

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("key", sa.String(200), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("first_at", UtcTimestamp, nullable=False),
    sa.Column("reserved_at", UtcTimestamp, nullable=False),
    sa.Column("call_id", sa.String(40)),
    sa.Column("status", sa.Integer),  # of the response; null while there is none
    sa.Column("headers", Json),
    sa.Column("body", sa.LargeBinary),
    sa.Index("ix_idempotency_keys_first_at", "first_at"),
)

# --- registry -------------------------------------------------------------------------------------

# Events and history contain names, and a name can change. So every other reference between rows is an id.
_Id = sa.String(40)

registries = sa.Table(
    "registries",
    metadata,
    sa.Column("name", _Name, primary_key=True),  # a registry cannot be renamed
    sa.Column("protected_aliases", Json, nullable=False),
    sa.Column("allowed_automations", Json, nullable=False, server_default="[]"),
)

collections = sa.Table(
    "collections",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("registry", _Name, sa.ForeignKey("registries.name"), nullable=False),
    sa.Column("name", _Name, nullable=False),
    sa.Column("artifact_type", _Name, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.Column("next_number", sa.Integer, nullable=False),  # of the next version; never decreases
    sa.Column("created_at", UtcTimestamp, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("ttl_seconds", sa.BigInteger),
    sa.UniqueConstraint("registry", "name"),
)
_partial_index("ix_collections_ttl_seconds", (collections.c.ttl_seconds,), collections.c.ttl_seconds.is_not(None))

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("name", _Name, nullable=False),
    sa.UniqueConstraint("name"),
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("project_id", _Id, sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("name", _Name, nullable=False),
    sa.Column("artifact_type", _Name, nullable=False),
    sa.Column("next_number", sa.Integer, nullable=False),
    sa.Column("ttl_seconds", sa.BigInteger),
    sa.UniqueConstraint("project_id", "name"),
)
_partial_index("ix_artifacts_ttl_seconds", (artifacts.c.ttl_seconds,), artifacts.c.ttl_seconds.is_not(None))

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("project_id", _Id, sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("run_id", _Name, nullable=False),  # made by the client
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("job_type", sa.Text),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("config", Json, nullable=False),
    sa.Column("summary", Json, nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.Column("notes", sa.Text, nullable=False),
    sa.Column("run_group", sa.Text),
    sa.Column("entity", sa.Text),
    sa.Column("info", Json, nullable=False),
    sa.Column("created_at", UtcTimestamp, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("heartbeat_at", UtcTimestamp),  # null before the first one
    sa.Column("finished_at", UtcTimestamp),  # null while it runs
    sa.Column("exit_code", sa.Integer),
    sa.Column("reason", sa.Text),
    sa.Column("is_lost", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("stop_requested_at", UtcTimestamp),
    sa.Column("stop_requested_by", sa.Text),
    sa.Column("session", sa.String(80)),
    sa.Column("next_sequence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("last_step", sa.BigInteger),
    sa.Column("next_entry", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("unpacked_entries", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("unpacked_points", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("unpacked_keys", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("project_id", "run_id"),
    sa.Index("ix_runs_project_id_id", "project_id", "id"),
)
_partial_index("ix_runs_running", (runs.c.id,), runs.c.state == sa.literal_column("'running'"))
_partial_index("ix_runs_unpacked", (runs.c.id,), runs.c.unpacked_entries > sa.literal_column("0"))

deleted_runs = sa.Table(  # so that an id is not used again by a program that still runs, or by a second sync
    "deleted_runs",
    metadata,
    sa.Column("project_id", _Id, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("run_id", _Name, primary_key=True),
)

run_log_entries = sa.Table(  # the points of one request; they are packed later
    "run_log_entries",
    metadata,
    sa.Column("run_id", _Id, sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("points", sa.Integer, nullable=False),
    sa.Column("keys", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

metric_chunks = sa.Table(  # packed points of one metric; a row is never changed
    "metric_chunks",
    metadata,
    sa.Column("run_id", _Id, sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("key", _sorted_text(512), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("first_step", sa.BigInteger, nullable=False),
    sa.Column("last_step", sa.BigInteger, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("nan_count", sa.Integer, nullable=False),
    sa.Column("minimum", sa.Double),
    sa.Column("maximum", sa.Double),
    sa.Column("last", Json),
    sa.Column("steps", sa.LargeBinary, nullable=False),
    sa.Column("times", sa.LargeBinary, nullable=False),
    sa.Column("values", sa.LargeBinary, nullable=False),
)

run_files = sa.Table(
    "run_files",
    metadata,
    sa.Column("run_id", _Id, sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("path", _sorted_text(1_024), primary_key=True),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("updated_at", UtcTimestamp, nullable=False),
    sa.Index("ix_run_files_digest", "digest"),
)

# Entries have a table of their own, because every mutation reads versions but not their files.
manifests = sa.Table(
    "manifests",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("file_count", sa.Integer, nullable=False),
    sa.Column("size", sa.BigInteger),  # of all files; null if the size of one is unknown
    sa.Column("is_stored", sa.Boolean, nullable=False),  # all blobs were stored when a version was made of it
)

manifest_entries = sa.Table(
    "manifest_entries",
    metadata,
    sa.Column("manifest_id", _Id, sa.ForeignKey("manifests.id"), primary_key=True),
    sa.Column("path", _sorted_text(1_024), primary_key=True),
    sa.Column("digest", sa.String(200), nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("ref", sa.Text),  # URI of a reference; null for a file whose content is a blob
    sa.Index("ix_manifest_entries_digest", "digest"),
)

artifact_versions = sa.Table(
    "artifact_versions",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("artifact_id", _Id, sa.ForeignKey("artifacts.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(200), nullable=False),
    sa.Column("manifest_id", _Id, sa.ForeignKey("manifests.id")),  # null if the client gave only a digest
    sa.Column("metadata", Json, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.Column("created_at", UtcTimestamp, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("run_id", _Id, sa.ForeignKey("runs.id")),  # that logged it; null if no run did
    sa.Column("ttl_seconds", sa.BigInteger),  # 0: never expires; null: that of the artifact and the collections
    sa.UniqueConstraint("artifact_id", "number"),
    sa.Index("ix_artifact_versions_manifest_id", "manifest_id"),
    sa.Index("ix_artifact_versions_run_id", "run_id"),
)
_partial_index(
    "ix_artifact_versions_ttl_seconds",
    (artifact_versions.c.ttl_seconds,),
    artifact_versions.c.ttl_seconds.is_not(None),
)


def _edges(name: str) -> sa.Table:
    """Return a table of edges between runs and artifact versions, which is searched from both ends."""
    return sa.Table(
        name,
        metadata,
        sa.Column("run_id", _Id, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("artifact_version_id", _Id, sa.ForeignKey("artifact_versions.id"), primary_key=True),
        sa.Index(f"ix_{name}_artifact_version_id_run_id", "artifact_version_id", "run_id"),
    )


run_inputs = _edges("run_inputs")
run_outputs = _edges("run_outputs")  # also versions whose content a run logged again

metric_conditions = sa.Table(  # whether a condition that an automation watches holds for a run
    "metric_conditions",
    metadata,
    sa.Column("run_id", _Id, sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("automation", sa.String(128), primary_key=True),
    sa.Column("condition_id", sa.String(16), primary_key=True),  # `MetricWatch.key`
    sa.Column("is_true", sa.Boolean, nullable=False),
    sa.Column("recent", sa.LargeBinary, nullable=False),  # the newest points, as float64, oldest first
    sa.Column("updated_at", UtcTimestamp, nullable=False),
)

comments = sa.Table(
    "comments",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("artifact_version_id", _Id, sa.ForeignKey("artifact_versions.id")),  # null on a run
    sa.Column("run_id", _Id, sa.ForeignKey("runs.id")),  # null on a version
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("mentions", Json, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("author_kind", sa.String(10), nullable=False),
    sa.Column("created_at", UtcTimestamp, nullable=False),
    sa.Column("edited_at", UtcTimestamp),  # null if it was never edited
    sa.Index("ix_comments_artifact_version_id_id", "artifact_version_id", "id"),
    sa.Index("ix_comments_run_id_id", "run_id", "id"),
)

pending_versions = sa.Table(
    "pending_versions",
    metadata,
    sa.Column("id", _Id, primary_key=True),  # of the artifact version that it becomes
    sa.Column("manifest_id", _Id, sa.ForeignKey("manifests.id"), nullable=False),
    sa.Column("request", Json, nullable=False),  # `upshot.domain.pending_version.VersionRequest`
    sa.Column("updated_at", UtcTimestamp, nullable=False),
    sa.Index("ix_pending_versions_updated_at", "updated_at"),
)

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("digest", sa.String(80), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("used_at", UtcTimestamp, nullable=False),  # when it was stored, or named by a manifest later
    sa.Index("ix_blobs_used_at", "used_at"),
)

blob_uploads = sa.Table(
    "blob_uploads",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("updated_at", UtcTimestamp, nullable=False),
    sa.Index("ix_blob_uploads_digest", "digest"),
    sa.Index("ix_blob_uploads_updated_at", "updated_at"),
)

blob_parts = sa.Table(
    "blob_parts",
    metadata,
    sa.Column("upload_id", _Id, sa.ForeignKey("blob_uploads.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(80), nullable=False),
)

artifact_aliases = sa.Table(
    "artifact_aliases",
    metadata,
    sa.Column("artifact_id", _Id, primary_key=True),
    sa.Column("alias", _Name, primary_key=True),  # part of the key, so that it has one holder
    sa.Column("number", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["artifact_id", "number"], ["artifact_versions.artifact_id", "artifact_versions.number"]),
    sa.Index("ix_artifact_aliases_number", "artifact_id", "number"),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("artifact_version_id", _Id, sa.ForeignKey("artifact_versions.id"), nullable=False),
    sa.Column("stage", sa.String(10), nullable=False),
    sa.Column("linked_at", UtcTimestamp, nullable=False),
    sa.Column("linked_by", sa.Text, nullable=False),
    sa.UniqueConstraint("collection_id", "number"),
    sa.UniqueConstraint("artifact_version_id", "collection_id"),
)

collection_aliases = sa.Table(
    "collection_aliases",
    metadata,
    sa.Column("collection_id", _Id, primary_key=True),
    sa.Column("alias", _Name, primary_key=True),  # part of the key, so that it has one holder
    sa.Column("number", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["collection_id", "number"], ["versions.collection_id", "versions.number"]),
    sa.Index("ix_collection_aliases_number", "collection_id", "number"),
)

history = sa.Table(
    "history",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("time", UtcTimestamp, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.String(40), nullable=False),
    sa.Column("subject", sa.String(300), nullable=False),
    sa.Column("mutation_id", sa.String(40), nullable=False),
    sa.Column("registry", _Name),  # no foreign keys, because history outlives its subjects
    sa.Column("collection", _Name),
    sa.Column("before", Json, nullable=False),
    sa.Column("after", Json, nullable=False),
    sa.Index("ix_history_registry_collection_id", "registry", "collection", "id"),
    sa.Index("ix_history_registry_id", "registry", "id"),
)

access_tokens = sa.Table(
    "access_tokens",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("name", _Name, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(20), nullable=False),
    sa.Column("registry", _Name),  # no foreign key, because a token can be made before its registry
    sa.Column("created_at", UtcTimestamp, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", UtcTimestamp),
    sa.Column("last_used_at", UtcTimestamp),
    sa.Column("revoked_at", UtcTimestamp),
    sa.Column("revoked_by", sa.Text),
)
sa.Index(
    "uq_access_tokens_name",
    access_tokens.c.name,
    unique=True,
    sqlite_where=access_tokens.c.revoked_at.is_(None),
    postgresql_where=access_tokens.c.revoked_at.is_(None),
)


def _opened_with_a_token(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("token_id", _Id, sa.ForeignKey("access_tokens.id")),
        sa.Column("server_mark", sa.String(64), nullable=False),
        sa.Column("expires_at", UtcTimestamp, nullable=False),
        sa.Index(f"ix_{name}_token_id", "token_id"),
        sa.Index(f"ix_{name}_expires_at", "expires_at"),
    )


sessions = _opened_with_a_token("sessions")
sign_in_codes = _opened_with_a_token("sign_in_codes")
