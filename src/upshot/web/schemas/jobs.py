"""Requests and responses about jobs and their logs."""

from __future__ import annotations

from pydantic import AwareDatetime, Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.domain.job import JobState
from upshot.ids import ExecutionId
from upshot.ports.jobs import LogChunk
from upshot.resources.job import JobSummary
from upshot.web.schemas.requests import MAX_LIMIT, IdPart, PageQuery, QueryParameters
from upshot.web.schemas.responses import NextPage

MAX_CHUNK_NUMBER = 2**31 - 1  #: the largest INTEGER of the databases
DEFAULT_CHUNKS = 20  #: of a log


class JobsQuery(PageQuery):
    """Query parameters of the list of jobs."""

    state: list[JobState] = Field([], description="Can be repeated: jobs in any of these states.")
    queue: str | None = Field(None, max_length=128)
    automation: str | None = Field(None, max_length=128)
    execution_id: ExecutionId | None = Field(
        None, max_length=40, description="The execution whose step waits for the job."
    )
    since: AwareDatetime | None = Field(
        None, description="Only jobs that have ended since this time, or were created since then if they have not."
    )
    id: IdPart


class LogQuery(QueryParameters):
    """Query parameters of a job's log."""

    after: int = Field(0, ge=0, le=MAX_CHUNK_NUMBER, description="Number of the last chunk that you have; 0 for none.")
    limit: int = Field(
        DEFAULT_CHUNKS, ge=1, le=MAX_LIMIT, description="Maximum number of chunks; each has up to 256 KB."
    )


class JobPage(NextPage):
    """A page of jobs, newest first."""

    items: list[JobSummary]


class JobLog(TypedDict):
    """The next chunks of a log."""

    items: list[LogChunk]
    next: int  #: `after` of the request for the following chunks
    done: bool  #: whether the job has ended and these are its last chunks
