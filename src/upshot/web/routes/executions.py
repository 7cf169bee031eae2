"""Routes of executions."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.domain.access import includes
from upshot.domain.event import Role
from upshot.domain.execution import Execution, ExecutionState
from upshot.errors import NotFound
from upshot.execution.executor import held_reason
from upshot.execution.transitions import cancel_by_user
from upshot.execution.user_requests import RevisionChoice
from upshot.ids import ExecutionId
from upshot.ports.executions import ExecutionQuery
from upshot.resources.execution import ExecutionDetail, ExecutionJson, execution_detail, execution_json
from upshot.resources.urls import API_PREFIX
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import problem_responses
from upshot.web.routing import CallerDep, Deps, OriginDep, make_router
from upshot.web.schemas.executions import ExecutionPage, ExecutionsQuery, RetryOptions
from upshot.web.schemas.responses import json_response, page_json

router = make_router("executions")

_EXECUTION = "/executions/{execution_id}"
_DEFAULT_OPTIONS = RetryOptions()


@router.get("/executions", responses={200: {"model": ExecutionPage}, **problem_responses()})
def list_executions(deps: Deps, query: Annotated[ExecutionsQuery, Query()]) -> Response:
    """Return executions, newest event first, without receipts."""
    execution_query = ExecutionQuery(
        event_id=query.event_id,
        automation=query.automation,
        states=frozenset(query.state),
        since=query.since,
        until=query.until,
        id_part=query.id,
    )
    page = deps.executions.page(execution_query, cursor=query.cursor, limit=query.limit)
    disabled = _disabled(deps)
    return json_response(page_json(page, lambda execution: execution_json(_with_hold(execution, disabled))))


@router.get(_EXECUTION, responses={200: {"model": ExecutionDetail}, **problem_responses(404)})
def get_execution(execution_id: ExecutionId, deps: Deps, caller: CallerDep) -> Response:
    """Return an execution with the receipt of every attempt. A restricted viewer sees no receipts."""
    found = deps.executions.find(execution_id)
    if found is None:
        raise NotFound(f"there is no execution {execution_id!r}; GET {API_PREFIX}/executions lists executions")
    execution, receipts = found
    receipts = receipts if includes(caller.role, Role.VIEWER) else ()
    return json_response(execution_detail(_with_hold(execution, _disabled(deps)), receipts))


def _disabled(deps: WebDependencies) -> frozenset[str]:
    return frozenset(automation.name for automation in deps.automations.current.automations if not automation.enabled)


def _with_hold(execution: Execution, disabled: frozenset[str]) -> Execution:
    """Return the execution. If its automation is disabled, replace the reason why it waits."""
    if execution.state is not ExecutionState.WAITING or execution.automation not in disabled or execution.waits_for:
        return execution
    held = held_reason(execution.automation)
    return replace(execution, reason=f"{held}; {execution.reason}" if execution.reason else held)


@router.post(_EXECUTION + "/retry", responses={200: {"model": ExecutionJson}, **problem_responses(404, 409)})
def retry_execution(execution_id: ExecutionId, deps: Deps, body: RetryOptions = _DEFAULT_OPTIONS) -> Response:
    """
    Continue from the step that failed, was cancelled or overtaken, with the same delivery ids.

    The response has the revision that the execution continues with.
    """
    revision = RevisionChoice(body.revision) if body.revision else None
    retried = deps.requests.retry(execution_id, deps.clock.now(), force=body.force, revision=revision)
    return _changed(deps, retried)


@router.post(_EXECUTION + "/cancel", responses={200: {"model": ExecutionJson}, **problem_responses(404, 409)})
def cancel_execution(execution_id: ExecutionId, deps: Deps, origin: OriginDep) -> Response:
    """Stop a waiting or running execution, and the job that it waits for. Requests that it sent cannot be undone."""
    name = origin.actor.name
    now = deps.clock.now()
    return _changed(deps, deps.executions.amend(execution_id, lambda execution: cancel_by_user(execution, now, name)))


def _changed(deps: WebDependencies, execution: Execution) -> Response:
    if deps.notifier and not execution.state.is_final:
        deps.notifier.notify_executions([execution.id])  # if this fails, the sweeper finds the execution
    return json_response(execution_json(execution))
