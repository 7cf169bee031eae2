"""Routes of jobs and their logs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import Query
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from upshot.domain.access import includes
from upshot.domain.event import Role
from upshot.domain.job import Job
from upshot.errors import NotFound
from upshot.ids import JobId
from upshot.ports.jobs import JobQuery
from upshot.resources.job import JobDetail, job_detail, job_summary
from upshot.resources.urls import API_PREFIX
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import problem_responses
from upshot.web.routing import CallerDep, Deps, OriginDep, make_router
from upshot.web.schemas.jobs import JobLog, JobPage, JobsQuery, LogQuery
from upshot.web.schemas.responses import json_response, page_json
from upshot.web.wait_reason import explain_wait

router = make_router("jobs")

_CHUNKS_IN_MEMORY = 20  # of a log that is streamed


@router.get("/jobs", responses={200: {"model": JobPage}, **problem_responses()})
def list_jobs(deps: Deps, query: Annotated[JobsQuery, Query()]) -> Response:
    """Return jobs, newest first."""
    job_query = JobQuery(
        states=frozenset(query.state),
        queue=query.queue,
        automation=query.automation,
        execution_id=query.execution_id,
        since=query.since,
        id_part=query.id,
    )
    page = deps.jobs.page(job_query, cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, job_summary))


@router.get("/jobs/{job_id}", responses={200: {"model": JobDetail}, **problem_responses(404)})
def get_job(job_id: JobId, deps: Deps, caller: CallerDep) -> Response:
    """
    Return a job: its options, its state and why it waits, its outputs, and the end of its log.

    A restricted viewer sees no log.
    """
    job = _job_detail(deps, _find(deps, job_id))
    return json_response(job if includes(caller.role, Role.VIEWER) else {**job, "log_tail": ""})


@router.get("/jobs/{job_id}/log", responses={200: {"model": JobLog}, **problem_responses(404)})
def get_job_log(job_id: JobId, deps: Deps, query: Annotated[LogQuery, Query()]) -> Response:
    """
    Return chunks of a job's log after a number, also while the job runs.

    Ask again with `after` = `next` until `done` is true. A new chunk appears within seconds.
    """
    # Find the job before its log: once the job has ended, its log is complete.
    is_final = _find(deps, job_id).state.is_final
    chunks = deps.jobs.log_chunks(job_id, after=query.after, limit=query.limit)
    log: JobLog = {
        "items": list(chunks),
        "next": chunks[-1].number if chunks else query.after,
        "done": is_final and len(chunks) < query.limit,
    }
    return json_response(log)


@router.get("/jobs/{job_id}/log.txt", response_class=PlainTextResponse, responses=problem_responses(404))
def download_job_log(job_id: JobId, deps: Deps) -> Response:
    """Return everything that is kept of a job's log, as plain text."""
    _find(deps, job_id)

    def texts() -> Iterator[str]:
        after = 0
        while chunks := deps.jobs.log_chunks(job_id, after=after, limit=_CHUNKS_IN_MEMORY):
            after = chunks[-1].number
            yield from (chunk.text for chunk in chunks)

    return StreamingResponse(texts(), media_type="text/plain; charset=utf-8")


@router.post("/jobs/{job_id}/cancel", responses={200: {"model": JobDetail}, **problem_responses(404, 409)})
def cancel_job(job_id: JobId, deps: Deps, origin: OriginDep) -> Response:
    """
    Stop a job. A queued job ends at once; a running job gets a signal, and is killed when its grace period is over.

    The step that waits for the job fails. To stop the rest too, cancel the execution, which also stops the job.
    """
    job = deps.jobs.request_stop(job_id, origin.actor.name, deps.clock.now())
    if deps.notifier and job.state.is_final:
        deps.notifier.notify_executions([job.execution_id])  # if this fails, the sweeper finds the execution
    return json_response(_job_detail(deps, job))


def _find(deps: WebDependencies, job_id: JobId) -> Job:
    job = deps.jobs.find(job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}; GET {API_PREFIX}/jobs lists jobs")
    return job


def _job_detail(deps: WebDependencies, job: Job) -> JobDetail:
    position = deps.jobs.queue_position(job)
    wait_reason = explain_wait(
        job,
        position,
        limits=deps.concurrency_limits(job.queue),
        workers=deps.live_workers(),
        now=deps.clock.now(),
    )
    return job_detail(job, position, wait_reason)
