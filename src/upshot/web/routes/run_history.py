"""Routes of what runs log: metrics, signs of life and files."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from upshot.adapters.cursor import decode_cursor, make_cursor
from upshot.domain.manifest import ManifestEntry
from upshot.domain.metric_history import LogRow
from upshot.errors import InvalidInput, NotFound
from upshot.json_numbers import to_json_number
from upshot.numerals import read_whole
from upshot.registry.run_log import LogRequest, OutOfSequence
from upshot.registry.run_metrics import MetricSummary, SeriesQuery, Span
from upshot.registry.run_states import state_of_exit
from upshot.resources.run import MetricJson, RunJson, run_file_json, run_json
from upshot.web.problems import Problem, problem_responses
from upshot.web.routing import Deps, OriginDep, make_router
from upshot.web.schemas.artifacts import MissingBlobs
from upshot.web.schemas.requests import PageQuery
from upshot.web.schemas.responses import json_response, page_json
from upshot.web.schemas.runs import (
    HistoryParameters,
    LifeJson,
    LoggedValues,
    LogResult,
    MetricList,
    NewRunFiles,
    RunEnd,
    RunFilesPage,
    RunHistoryPage,
    SeriesPage,
    SeriesParameters,
    SignOfLife,
    parse_moment,
)
from upshot.web.transfer import BYTES, blob_response, make_transfer_router

router = make_router("runs")
transfers = make_transfer_router("runs")

_RUN = "/projects/{project}/runs/{run_id}"
_ALIVE = SignOfLife(session=None)
_MAX_KEYS = 1_000  # that a query names


@router.post(_RUN + "/log", responses={200: {"model": LogResult}, **problem_responses(404, 409)})
def log_values(project: str, run_id: str, body: LoggedValues, deps: Deps, origin: OriginDep) -> Response:
    """
    Store what a run logs: up to 10,000 values in up to 4 MiB.

    The requests of a session are numbered from 0. A repeated one changes nothing. If one is missing, the answer is 409
    with `next_sequence`. Values whose step is lower than the last one of their key are dropped and counted.
    """
    rows = [LogRow(row.step, row.time, row.values) for row in body.rows]
    request = LogRequest(body.session, body.sequence, rows, body.summary, body.config, late=body.late)
    try:
        answer = deps.registry.log(project, run_id, request, origin=origin)
    except OutOfSequence as error:
        raise Problem(409, "out-of-sequence", str(error), next_sequence=error.next_sequence) from error
    result: LogResult = {
        "next_sequence": answer.next_sequence,
        "stop": answer.must_stop,
        "dropped": answer.dropped,
    }
    return json_response(result)


@router.post(_RUN + "/heartbeat", responses={200: {"model": LifeJson}, **problem_responses(404, 409)})
def record_heartbeat(
    *, project: str, run_id: str, body: Annotated[SignOfLife, Body()] = _ALIVE, deps: Deps, origin: OriginDep
) -> Response:
    """Record that a run is alive. After its first heartbeat, it has failed when they stop for 60 seconds."""
    run = deps.registry.record_heartbeat(project, run_id, session=body.session, origin=origin).value
    life: LifeJson = {"state": run.summary.state.value, "stop": run.must_stop}
    return json_response(life)


@router.post(_RUN + "/finish", responses={200: {"model": RunJson}, **problem_responses(404, 409)})
def finish_run(project: str, run_id: str, body: RunEnd, deps: Deps, origin: OriginDep) -> Response:
    """End a run. A run that has ended stays as it is, unless only its heartbeats had stopped."""
    change = deps.registry.finish_run(
        project,
        run_id,
        state_of_exit(body.exit_code, body.state),
        exit_code=body.exit_code,
        finished_at=parse_moment(body.finished_at, "finished_at"),
        session=body.session,
        origin=origin,
    )
    return json_response(run_json(change.value, deps.base_url, deps.clock.now()))


@router.post(_RUN + "/stop", responses={200: {"model": RunJson}, **problem_responses(404)})
def stop_run(project: str, run_id: str, deps: Deps, origin: OriginDep) -> Response:
    """Ask a run to stop. The answer to its next request says so; without one, it is `killed` after 60 seconds."""
    run = deps.registry.stop_run(project, run_id, origin=origin).value
    return json_response(run_json(run, deps.base_url, deps.clock.now()))


@router.get(_RUN + "/metrics", responses={200: {"model": MetricList}, **problem_responses(404)})
def list_metrics(project: str, run_id: str, deps: Deps) -> Response:
    """Return the keys that a run has logged, sorted, with their counts and extremes."""
    metrics = deps.registry.metrics(project, run_id)
    return json_response({"items": [_metric_json(metric) for metric in metrics], "next": None})


def _metric_json(metric: MetricSummary) -> MetricJson:
    return {
        "key": metric.key,
        "count": metric.count,
        "nan_count": metric.nan_count,
        "min": None if metric.minimum is None else to_json_number(metric.minimum),
        "max": None if metric.maximum is None else to_json_number(metric.maximum),
        "last": metric.last,
        "first_step": metric.first_step,
        "last_step": metric.last_step,
    }


@router.get(_RUN + "/series", responses={200: {"model": SeriesPage}, **problem_responses(404)})
def get_series(project: str, run_id: str, deps: Deps, query: Annotated[SeriesParameters, Query()]) -> Response:
    """
    Return the points of a key: a page of exactly what was logged, or `points` of them that show all.

    These are numbers only: the first and the last one, and the minimum and maximum of each bucket.
    """
    wanted = SeriesQuery(
        key=query.key,
        points=query.points,
        span=Span(query.from_step, query.to_step),
        start=_number(query.cursor),
        limit=query.limit,
    )
    series = deps.registry.series(project, run_id, wanted)
    columns = series.columns
    page: SeriesPage = {
        "key": series.key,
        "count": series.count,
        "steps": [int(step) for step in columns.steps],
        "times": list(columns.times),
        "values": columns.json_values(),
        "next": None if series.next_index is None else make_cursor(str(series.next_index)),
    }
    return json_response(page)


@router.get(_RUN + "/history", responses={200: {"model": RunHistoryPage}, **problem_responses(404)})
def get_history(project: str, run_id: str, deps: Deps, query: Annotated[HistoryParameters, Query()]) -> Response:
    """
    Return rows of a run's history, in the order of their steps: `_step`, `_timestamp` and the values by key.

    With `samples`, they are spread evenly over the history. Without it, they are a page of exactly what was logged.
    """
    keys = [*(query.keys.split(",") if query.keys else []), *(query.key or [])]
    if keys and query.x_axis not in ("_step", "_timestamp"):
        keys.append(query.x_axis)
    keys = [key for key in dict.fromkeys(keys) if key not in ("_step", "_timestamp")]
    if len(keys) > _MAX_KEYS:
        raise InvalidInput(f"{len(keys):,} keys; at most {_MAX_KEYS:,} are allowed")
    if query.samples is not None:
        rows: Any = deps.registry.sampled_history(
            project, run_id, keys, samples=query.samples, from_step=query.from_step, to_step=query.to_step
        )
        return json_response({"items": rows, "next": None})
    page = deps.registry.history_page(
        project,
        run_id,
        keys,
        from_step=max(query.from_step, _number(query.cursor)),
        to_step=query.to_step,
        limit=query.limit,
    )
    return json_response(
        {"items": page.rows, "next": None if page.next_step is None else make_cursor(str(page.next_step))}
    )


def _number(cursor: str | None) -> int:
    if cursor is None:
        return 0
    number = read_whole(decode_cursor(cursor))
    if number is None or number < 0:
        raise InvalidInput(f"cursor {cursor!r} is invalid; pass the `next` of the previous page")
    return number


@router.post(_RUN + "/files", responses={200: {"model": MissingBlobs}, **problem_responses(404, 409)})
def add_run_files(project: str, run_id: str, body: NewRunFiles, deps: Deps, origin: OriginDep) -> Response:
    """
    Add files to a run, and return which of their blobs are missing.

    A file is visible once its blob is stored. A file with the same path is replaced.
    """
    files = [ManifestEntry(file.path, file.digest, file.size) for file in body.files]
    return json_response({"missing": deps.registry.add_run_files(project, run_id, files, origin=origin)})


@router.get(_RUN + "/files", responses={200: {"model": RunFilesPage}, **problem_responses(404)})
def list_run_files(project: str, run_id: str, deps: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Return the files of a run, by path."""
    page = deps.registry.run_files(project, run_id, cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, run_file_json))


@transfers.get(
    _RUN + "/files/{path:path}",
    responses={200: {"content": BYTES}, **problem_responses(404)},
    response_class=Response,
)
async def get_run_file(project: str, run_id: str, path: str, request: Request, deps: Deps) -> Response:
    """Return the bytes of a file, as an attachment, or redirect to where they are. `Range` is supported."""
    file = await run_in_threadpool(deps.registry.run_file, project, run_id, path)
    blob = await run_in_threadpool(lambda: deps.blobs.find([file.digest]).get(file.digest))
    if blob is None:
        raise NotFound(f"file {path[:200]!r}: its bytes are not stored any more")
    return await blob_response(
        deps.blobs, blob, filename=path.rpartition("/")[2], requested=request.headers.get("range")
    )
