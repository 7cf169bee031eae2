"""`launch`: run a container job, and go on with what it gave."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from upshot.actions.inputs import Finding, not_usable, read_with, written_secrets
from upshot.actions.job_receipts import failure_reason, job_request, job_response
from upshot.actions.protocol import ActionCall, ActionContext, Deferred, Outcome
from upshot.domain.automation import DEFAULT_ATTEMPTS, RetryPolicy
from upshot.domain.job import DEFAULT_QUEUE, Job, JobRetryPolicy, JobSpec, JobState
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import JobFailed, Refused, Unavailable, Unreachable
from upshot.ids import job_id
from upshot.schema.action_inputs import is_template
from upshot.schema.launch_inputs import LaunchInputs
from upshot.schema.queues import DOCKER, PROCESS, JobsConfig, Violation

#: Where a job's secrets are filled in when it starts.
SECRET_KEYS = ("command", "args", "env", "secret-files", "registry-auth")

_SECRET = re.compile(r"\bsecrets\s*[.\[]")


class Launch:
    """
    Have a container job run; the step waits, held by no worker, and gives what the job gave.

    Outputs: what the job wrote to `/upshot/output/outputs.json`.

    Args:
        book: The queues, and what each allows.
    """

    uses = "launch"
    with_record = LaunchInputs
    expressions: frozenset[str] = frozenset()
    defers_secrets = True
    has_own_time = True

    def __init__(self, book: JobsConfig) -> None:
        self._book = book

    # --- as written -------------------------------------------------------------------------------

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Findings for secrets in the wrong place, and for what the queue forbids whatever the event is."""
        yield from _misplaced_secrets(with_)
        given, broken = _sound_part(with_)
        for place, finding in () if given is None else self._objections(given, rendered=False):
            if place.partition(".")[0] not in broken and not _is_open(with_, place):
                yield place, finding

    def _objections(self, given: LaunchInputs, *, rendered: bool) -> Iterator[Violation]:
        """What speaks against it, as far as it is known."""
        queue = given.queue or DEFAULT_QUEUE
        if not rendered and is_template(queue):
            return
        if unknown := self._book.unknown_queue(queue):
            yield "queue", unknown
            return
        rules = self._book.queues[queue]
        backend = given.backend or rules.backend
        if rendered or not is_template(backend):
            yield from self._backend_objections(given, backend)
        if rendered or not (is_template(backend) or is_template(given.priority)):
            priority = rules.priority if given.priority is None else given.priority
            yield from self._book.choice_objections(queue, backend, priority)
        spec = self._book.complete(given.asked(rendered=rendered), queue)
        yield from self._book.objections_by_place(spec, queue)

    def _backend_objections(self, given: LaunchInputs, backend: str) -> Iterator[Violation]:
        if unknown := self._book.unknown_backend(backend):
            yield "backend", unknown
            return
        uses = self._book.backends[backend].uses
        if given.kubernetes and uses in (DOCKER, PROCESS):
            yield "kubernetes", f"backend {backend!r} uses {uses}, which knows none of this; leave it out"
        if self._book.needs_image(backend):
            if given.image is None:
                yield "image", f"is missing; backend {backend!r} runs containers"
            return
        of_containers = (given.image is not None, given.mounts, given.privileged, given.read_only)
        for key, is_given in zip(("image", "mounts", "privileged", "read-only"), of_containers, strict=True):
            if is_given:
                yield key, f"backend {backend!r} runs commands on the machine itself, in no container; leave it out"
        if given.command is None:
            yield "command", f"is missing; backend {backend!r} has no image that says what to run"

    # --- as rendered ------------------------------------------------------------------------------

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome | Deferred:
        """Ask for the job; when its end has woken the step, say what came of it."""
        if call.job is None:
            return self._asked(call)
        return await _looked_at(call.job, tools)

    def _asked(self, call: ActionCall) -> Deferred:
        if call.marks is None:
            raise not_usable("the secrets of a job are filled in where it starts, and there are no marks for them")
        if misplaced := [key for key in call.with_ if key not in SECRET_KEYS and call.marks.names(call.with_[key])]:
            raise not_usable("; ".join(f"with.{key}: {_NO_SECRET}" for key in misplaced))
        given = read_with(LaunchInputs, call)
        if objections := [f"{place}: {finding}" for place, finding in self._objections(given, rendered=True)]:
            raise Refused("; ".join(objections), request=call.marks.show(call.with_))
        job = self._job(given, call, call.marks)
        return Deferred(f"waits for job {job.id}, in queue {job.queue}", job)

    def _job(self, given: LaunchInputs, call: ActionCall, marks: SecretPlaceholders) -> Job:
        queue = given.queue or DEFAULT_QUEUE
        rules = self._book.queues[queue]
        spec = self._book.complete(given.asked(rendered=True), queue)
        return Job(
            id=job_id(call.delivery_id, call.attempt, call.execution_created_at),
            name=given.name or call.step,
            automation=call.automation,
            execution_id=call.execution,
            step_id=call.step,
            event_id=call.event.id,
            delivery_id=call.delivery_id,
            queue=queue,
            backend=given.backend or rules.backend,
            spec=spec,
            created_at=call.now,
            priority=rules.priority if given.priority is None else given.priority,
            concurrency=given.concurrency,
            retry=_tries(call.retry, given),
            save_metrics=given.save_metrics,
            version_reference=call.event.version_reference,
            secrets=_secrets_of(spec, marks),
            nonce=marks.nonce,
            due_at=call.now,
        )


