"""
The operator's configuration of jobs: backends, queues, and what each queue gives to a job and allows.

`wiring.jobs_file` reads it from the operator's file. A job is checked against the limits of its queue three
times: when the file of its automation is loaded, when its step is rendered, and on the machine that starts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from upshot.domain.job import DEFAULT_QUEUE, JOB_OPTIONS, JobSpec, MemoryGrowth
from upshot.domain.job_options import ValueKind
from upshot.schema.action_inputs import InputProblem
from upshot.schema.job_spec import JobOptions
from upshot.schema.queue_limits import (
    ASK_TO_ALLOW,
    ASK_TO_RAISE,
    MountRule,
    QueueLimits,
    Violation,
    join_or,
    violations,
)
from upshot.suggestions import did_you_mean

DOCKER = "docker"  #: the backend that exists without an operator's file
PROCESS = "process"  #: runs commands on the machine itself, without containers
KUBERNETES = "kubernetes"
DEFAULT_PER_MACHINE = 4


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """An engine that jobs run on."""

    uses: str  #: docker, kubernetes, process, or the name of an entry point
    options: Mapping[str, Any] = field(default_factory=dict)  #: in the form that the backend reads
    source: str | None = None  #: file and line of the declaration


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """One queue."""

    name: str
    concurrency: int | None = None  #: active jobs over all machines; None: any number
    per_machine: int | None = DEFAULT_PER_MACHINE  #: active jobs on each machine; None: any number
    backend: str = DOCKER
    defaults: JobOptions = field(default_factory=dict)
    priority: int = 0  #: for jobs whose step sets no priority
    limits: QueueLimits = field(default_factory=QueueLimits)
    description: str = ""
    source: str | None = None  #: file and line of the limits; None: built in

    def describe(self, violation: Violation) -> InputProblem:
        """Return the path of a violation, and a message that says where the limit is set."""
        where = f" in {self.source}" if self.source else ", built in; to change them, set UPSHOT_JOBS_FILE"
        message = f"{violation.problem} (limits of queue {self.name!r}{where}); {violation.remedy}"
        return violation.path, message


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """All queues and backends of an installation. The defaults are what holds without an operator's file."""

    machine_limit: int | None = None  #: active jobs on each machine, over all queues; None: any number
    backends: Mapping[str, BackendSettings] = field(default_factory=lambda: {DOCKER: BackendSettings(DOCKER)})
    queues: Mapping[str, QueueConfig] = field(default_factory=lambda: {DEFAULT_QUEUE: QueueConfig(DEFAULT_QUEUE)})
    source: str | None = None  #: the operator's file; None: there is none

    def check_queue_name(self, name: str) -> str | None:
        """Return what is wrong with the name of a queue, or None if the queue exists."""
        if name in self.queues:
            return None
        if name == DEFAULT_QUEUE:
            return f"{self.source} declares no queue {name!r}; choose one with `queue`: {join_or(self.queues)}"
        return self._undeclared("queue", name, self.queues)

    def check_backend_name(self, name: str) -> str | None:
        """Return what is wrong with the name of a backend, or None if the backend exists."""
        return None if name in self.backends else self._undeclared("backend", name, self.backends)

    def _undeclared(self, kind: str, name: str, known: Mapping[str, Any]) -> str:
        guess = did_you_mean(name, known)
        if self.source is None:
            return f"there is no {kind} {name!r}; UPSHOT_JOBS_FILE names the file that declares others{guess}"
        return f"{self.source} declares no {kind} {name!r}{guess}"

    def needs_image(self, backend: str) -> bool:
        """Return whether jobs of the backend run in a container."""
        settings = self.backends.get(backend)
        return settings is None or settings.uses != PROCESS

    def apply_defaults(self, options: JobOptions, queue: str) -> JobSpec:
        """
        Complete the options of a step with its queue's defaults and, where there is no default, its limits.

        An option of the step stays as it is, even if it exceeds a limit; `violations` reports that. Mappings
        are merged, and so are mounts, by target.

        Raises:
            KeyError: The queue does not exist.
        """
        config = self.queues[queue]
        values = {**config.limits.unset_values(), **config.defaults, **options}
        for name, option in JOB_OPTIONS.items():
            default, own = config.defaults.get(name), options.get(name)
            if default is None or own is None:
                continue
            if option.kind in (ValueKind.TEXTS, ValueKind.KUBERNETES):
                values[name] = {**default, **own}
            elif option.kind is ValueKind.MOUNTS:
                taken = {mount.target for mount in own}
                values[name] = (*own, *(mount for mount in default if mount.target not in taken))
        return JobSpec(**values)

    def violations(self, spec: JobSpec, queue: str, backend: str | None = None) -> tuple[str, ...]:
        """
        Return what the queue forbids: each violation with its path, the limit, its source, and a remedy.

        Args:
            spec: What the job asks for.
            queue: Name of its queue.
            backend: The backend that it runs on; None means the queue's backend.
        """
        return tuple(f"{path}: {message}" for path, message in self.violations_by_path(spec, queue, backend))

    def violations_by_path(self, spec: JobSpec, queue: str, backend: str | None = None) -> tuple[InputProblem, ...]:
        """Return the same violations, by their dotted path in `with`."""
        if problem := self.check_queue_name(queue):
            return (("queue", problem),)
        config = self.queues[queue]
        settings = self.backends.get(backend or config.backend)
        on_kubernetes = settings is not None and settings.uses == KUBERNETES
        found = violations(spec, config.limits, config.defaults, self._writable, on_kubernetes=on_kubernetes)
        return tuple(map(config.describe, found))

    @property
    def _writable(self) -> tuple[MountRule, ...]:
        """Everything that jobs of any queue can write to."""
        allowed = (rule for config in self.queues.values() for rule in config.limits.of("mounts") if rule.writable)
        given = (
            MountRule(mount.source, writable=True)
            for config in self.queues.values()
            for mount in config.defaults.get("mounts", ())
            if not mount.read_only
        )
        return (*allowed, *given)

    def choice_violations(self, queue: str, backend: str, priority: int) -> tuple[InputProblem, ...]:
        """Return what a queue forbids beyond the spec: another backend than its own, and too high a priority."""
        config = self.queues[queue]
        found = []
        if backend in self.backends and backend != config.backend and backend not in config.limits.backends:
            allowed = join_or({config.backend, *config.limits.backends})
            found.append(Violation("backend", f"its jobs run on {allowed}, not on {backend}", ASK_TO_ALLOW))
        if config.limits.priority is not None and priority > config.limits.priority:
            problem = f"{priority} is more than the limit of {config.limits.priority}"
            found.append(Violation("priority", problem, ASK_TO_RAISE))
        return tuple(map(config.describe, found))

    def with_more_memory(self, spec: JobSpec, growth: MemoryGrowth, queue: str) -> JobSpec | None:
        """Return the spec with more memory for the next attempt; None if the queue allows no more."""
        config = self.queues.get(queue)
        if spec.memory_bytes is None or config is None:
            return None
        limits = (int(spec.memory_bytes * growth.factor), growth.up_to_bytes, config.limits.of("memory_bytes"))
        memory_bytes = min(limit for limit in limits if limit is not None)
        return replace(spec, memory_bytes=memory_bytes) if memory_bytes > spec.memory_bytes else None
