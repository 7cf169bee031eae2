"""
A database with data at schema revision 1, the first release.

The rows are literal, so that they stay as the first release wrote them. A migration must keep
`assert_readable` true. Change this file only for a new table, whose migration has its own test.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.idempotency import SqlIdempotency
from upshot.adapters.sql.installation import SqlInstallation
from upshot.adapters.sql.job_admin import SqlJobAdmin
from upshot.adapters.sql.registry import SqlRegistry
from upshot.adapters.sql.revisions import SqlRevisions
from upshot.adapters.sql.workers import SqlWorkers
from upshot.clock import FrozenClock
from upshot.domain.execution import AttemptState, ExecutionState, StepPhase
from upshot.domain.job import JobState
from upshot.ids import EventId, ExecutionId, JobId, RevisionId
from upshot.ports.idempotency import StoredResponse
from upshot.ports.jobs import Installation
from upshot.registry.service import Registry

NOW = FrozenClock().now()
_TIME = 1_767_268_800_000_000  # NOW in microseconds
_TEXT_TIME = "2026-01-01T12:00:00.000000Z"
_EVENT_ID = "evt_01kdwpvng00000000000000001"
_DIGEST = "sha256:23d3bc63f30ef31d75337f987795cc71735cdbf444c6c4599fe6154c7ebe4ea5"

_VERSION = {
    "name": "v0",
    "number": 0,
    "reference": "model/churn:v0",
    "registry": "model",
    "collection": "churn",
    "artifact": "fraud/net:v0",
    "artifact_name": "net",
    "artifact_version": "v0",
    "artifact_type": "model",
    "project": "fraud",
    "aliases": ["latest", "production"],
    "tags": [],
    "description": "",
    "metadata": {"accuracy": 0.9},
    "digest": _DIGEST,
    "linked_at": _TEXT_TIME,
    "linked_by": "boss",
    "created_at": _TEXT_TIME,
    "created_by": "ann",
    "url": None,
}
_EVENT = {
    "id": _EVENT_ID,
    "kind": "alias-added",
    "name": None,
    "time": _TEXT_TIME,
    "subject": "model/churn:v0",
    "actor": {"name": "boss", "kind": "user"},
    "mutation_id": "mut_1",
    "sequence": 3,
    "chain": [{"automation": "train", "execution_id": "exe_0", "event_id": "evt_0", "version": None}],
    "data": {"version": _VERSION, "alias": "production", "previous": None, "automatic": False},
}
_STEPS = [
    {
        "id": "evaluate",
        "uses": "launch",
        "phase": "main",
        "state": "waiting",
        "attempt_count": 1,
        "failures": 1,
        "job_id": "job_1",
        "started_at": _TEXT_TIME,
    },
    {"id": "alarm", "uses": "slack", "phase": "on-failure", "state": "waiting"},
]
_RECEIPT = {
    "delivery_id": "dlv_1",
    "took_seconds": 0.25,
    "worker_id": "w1",
    "request": {"image": "acme/evaluate:1"},
    "error": "no connection",
    "wait_seconds": 4.0,
    "timings": {"render": 0.01},
}
_JOB_SPEC: dict[str, Any] = {
    "image": "acme/evaluate:1",
    "command": None,
    "args": None,
    "env": {"BAR": "0.9"},
    "secret_files": {},
    "workdir": None,
    "cpus": None,
    "memory_bytes": 1_073_741_824,
    "gpus": 0,
    "shm_bytes": None,
    "pids": 1024,
    "timeout_seconds": 3600.0,
    "grace_seconds": 10.0,
    "network": "bridge",
    "user": None,
    "read_only": False,
    "privileged": False,
    "mounts": [],
    "pull": "missing",
    "registry_auth": None,
    "labels": {},
    "kubernetes": {},
}
_JOB = {
    "name": "evaluate",
    "event_id": _EVENT_ID,
    "delivery_id": "dlv_1",
    "spec": _JOB_SPEC,
    "priority": 0,
    "retry": {"max_attempts": 3, "first_seconds": 1.0, "cap_seconds": 3600.0, "memory_growth": None},
    "save_metrics": False,
    "version_reference": "model/churn:v0",
    "secrets": [],
    "nonce": "Nx1",
    "attempt": 1,
    "handle": None,
    "image_digest": None,
    "started_at": None,
    "exit_code": None,
}
#: Rows by table. Lists and mappings are stored as JSON text.
_ROWS: dict[str, list[dict[str, Any]]] = {
    "events": [
        {
            "id": _EVENT_ID,
            "kind": "alias-added",
            "subject": "model/churn:v0",
            "time": _TIME,
            "mutation_id": "mut_1",
            "document": _EVENT,
            "published_at": _TIME,
            "matched_at": _TIME,
        }
    ],
    "executions": [
        {
            "id": "exe_1",
            "automation": "promote",
            "revision_id": "0123456789ab",
            "event_id": _EVENT_ID,
            "state": "waiting",
            "reason": "waits for job job_1",
            "created_at": _TIME,
            "fence": 1,
            "steps": _STEPS,
        }
    ],
    "receipts": [
        {
            "execution_id": "exe_1",
            "step_id": "evaluate",
            "attempt": 1,
            "state": "unreachable",
            "started_at": _TIME,
            "details": _RECEIPT,
        }
    ],
    "revisions": [
        {
            "name": "promote",
            "revision_id": "0123456789ab",
            "path": "promote.yaml",
            "source": {"name": "promote", "on": "alias-added"},
            "body_files": {"body.json": "{}"},
            "saved_at": _TIME,
        }
    ],
    "workers": [
        {
            "id": "w1",
            "host": "host-1",
            "pid": 1,
            "started_at": _TIME,
            "seen_at": _TIME,
            "in_progress": 3,
            "stream_read_at": _TIME,
            "automations": 2,
            "machine": "m1",
            "queues": ["events", "default"],
            "engines": {"docker": "engine-1"},
        }
    ],
    "jobs": [
        {
            "id": "job_1",
            "execution_id": "exe_1",
            "automation": "promote",
            "step_id": "evaluate",
            "queue": "default",
            "backend": "docker",
            "rank": 0,
            "state": "queued",
            "created_at": _TIME,
            "due_at": _TIME,
            "fence": 0,
            "log_number": 1,
            "log_bytes": 7,
            "log_position": "p1",
            "details": _JOB,
            "log_tail": "",
        }
    ],
    "job_logs": [{"job_id": "job_1", "number": 1, "time": _TIME, "bytes": 7, "text": "line 1\n"}],
    "installation": [{"number": 1, "id": "ins_1", "key": b"0" * 32}],
    "idempotency_keys": [
        {
            "key": "key",
            "fingerprint": "f",
            "first_at": _TIME,
            "reserved_at": _TIME,
            "call_id": "call_1",
            "status": 201,
            "headers": {"location": "/x"},
            "body": b"{}",
        }
    ],
    "registries": [{"name": "model", "protected_aliases": ["prod*"]}],
    "collections": [
        {
            "registry": "model",
            "name": "churn",
            "artifact_type": "model",
            "description": "# Churn",
            "tags": ["nice"],
            "next_number": 1,
            "created_at": _TIME,
            "created_by": "boss",
            "deleted": False,
        }
    ],
    "projects": [{"name": "fraud"}],
    "artifacts": [{"project": "fraud", "name": "net", "artifact_type": "model", "next_number": 1}],
    "artifact_versions": [
        {
            "project": "fraud",
            "artifact": "net",
            "number": 0,
            "digest": _DIGEST,
            "metadata": {"accuracy": 0.9},
            "description": "",
            "tags": [],
            "created_at": _TIME,
            "created_by": "ann",
        }
    ],
    "manifests": [{"project": "fraud", "artifact": "net", "number": 0, "entries": {"model.onnx": "sha256:aa"}}],
    "artifact_aliases": [{"project": "fraud", "artifact": "net", "alias": "best", "number": 0}],
    "versions": [
        {
            "registry": "model",
            "collection": "churn",
            "number": 0,
            "project": "fraud",
            "artifact": "net",
            "artifact_number": 0,
            "linked_at": _TIME,
            "linked_by": "boss",
        }
    ],
    "collection_aliases": [{"registry": "model", "collection": "churn", "alias": "production", "number": 0}],
    "history": [
        {
            "id": "his_1",
            "time": _TIME,
            "actor": "boss",
            "action": "link",
            "subject": "model/churn:v0",
            "mutation_id": "mut_1",
            "registry": "model",
            "collection": "churn",
            "before": {"aliases": {"production": None}},
            "after": {"artifact": "fraud/net:v0", "aliases": {"production": "v0"}},
        }
    ],
}


def insert_rows(connection: Connection) -> None:
    """Insert the rows into a database at revision 1, whose tables are read from the database itself."""
    tables = sa.MetaData()
    tables.reflect(connection)
    for table in tables.sorted_tables:
        for row in _ROWS.get(table.name, ()):
            values = {
                name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in row.items()
            }
            connection.execute(sa.insert(table).values(values))


def assert_readable(database: Database) -> None:
    """Assert that the stores of the current version read the data of the rows."""
    registry = Registry(SqlRegistry(database), MemoryStream(), FrozenClock())
    version = registry.version("model", "churn", "production")
    assert (version.name, version.linked_by) == ("v0", "boss")
    assert version.artifact_version.metadata == {"accuracy": 0.9}
    files = registry.files("fraud/net:best", cursor=None, limit=9).items
    assert [(file.path, file.digest) for file in files] == [("model.onnx", "sha256:aa")]
    assert registry.collection("model", "churn").description == "# Churn"
    assert registry.registries()[0].protected_aliases == ("prod*",)
    assert registry.history("model", "churn", cursor=None, limit=9).items[0].after["artifact"] == "fraud/net:v0"

    stored = SqlEvents(database).find(EventId(_EVENT_ID))
    assert stored.execution_ids == ("exe_1",)
    assert stored.matched_at == NOW
    assert stored.event.version_reference == "model/churn:v0"
    assert stored.event.chain[0].execution_id == "exe_0"

    found = SqlExecutions(database).find(ExecutionId("exe_1"))
    assert found
    execution, (receipt,) = found
    assert (execution.state, execution.awaited_job_id) == (ExecutionState.WAITING, "job_1")
    assert [(step.phase, step.attempt_count) for step in execution.steps] == [
        (StepPhase.MAIN, 1),
        (StepPhase.ON_FAILURE, 0),
    ]
    assert (receipt.state, receipt.wait_seconds) == (AttemptState.UNREACHABLE, 4.0)
    assert SqlRevisions(database).get("promote", RevisionId("0123456789ab")) == (
        {"name": "promote", "on": "alias-added"},
        {"body.json": "{}"},
        "promote.yaml",
    )

    jobs = SqlJobAdmin(database)
    job = jobs.find(JobId("job_1"))
    assert (job.state, job.spec.env, job.spec.memory_bytes) == (JobState.QUEUED, {"BAR": "0.9"}, 2**30)
    assert [chunk.text for chunk in jobs.log_chunks(job.id, after=0, limit=9)] == ["line 1\n"]

    assert SqlInstallation(database).get_or_create(lambda: Installation("other", b"")).id == "ins_1"
    (worker,) = SqlWorkers(database).list(seen_since=NOW)
    assert (worker.id, worker.queues) == ("w1", ("events", "default"))
    day = timedelta(days=1)
    record = SqlIdempotency(database).reserve(
        "key", "f", call_id="call_2", now=NOW, stale_before=NOW - day, expired_before=NOW - day
    )
    assert record.response == StoredResponse(201, {"location": "/x"}, b"{}")