def _sound_part(with_: Mapping[str, Any]) -> tuple[LaunchInputs | None, frozenset[str]]:
    """What can be held against the queue though some keys are wrong, which others report; None where nothing can."""
    broken: frozenset[str] = frozenset()
    for _ in range(2):
        try:
            return LaunchInputs.model_validate({key: with_[key] for key in with_ if key not in broken}), broken
        except ValidationError as error:
            broken = frozenset(str(found["loc"][0]) for found in error.errors() if found["loc"])
        if not broken.isdisjoint(("queue", "backend")):
            break  # by which rules it goes is not known
    return None, broken


_NO_SECRET = f"a job's secrets are filled in when it starts, and only under {', '.join(SECRET_KEYS)}"


def _misplaced_secrets(with_: Mapping[str, Any]) -> Iterator[Finding]:
    for key, value in with_.items():
        if key not in SECRET_KEYS and any(is_template(text) and _SECRET.search(text) for text in _texts(value)):
            yield key, _NO_SECRET
    auth, files = with_.get("registry-auth"), with_.get("secret-files")
    if isinstance(auth, Mapping):
        yield from _below("registry-auth", written_secrets(auth, "password"))
    if isinstance(files, Mapping):
        yield from _below("secret-files", written_secrets(files, *files))


def _below(key: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    return ((f"{key}.{place}", finding) for place, finding in findings)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    members = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for member in members:
        yield from _texts(member)


def _is_open(with_: Mapping[str, Any], place: str) -> bool:
    """Tell whether what stands there, or what holds it, is still to be rendered, so that nothing is certain."""
    value: Any = with_
    for part in place.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and int(part) < len(value):
            value = value[int(part)]
        if is_template(value):
            return True
    return isinstance(value, Mapping) and any(is_template(value.get(key)) for key in ("source", "read-only"))


def _secrets_of(spec: JobSpec, marks: SecretPlaceholders) -> tuple[str, ...]:
    """Names of the secrets that are filled in when the job starts, each once."""
    auth = spec.registry_auth
    texts = [spec.command, spec.args, spec.env, spec.files, auth and (auth.username, auth.password)]
    return tuple(dict.fromkeys(name for text in texts for name in marks.names(text)))


def _tries(retry: RetryPolicy, given: LaunchInputs) -> JobRetryPolicy:
    """How often a job is tried: 15 containers, which is what a step gets that says nothing, nobody wants."""
    most = JobRetryPolicy().max_attempts if retry.attempts == DEFAULT_ATTEMPTS else retry.attempts
    return JobRetryPolicy(most, retry.first_seconds, retry.cap_seconds, given.growth)


# --- its end --------------------------------------------------------------------------------------


async def _looked_at(wanted: str, tools: ActionContext) -> Outcome | Deferred:
    try:
        job = await asyncio.to_thread(tools.jobs.find, wanted)
    except Unavailable as error:
        raise Unreachable(str(error)) from error
    if job is None:
        raise JobFailed(f"job {wanted} is not in the database any more; retry the execution to launch it again")
    if not job.state.is_final:
        return Deferred(f"waits for job {job.id}, in queue {job.queue}")
    request, response = job_request(job), job_response(job)
    if job.state is not JobState.SUCCEEDED:
        raise JobFailed(failure_reason(job), request=request, response=response)
    return Outcome(outputs=job.outputs or {}, request=request, response=response)
