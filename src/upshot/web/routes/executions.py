"""Executions: listed, shown with their receipts, retried, cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.domain.execution import Execution
from upshot.errors import NotFound
from upshot.execution.transitions import cancel_by_person, retry_by_person
from upshot.ports.executions import ExecutionQuery
from upshot.web.auth import API
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import responses
from upshot.web.routing import CallerDep, Deps, make_router
from upshot.web.schemas.requests import ExecutionsQuery
from upshot.web.schemas.responses import (
    ExecutionForm,
    PageForm,
    execution_form,
    execution_view,
    json_response,
    page_form,
)

router = make_router("executions")


@router.get("/executions", responses={200: {"model": PageForm[ExecutionForm]}, **responses()})
def list_executions(house: Deps, query: Annotated[ExecutionsQuery, Query()]) -> Response:
    """Executions, newest event first, without receipts."""
    wanted = ExecutionQuery(event_id=query.event, automation=query.automation, state=query.state)
    page = house.executions.page(wanted, cursor=query.cursor, limit=query.limit)
    return json_response(page_form(page, execution_form))


@router.get("/executions/{execution}", responses={200: {"model": ExecutionForm}, **responses(404)})
def show_execution(execution: str, house: Deps) -> Response:
    """One execution with the receipt of every attempt."""
    found = house.executions.find(execution)
    if found is None:
        raise NotFound(f"there is no execution {execution!r}; GET {API}/executions lists those there are")
    return json_response(execution_view(*found))


@router.post("/executions/{execution}/retry", responses={200: {"model": ExecutionForm}, **responses(404, 409)})
def retry_execution(execution: str, house: Deps) -> Response:
    """Go on from the step that failed or was cancelled, with the same delivery ids."""
    return _amend(house, execution, lambda before: retry_by_person(before, house.clock.now()))


@router.post("/executions/{execution}/cancel", responses={200: {"model": ExecutionForm}, **responses(404, 409)})
def cancel_execution(execution: str, house: Deps, by: CallerDep) -> Response:
    """Stop an execution that waits or runs, and the job that it waits for; what was sent stays sent."""
    return _amend(house, execution, lambda before: cancel_by_person(before, house.clock.now(), by["actor"].name))


def _amend(house: WebDependencies, execution: str, change: Callable[[Execution], Execution]) -> Response:
    amended = house.executions.amend(execution, change)
    if house.doorbell and not amended.state.is_final:
        house.doorbell.notify_executions([execution])  # not taken: the sweeper finds it
    return json_response(execution_form(amended))
