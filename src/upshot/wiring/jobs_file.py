"""Read the operator's file of jobs: backends, queues, and what each queue gives to a job and allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from upshot.automations.parser.diagnostics import Diagnostic, Diagnostics
from upshot.automations.parser.document import Invalid, YamlMapping, YamlSequence, decode, parse_documents
from upshot.automations.parser.model_diagnostics import line_of_path, parse_model
from upshot.backends.catalog import known_backends
from upshot.errors import ConfigError
from upshot.schema.jobs_file_inputs import BackendInputs, JobsFileInputs, QueueInputs
from upshot.schema.queue_limits import QueueLimits
from upshot.schema.queues import (
    DEFAULT_PER_MACHINE,
    DOCKER,
    BackendSettings,
    JobsConfig,
    QueueConfig,
)
from upshot.schema.yaml_model import is_template
from upshot.settings import Settings
from upshot.suggestions import did_you_mean
from upshot.validation import describe_value

FILE_NAME = "jobs.yaml"  #: in the data directory; used if the settings name no other file
EVENTS_QUEUE = "events"  #: a worker that takes this queue answers events; no queue of jobs can have the name


def find_jobs_file(settings: Settings) -> Path | None:
    """Return the file that the settings name, or the file in the data directory if it exists."""
    if settings.jobs_file is not None:
        return settings.jobs_file
    default = settings.data / FILE_NAME
    return default if default.exists() else None


def read_jobs_config(settings: Settings) -> JobsConfig:
    """
    Return all queues and backends of this installation.

    Raises:
        ConfigError: The operator's file does not exist, or it is invalid. The message lists every mistake.
    """
    path = find_jobs_file(settings)
    if path is None:
        return JobsConfig()
    config, errors = load_jobs_config(path)
    if errors:
        raise ConfigError("\n".join(map(str, errors)))
    return config


def load_jobs_config(path: Path) -> tuple[JobsConfig, tuple[Diagnostic, ...]]:
    """Return what a file declares, and all mistakes in it. If there are mistakes, do not run jobs with it."""
    diagnostics = Diagnostics(path.as_posix())
    mapping = _read_mapping(path, diagnostics)
    if mapping is None:
        return JobsConfig(), diagnostics.errors
    for dotted, line in _templates(mapping.get("queues"), ("queues",), mapping.line):  # backends can have templates
        diagnostics.add(line, f"{dotted}: only automations can contain templates; write the value itself")
    inputs = parse_model(JobsFileInputs, mapping, diagnostics) or JobsFileInputs()
    backends = {DOCKER: BackendSettings(DOCKER), **_backends(mapping, diagnostics)}
    config = JobsConfig(inputs.machine.parallel, backends, source=diagnostics.path)
    # Each queue is validated on its own, so that a mistake in one queue does not hide the mistakes in others.
    if queues := dict(_queues(mapping, config, diagnostics)):
        config = replace(config, queues=queues)
    return config, diagnostics.errors


def _read_mapping(path: Path, diagnostics: Diagnostics) -> YamlMapping | None:
    try:
        text = decode(path.read_bytes(), diagnostics.add)
    except FileNotFoundError:
        diagnostics.add(None, "the file does not exist; UPSHOT_JOBS_FILE names the operator's file of jobs")
        return None
    except OSError as error:
        diagnostics.add(None, f"the file cannot be read: {error}")
        return None
    documents = [] if text is None else parse_documents(text, diagnostics.add)
    if diagnostics.count:
        return None
    if len(documents) == 1 and isinstance(documents[0].value, YamlMapping):
        return documents[0].value
    found = (
        f"{len(documents)} documents"
        if len(documents) > 1
        else describe_value(documents[0].value if documents else None)
    )
    line = documents[-1].line if documents else None
    diagnostics.add(line, f"the file must be one mapping with `machine`, `backends` and `queues`, not {found}")
    return None


def _templates(value: Any, path: tuple[str, ...], line: int) -> Iterator[tuple[str, int]]:
    """Yield the dotted path and the line of each template."""
    if isinstance(value, YamlMapping):
        for key, member in value.items():
            yield from _templates(member, (*path, key), value.value_lines[key])
    elif isinstance(value, YamlSequence):
        for index, member in enumerate(value):
            yield from _templates(member, (*path, str(index)), value.lines[index])
    elif is_template(value) and not isinstance(value, Invalid):
        yield ".".join(path), line


def _members(mapping: YamlMapping, key: str, diagnostics: Diagnostics) -> Iterator[tuple[str, YamlMapping, int]]:
    """Yield the name, the settings and the line of each queue or backend."""
    holder = mapping.get(key)
    if not isinstance(holder, YamlMapping):
        return  # it does not exist, or the mistake is reported already
    for name, settings in holder.items():
        line = holder.key_lines[name]
        if settings is None:
            yield name, YamlMapping(line), line
        elif isinstance(settings, YamlMapping):
            yield name, settings, line
        elif not isinstance(settings, Invalid):
            diagnostics.add(line, f"{key}.{name}: must be a mapping, not {describe_value(settings)}")


def _backends(mapping: YamlMapping, diagnostics: Diagnostics) -> dict[str, BackendSettings]:
    known = known_backends()
    backends = {}
    for name, settings, line in _members(mapping, "backends", diagnostics):
        inputs = parse_model(BackendInputs, settings, diagnostics, line=line, root=f"backends.{name}")
        uses = (inputs and inputs.uses) or name
        if uses not in known and inputs is not None:
            line_of_uses = line_of_path(settings, ("uses",), line)
            problem = f"unknown backend {uses!r}" if inputs.uses else f"`uses` is required: {name!r} is not a backend"
            diagnostics.add(line_of_uses, f"backends.{name}: {problem}{did_you_mean(uses, known)}")
        options = {key: value for key, value in settings.items() if key != "uses"}
        backends[name] = BackendSettings(uses, orjson.loads(orjson.dumps(options)), f"{diagnostics.path}:{line}")
    return backends


def _queues(mapping: YamlMapping, config: JobsConfig, diagnostics: Diagnostics) -> Iterator[tuple[str, QueueConfig]]:
    for name, settings, line in _members(mapping, "queues", diagnostics):
        root = f"queues.{name}"
        if name == EVENTS_QUEUE:
            diagnostics.add(line, f"{root}: `{EVENTS_QUEUE}` is reserved for answering events; choose another name")
        inputs = parse_model(QueueInputs, settings, diagnostics, line=line, root=root)
        if inputs is None:
            # Nothing is forbidden, so that automations that use the queue are not reported as well.
            yield name, QueueConfig(name, limits=QueueLimits.without_restrictions())
            continue
        queue = QueueConfig(
            name=name,
            concurrency=inputs.concurrency,
            per_machine=inputs.per_machine or (None if inputs.concurrency else DEFAULT_PER_MACHINE),
            backend=inputs.backend,
            defaults=inputs.defaults.options(rendered=True),
            priority=inputs.defaults.priority or 0,
            limits=inputs.limits.limits(),
            description=inputs.description,
            source=f"{diagnostics.path}:{line_of_path(settings, ('limits',), line)}",
        )
        for dotted, problem in _contradictions(queue, config):
            diagnostics.add(line_of_path(settings, tuple(dotted.split(".")), line), f"{root}.{dotted}: {problem}")
        yield name, queue


def _contradictions(queue: QueueConfig, config: JobsConfig) -> Iterator[tuple[str, str]]:
    """Yield the path and the problem of unknown backends, and of defaults that exceed the queue's own limits."""
    paths = [("backend", queue.backend), *(("limits.backends", backend) for backend in queue.limits.backends)]
    for path, backend in paths:
        if problem := config.check_backend_name(backend):
            yield path, problem
    alone = replace(config, queues={queue.name: queue})
    violations = (
        *alone.violations_by_path(alone.apply_defaults({}, queue.name), queue.name),
        *alone.choice_violations(queue.name, queue.backend, queue.priority),
    )
    for path, problem in violations:
        if path != "user" or "user" in queue.defaults:  # otherwise a step can still name a user
            yield f"defaults.{path}", problem.partition(" (")[0]
