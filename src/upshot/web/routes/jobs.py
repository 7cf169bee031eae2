"""Jobs: listed, shown with why they wait, their logs read, stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import Query
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from upshot.domain.job import Job
from upshot.errors import NotFound
from upshot.ports.jobs import JobQuery
from upshot.web.auth import API
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import responses
from upshot.web.routing import CallerDep, Deps, make_router
from upshot.web.schemas.jobs import JobForm, JobLogForm, JobView, job_form, job_view, log_form
from upshot.web.schemas.requests import JobsQuery, LogQuery
from upshot.web.schemas.responses import PageForm, json_response, page_form
from upshot.web.wait_reason import why_it_waits

router = make_router("jobs")

_PIECES = 20  # of a log that are in memory at the same time


@router.get("/jobs", responses={200: {"model": PageForm[JobForm]}, **responses()})
def list_jobs(house: Deps, query: Annotated[JobsQuery, Query()]) -> Response:
    """Jobs, newest first."""
    wanted = JobQuery(state=query.state, queue=query.queue, automation=query.automation, execution_id=query.execution)
    return json_response(page_form(house.jobs.page(wanted, cursor=query.cursor, limit=query.limit), job_form))


@router.get("/jobs/{job}", responses={200: {"model": JobView}, **responses(404)})
def show_job(job: str, house: Deps) -> Response:
    """One job: what it runs, where it stands and why it waits, what it gave, the end of its log."""
    return json_response(_view(house, _find(house, job)))


@router.get("/jobs/{job}/log", responses={200: {"model": JobLogForm}, **responses(404)})
def read_log(job: str, house: Deps, query: Annotated[LogQuery, Query()]) -> Response:
    """
    Pieces of a job's log after a number, also while it runs.

    Ask again with `after` = `next` until `done`; a piece that is not there yet comes within seconds.
    """
    found = _find(house, job)  # before its log: of a job that has ended, all of it is there
    pieces = house.jobs.log(job, after=query.after, limit=query.limit)
    return json_response(log_form(pieces, after=query.after, done=found.state.is_final and len(pieces) < query.limit))


@router.get("/jobs/{job}/log.txt", response_class=PlainTextResponse, responses=responses(404))
def download_log(job: str, house: Deps) -> Response:
    """All that is kept of a job's log, as plain text."""
    _find(house, job)
    return StreamingResponse(_log_text(house, job), media_type="text/plain; charset=utf-8")


def _log_text(house: WebDependencies, job: str) -> Iterator[str]:
    after = 0
    while pieces := house.jobs.log(job, after=after, limit=_PIECES):
        after = pieces[-1].number
        yield from (piece.text for piece in pieces)


@router.post("/jobs/{job}/cancel", responses={200: {"model": JobView}, **responses(404, 409)})
def cancel_job(job: str, house: Deps, by: CallerDep) -> Response:
    """
    Stop a job: one that is queued ends at once, one that runs is told to end and killed when its grace is over.

    The step that waits for it fails. To stop all of it, cancel the execution; that stops the job, too.
    """
    stopped = house.jobs.request_stop(job, by["actor"].name, house.clock.now())
    if house.doorbell and stopped.state.is_final:
        house.doorbell.notify_executions([stopped.execution_id])  # not taken: the sweeper finds it
    return json_response(_view(house, stopped))


def _find(house: WebDependencies, job: str) -> Job:
    found = house.jobs.find(job)
    if found is None:
        raise NotFound(f"there is no job {job!r}; GET {API}/jobs lists those there are")
    return found


def _view(house: WebDependencies, job: Job) -> JobView:
    place = house.jobs.queue_position(job)
    waits = why_it_waits(
        job, place, limits=house.limits_of(job.queue), workers=house.workers_alive(), now=house.clock.now()
    )
    return job_view(job, place, waits)
