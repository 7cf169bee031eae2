"""`launch`: run a container job, and continue with its outputs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from typing_extensions import override

from upshot.actions.inputs import invalid_input, literal_secrets, parse_inputs
from upshot.actions.job_receipts import failure_reason, job_request, job_response
from upshot.actions.protocol import Action, ActionCall, ActionContext, Deferred, Outcome
from upshot.domain.automation import DEFAULT_ATTEMPTS
from upshot.domain.job import DEFAULT_QUEUE, JOB_OPTIONS, Job, JobRetryPolicy, JobState
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import JobFailed, Refused
from upshot.ids import derive_job_id
from upshot.schema.action_inputs import InputProblem
from upshot.schema.job_spec import spec_as_inputs
from upshot.schema.launch_inputs import LaunchInputs, value_at
from upshot.schema.queues import DOCKER, PROCESS, JobsConfig
from upshot.schema.yaml_model import is_template

SECRET_KEYS = tuple(option.key for option in JOB_OPTIONS.values() if option.holds_secrets)

_SECRET = re.compile(r"\bsecrets\s*[.\[]")
_NO_SECRET = f"a job's secrets are filled in when it starts, and only under {', '.join(SECRET_KEYS)}"


class Launch(Action):
    """
    Runs a container job. The step waits without occupying a worker, and continues with the job's outputs.

    Outputs: what the job wrote to `/upshot/output/outputs.json`.

    Args:
        config: The queues and their limits.
    """

    uses = "launch"
    inputs_model = LaunchInputs
    defers_secrets = True
    has_own_timeout = True
    program_keys = SECRET_KEYS  # a shell or a program reads them, for which `${NAME}` has a meaning

    def __init__(self, config: JobsConfig) -> None:
        self._config = config

    # --- when the file is loaded ------------------------------------------------------------------

    @override
    def check(self, with_: Mapping[str, Any]) -> Iterable[InputProblem]:
        yield from _misplaced_secrets(with_)
        inputs, invalid_keys = _valid_part(with_)
        if inputs is None:
            return
        for path, problem in self._violations(inputs, rendered=False):
            if path.partition(".")[0] not in invalid_keys and not _depends_on_template(with_, path):
                yield path, problem

    def _violations(self, inputs: LaunchInputs, *, rendered: bool) -> Iterator[InputProblem]:
        """Yield what the queue and the backend forbid, as far as the values are known."""
        queue = inputs.queue or DEFAULT_QUEUE
        if not rendered and is_template(queue):
            return
        if problem := self._config.check_queue_name(queue):
            yield "queue", problem
            return
        queue_config = self._config.queues[queue]
        backend = inputs.backend or queue_config.backend
        if rendered or not is_template(backend):
            yield from self._backend_violations(inputs, backend)
        if rendered or not (is_template(backend) or is_template(inputs.priority)):
            priority = queue_config.priority if inputs.priority is None else inputs.priority
            yield from self._config.choice_violations(queue, backend, priority)
        spec = self._config.apply_defaults(inputs.options(rendered=rendered), queue)
        yield from self._config.violations_by_path(spec, queue, None if is_template(backend) else backend)

    def _backend_violations(self, inputs: LaunchInputs, backend: str) -> Iterator[InputProblem]:
        if problem := self._config.check_backend_name(backend):
            yield "backend", problem
            return
        uses = self._config.backends[backend].uses
        if value_at(inputs, "kubernetes") and uses in (DOCKER, PROCESS):
            yield "kubernetes", f"backend {backend!r} uses {uses}, which has no such settings; leave it out"
        if self._config.needs_image(backend):
            if value_at(inputs, "image") is None:
                yield "image", f"is missing; backend {backend!r} runs containers"
            return
        for option in JOB_OPTIONS.values():
            if option.needs_container and value_at(inputs, option.key):
                problem = f"backend {backend!r} runs commands on the machine itself, without a container; leave it out"
                yield option.key, problem
        if value_at(inputs, "command") is None:
            yield "command", f"is missing; backend {backend!r} has no image that defines what to run"

    # --- when the step is performed ---------------------------------------------------------------

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome | Deferred:
        if call.job_id is None:
            return self._launch(call)
        job = await asyncio.to_thread(context.jobs.find, call.job_id)
        if job is None:
            raise JobFailed(f"job {call.job_id} is no longer in the database; retry the execution to launch it again")
        if not job.state.is_final:
            return Deferred(f"waits for job {job.id} in queue {job.queue}")
        request, response = job_request(job), job_response(job)
        if job.state is not JobState.SUCCEEDED:
            raise JobFailed(failure_reason(job), request=request, response=response)
        return Outcome(outputs=job.outputs or {}, request=request, response=response)

    def _launch(self, call: ActionCall) -> Deferred:
        placeholders = call.placeholders
        if placeholders is None:
            raise AssertionError("an action that defers secrets is called with placeholders")
        misplaced = [
            key for key, value in call.with_.items() if key not in SECRET_KEYS and placeholders.secret_names(value)
        ]
        if misplaced:
            raise invalid_input("; ".join(f"with.{key}: {_NO_SECRET}" for key in misplaced))
        inputs = parse_inputs(LaunchInputs, call)
        if problems := [f"{path}: {problem}" for path, problem in self._violations(inputs, rendered=True)]:
            raise Refused("; ".join(problems), request=placeholders.as_templates(call.with_))
        job = self._job(inputs, call, placeholders)
        return Deferred(f"waits for job {job.id} in queue {job.queue}", job)

    def _job(self, inputs: LaunchInputs, call: ActionCall, placeholders: SecretPlaceholders) -> Job:
        queue = inputs.queue or DEFAULT_QUEUE
        queue_config = self._config.queues[queue]
        spec = self._config.apply_defaults(inputs.options(rendered=True), queue)
        written = spec_as_inputs(spec)
        secrets = placeholders.secret_names([written.get(key) for key in SECRET_KEYS])
        # The default number of attempts of a step is too many for containers.
        has_default = call.retry.max_attempts == DEFAULT_ATTEMPTS
        max_attempts = JobRetryPolicy().max_attempts if has_default else call.retry.max_attempts
        return Job(
            id=derive_job_id(call.delivery_id, call.attempt, call.execution_created_at),
            name=inputs.name or call.step_id,
            automation=call.automation,
            execution_id=call.execution_id,
            step_id=call.step_id,
            event_id=call.event.id,
            delivery_id=call.delivery_id,
            queue=queue,
            backend=inputs.backend or queue_config.backend,
            spec=spec,
            created_at=call.now,
            priority=queue_config.priority if inputs.priority is None else inputs.priority,
            concurrency=inputs.concurrency,
            retry=JobRetryPolicy(max_attempts, call.retry.first_seconds, call.retry.cap_seconds, inputs.growth),
            save_metrics=inputs.save_metrics,
            version_reference=call.event.version_reference,
            secrets=tuple(dict.fromkeys(secrets)),
            nonce=placeholders.nonce,
            due_at=call.now,
        )


def _valid_part(with_: Mapping[str, Any]) -> tuple[LaunchInputs | None, frozenset[str]]:
    """
    Parse a block without its invalid keys, so that one mistake does not hide what the queue forbids.

    Returns:
        The inputs, or None if nothing can be checked; and the keys that are invalid, which the parser reports.
    """
    invalid_keys: frozenset[str] = frozenset()
    for _ in range(2):
        try:
            return LaunchInputs.model_validate(
                {key: with_[key] for key in with_ if key not in invalid_keys}
            ), invalid_keys
        except ValidationError as error:
            invalid_keys = frozenset(str(problem["loc"][0]) for problem in error.errors() if problem["loc"])
        if not invalid_keys.isdisjoint(("queue", "backend")):
            break  # it is unknown which limits apply
    return None, invalid_keys


def _misplaced_secrets(with_: Mapping[str, Any]) -> Iterator[InputProblem]:
    for key, value in with_.items():
        if key not in SECRET_KEYS and any(is_template(text) and _SECRET.search(text) for text in _texts(value)):
            yield key, _NO_SECRET
    auth, files = with_.get("registry-auth"), with_.get("secret-files")
    if isinstance(auth, Mapping):
        yield from ((f"registry-auth.{key}", problem) for key, problem in literal_secrets(auth, "password"))
    if isinstance(files, Mapping):
        yield from ((f"secret-files.{key}", problem) for key, problem in literal_secrets(files, *files))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    members = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for member in members:
        yield from _texts(member)


def _depends_on_template(with_: Mapping[str, Any], path: str) -> bool:
    """Return whether a value, or something around it, is a template, so that the problem is not certain."""
    value: Any = with_
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and int(part) < len(value):
            value = value[int(part)]
        if is_template(value):
            return True
    return isinstance(value, Mapping) and any(is_template(value.get(key)) for key in ("source", "read-only"))
